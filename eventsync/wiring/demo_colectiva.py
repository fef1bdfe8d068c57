"""The demo's pretend Colectiva: when there may be one, and the secret with which it signs its webhooks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import SystemRandom

from eventsync.crypto import new_token
from eventsync.domain.connections import ConnectionId, HmacCheck
from eventsync.postgres.invented_organizations import InventedOrganizations
from eventsync.postgres.registries import find_registry
from eventsync.postgres.tenants import ConnectionSummary, Organization
from eventsync.postgres.webhook_tokens import WebhookTokens
from eventsync.sandbox import SandboxOptions, Signing, serve
from eventsync.wiring.demo_registrations import DemoRegistrations
from eventsync.wiring.demo_vendor import DemoVendor, connect, find_connection
from eventsync.wiring.process import Process

_VENDOR = "colectiva"
_API_KEY = "sandbox-colectiva-key"  # opens invented data only; not the practice's, since a key's calls are one budget
_SAVE_EVERY_S = 1.0  # what it was told must not be forgotten when the demo is killed
_YOUR_OWN = (
    "Registrations go to your own Colectiva account or come from your own tables: nothing is invented, and there is no"
    " pretend Colectiva."
)


@dataclass(frozen=True, slots=True)
class PretendColectiva:
    """The pretend Colectiva, or None; `notice` is what a person should know about that."""

    vendor: DemoVendor | None
    notice: str | None = None


@asynccontextmanager
async def open_colectiva(process: Process, owner: Organization, *, port: int) -> AsyncIterator[PretendColectiva]:
    """Run it, unless the registrations are a user's own; what it was told is kept in the data folder.

    It is never mixed with a user's account: what is invented must not be registered there, nor anything real be taken
    for registered because it went here.
    """
    known = await find_connection(process, owner, _VENDOR)
    hindrance = await _hindrance(process, known)
    if hindrance is not None:
        yield PretendColectiva(None, hindrance)
        return
    signature = _new_signature(process) if known is None else await _known_signature(process, known.id)
    options = SandboxOptions(
        vendor=_VENDOR,
        port=port,
        api_key=_API_KEY,
        state_path=process.options.settings.data_dir / "sandbox-colectiva.json",
        save_every_s=_SAVE_EVERY_S,
        signing=None if signature is None else _signing(signature),
    )
    async with serve(options) as running:
        yield PretendColectiva(
            await connect(process, owner, known, running, signature), _notice_of_unused_key(process, known)
        )


def make_registrations(process: Process, connection_id: ConnectionId) -> DemoRegistrations:
    """Make what invents organizations, as long as they go to that connection and come from our own tables."""
    rows = InventedOrganizations(process.database)

    async def may_invent() -> bool:
        return await find_registry(process.database, (_VENDOR,)) == connection_id and await rows.may_be_added()

    return DemoRegistrations(rows, may_invent, SystemRandom())


async def _hindrance(process: Process, known: ConnectionSummary | None) -> str | None:
    """Say why there must be no pretend Colectiva; None where there may be one."""
    if known is not None and known.disabled_at is not None:
        return f"There is no pretend Colectiva, since its connection ({known.number}) was disabled."
    if not await InventedOrganizations(process.database).may_be_added():
        return _YOUR_OWN
    if known is not None:
        return None
    has_key = process.options.settings.colectiva_api_key is not None
    has_account = any(row.vendor == _VENDOR for row in await process.connections.summaries(None))
    return _YOUR_OWN if has_key or has_account else None


def _notice_of_unused_key(process: Process, known: ConnectionSummary | None) -> str | None:
    if known is None or process.options.settings.colectiva_api_key is None:
        return None
    return (
        "COLECTIVA_API_KEY is not used, since registrations go to the pretend Colectiva here. To use your account:"
        f" `eventsync connections disable {known.number}`, then `eventsync connections add {_VENDOR} --org ORG`."
    )


def _new_signature(process: Process) -> HmacCheck | None:
    """Invent a secret, for signatures in the vendor's own form."""
    form = process.vendors[_VENDOR].webhook_signature
    return None if form is None else HmacCheck(form.header, (new_token(),), prefix=form.prefix)


async def _known_signature(process: Process, connection_id: ConnectionId) -> HmacCheck | None:
    """Find what the connection asks of webhooks."""
    verifiers = await WebhookTokens(process.database, process.options.keyring).load_verifiers(process.clock())
    return next((verifier.hmac for verifier in verifiers if verifier.connection_id == connection_id), None)


def _signing(signature: HmacCheck) -> Signing:
    return Signing(secret=signature.secrets[0], header=signature.header, prefix=signature.prefix)
