"""What a person gives to connect an account, or changes of it: the options of `connections add` and `update`, read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from eventsync.domain.connections import HmacCheck, OrganizationId, SignatureEncoding
from eventsync.postgres.connection_signatures import HmacChange
from eventsync.postgres.tenants import ConnectionChanges, NewConnection
from eventsync.vendorkit.vendor import SignatureForm
from eventsync.vendors import load_vendors

Command = Callable[..., Any]

_FROM_INPUT = "-"

_SIGNATURE_OPTIONS: tuple[Callable[[Command], Command], ...] = (
    click.option(
        "--hmac-secret",
        "hmac_secrets",
        multiple=True,
        help="Webhooks must be signed with it (HMAC-SHA256), by the vendor or by a signing gateway in front; again for"
        " a second secret. `-` reads it from the next line of the standard input.",
    ),
    click.option(
        "--hmac-header",
        help="The header that carries the signature; unset, as it was, or the vendor's own where it signs.",
    ),
    click.option(
        "--hmac-encoding",
        type=click.Choice([encoding.value for encoding in SignatureEncoding]),
        help="How the signature is written; unset, as it was, or hex.",
    ),
    click.option(
        "--hmac-prefix",
        help="What stands before the signature, such as sha256=; unset, as it was, or the vendor's own, or nothing.",
    ),
)

_OPTIONS: tuple[Callable[[Command], Command], ...] = (
    click.argument("vendor"),
    click.option("--org", required=True, help="The organization that owns the account (id, external id or number)."),
    click.option(
        "--api-key",
        envvar="EVENTSYNC_API_KEY",
        show_envvar=True,
        help="The account's API key; `-` reads it from the standard input.",
    ),
    click.option("--base-url", help="The vendor's API, where it is not the vendor's own address, as for a sandbox."),
    click.option("--practice-id", help="The account's id in the vendor's webhooks; others are then parked."),
    click.option("--timezone", default="UTC", show_default=True, help="The practice's time zone, as Europe/Berlin."),
    *_SIGNATURE_OPTIONS,
    click.option(
        "--allow-network",
        "allowed_networks",
        multiple=True,
        metavar="CIDR",
        help="Webhooks come from these addresses only; may be repeated.",
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="A setting of the connection: calls_per_minute, calls_per_day (a number, or `unlimited`),"
        " daily_schedule (when all of it is read, as cron writes it on the clock of --timezone; `0 3 * * *` unless set,"
        " or `off`), sweeps (`on` or `off`: what changed is read between the daily runs), days_back and days_ahead"
        " (how far appointments are read, 90 each unless set).",
    ),
)


_CHANGES: tuple[Callable[[Command], Command], ...] = (
    click.option("--api-key", help="The account's new API key; `-` asks for it, or reads it from the standard input."),
    click.option("--base-url", help="The vendor's API."),
    click.option("--practice-id", help="The account's id in the vendor's webhooks; '' takes the check away."),
    click.option("--timezone", help="The practice's time zone, as Europe/Berlin."),
    *_SIGNATURE_OPTIONS,
    click.option("--no-hmac", is_flag=True, help="Webhooks need no signature any more: their URL is enough."),
    click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting, as for `add`."),
)


@dataclass(frozen=True, slots=True)
class AskedConnection:
    """The options, read: what to connect, and whose it is (`org` as the person named it)."""

    org: str
    vendor: str
    api_key: str = field(repr=False)
    base_url: str | None
    practice_id: str | None
    timezone: str
    hmac: HmacCheck | None
    allowed_networks: tuple[str, ...]
    settings: Mapping[str, str]

    def for_organization(self, organization_id: OrganizationId) -> NewConnection:
        """Make what the database takes, now that the organization is known."""
        return NewConnection(
            organization_id=organization_id,
            vendor=self.vendor,
            api_key=self.api_key,
            base_url=self.base_url,
            practice_id=self.practice_id,
            timezone=self.timezone,
            hmac=self.hmac,
            allowed_networks=self.allowed_networks,
            settings=self.settings,
        )


def connection_options(command: Command) -> Command:
    """Give a command the options of a connection; they arrive as keyword arguments for `new_connection`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def change_options(command: Command) -> Command:
    """Give a command the options of a change; they arrive as keyword arguments for `changed_connection`."""
    for option in reversed(_CHANGES):
        command = option(command)
    return command


def changed_connection(given: Mapping[str, Any]) -> ConnectionChanges:
    """Read the options of a change. Raises click.UsageError where there is nothing to change."""
    if not any(value not in (None, (), False) for value in given.values()):
        raise click.UsageError("say what is to be changed, such as --api-key - or --practice-id")
    api_key = None if given["api_key"] is None else _api_key(given["api_key"])
    hmac = _hmac_change(given)  # after the key: so stand their lines in the standard input
    if given["no_hmac"] and hmac is not None:
        raise click.UsageError("--no-hmac takes the signature away: give it without any other --hmac- option")
    return ConnectionChanges(
        api_key=api_key,
        base_url=given["base_url"],
        practice_id=given["practice_id"],
        timezone=given["timezone"],
        hmac=hmac,
        removes_hmac=given["no_hmac"],
        settings=_settings(given["settings"]),
    )


def new_connection(given: Mapping[str, Any]) -> AskedConnection:
    """Read the options, asking for the API key where need be. Raises click.UsageError, Misconfigured."""
    vendor = given["vendor"].strip().lower()
    api_key = _api_key(given["api_key"])
    hmac = _hmac_change(given)  # after the key: so stand their lines in the standard input
    return AskedConnection(
        org=given["org"],
        vendor=vendor,
        hmac=None if hmac is None else hmac.applied_to(None, _signature_of(vendor)),
        settings=_settings(given["settings"]),
        api_key=api_key,
        base_url=given["base_url"],
        practice_id=given["practice_id"],
        timezone=given["timezone"],
        allowed_networks=tuple(given["allowed_networks"]),
    )


def _hmac_change(given: Mapping[str, Any]) -> HmacChange | None:
    """Read what is said of the signature, with secrets given as `-` from the standard input; None for nothing."""
    encoding = given["hmac_encoding"]
    change = HmacChange(
        secrets=tuple(_secret(text, "Webhook secret") for text in given["hmac_secrets"]) or None,
        header=given["hmac_header"],
        encoding=None if encoding is None else SignatureEncoding(encoding),
        prefix=given["hmac_prefix"],
    )
    return None if change == HmacChange() else change


def _signature_of(vendor: str) -> SignatureForm | None:
    """Find how the vendor signs its webhooks; a name that no vendor has is found out when the connection is made."""
    found = load_vendors().get(vendor)
    return None if found is None else found.webhook_signature


def _settings(texts: Sequence[str]) -> Mapping[str, str]:
    settings = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise click.UsageError("write --set as NAME=VALUE, for example --set calls_per_day=2000")
        settings[name] = value
    return settings


def _api_key(given: str | None) -> str:
    if given is None and sys.stdin.isatty():
        given = _FROM_INPUT
    key = _secret(given or "", "API key").strip()
    if not key:
        raise click.UsageError("no API key: give --api-key, EVENTSYNC_API_KEY, or `--api-key -` with the key as input")
    return key


def _secret(given: str, name: str) -> str:
    """Answer a secret as given; for `-`, ask for it, or take the next line of the standard input."""
    if given != _FROM_INPUT:
        return given
    if sys.stdin.isatty():
        return str(click.prompt(name, hide_input=True, err=True))
    return sys.stdin.readline().strip()
