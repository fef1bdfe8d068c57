"""What a person gives to connect an account: the options of `eventsync connections add`, read and checked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from eventsync.domain.connections import HmacCheck, OrganizationId, SignatureEncoding
from eventsync.postgres.tenants import ConnectionChanges, NewConnection
from eventsync.vendorkit.vendor import SignatureForm
from eventsync.vendors import load_vendors

Command = Callable[..., Any]

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
    click.option(
        "--hmac-secret",
        "hmac_secrets",
        multiple=True,
        help="Webhooks must be signed with it (HMAC-SHA256), by the vendor or by a signing gateway in front; again for"
        " a second secret.",
    ),
    click.option(
        "--hmac-header", help="The header that carries the signature; unset, the vendor's own where it signs."
    ),
    click.option(
        "--hmac-encoding",
        type=click.Choice([encoding.value for encoding in SignatureEncoding]),
        default=SignatureEncoding.HEX.value,
        show_default=True,
        help="How the signature is written.",
    ),
    click.option(
        "--hmac-prefix",
        help="What stands before the signature, such as sha256=; unset, the vendor's own, or nothing.",
    ),
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
    if not any(value not in (None, ()) for value in given.values()):
        raise click.UsageError("say what is to be changed, such as --api-key - or --practice-id")
    return ConnectionChanges(
        api_key=None if given["api_key"] is None else _api_key(given["api_key"]),
        base_url=given["base_url"],
        practice_id=given["practice_id"],
        timezone=given["timezone"],
        settings=_settings(given["settings"]),
    )


def new_connection(given: Mapping[str, Any]) -> AskedConnection:
    """Read the options, asking for the API key where need be. Raises click.UsageError."""
    vendor = given["vendor"].strip().lower()
    return AskedConnection(
        org=given["org"],
        vendor=vendor,
        hmac=_hmac(given, _signature_of(vendor)),
        settings=_settings(given["settings"]),
        api_key=_api_key(given["api_key"]),
        base_url=given["base_url"],
        practice_id=given["practice_id"],
        timezone=given["timezone"],
        allowed_networks=tuple(given["allowed_networks"]),
    )


def _hmac(given: Mapping[str, Any], vendors_own: SignatureForm | None) -> HmacCheck | None:
    """Read what webhooks must be signed with: the vendor's own form, but for what was given."""
    secrets, header, prefix = tuple(given["hmac_secrets"]), given["hmac_header"], given["hmac_prefix"]
    if vendors_own is not None and secrets:
        header = vendors_own.header if header is None else header
        prefix = vendors_own.prefix if prefix is None else prefix
    if bool(secrets) != bool(header):
        raise click.UsageError("a signature needs both --hmac-secret and --hmac-header")
    if not secrets:
        return None
    if not all(secrets):
        raise click.UsageError("--hmac-secret is empty")
    return HmacCheck(header, secrets, SignatureEncoding(given["hmac_encoding"]), prefix or "")


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
    if given == "-" and not sys.stdin.isatty():
        given = sys.stdin.readline()
    elif given in ("-", None) and sys.stdin.isatty():
        given = str(click.prompt("API key", hide_input=True, err=True))
    key = (given or "").strip()
    if not key:
        raise click.UsageError("no API key: give --api-key, EVENTSYNC_API_KEY, or `--api-key -` with the key as input")
    return key
