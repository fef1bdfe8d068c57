"""What a person may set on a connection, checked before it is stored: a wrong value is refused, never ignored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network
from types import MappingProxyType
from urllib.parse import urlsplit

from eventsync.domain.errors import Misconfigured
from eventsync.domain.sync_settings import OFF, ON, zone_of
from eventsync.vendorkit.vendor import VendorLimits

_MOST_CALLS = 1_000_000
_MOST_DAYS = 730
_UNLIMITED = "unlimited"


def call_limits(settings: Mapping[str, str], vendor_limits: VendorLimits) -> VendorLimits:
    """Tell what the connection's account allows: its own settings go before the vendor's limits."""
    per_minute, per_day = settings.get("calls_per_minute"), settings.get("calls_per_day")
    return VendorLimits(
        calls_per_minute=vendor_limits.calls_per_minute if per_minute is None else int(per_minute),
        calls_per_day=vendor_limits.calls_per_day if per_day is None else _per_day(per_day),
    )


def settings_checked(settings: Mapping[str, str]) -> dict[str, str]:
    """Answer the settings. Raises Misconfigured for a name that there is not, and for a value that cannot be."""
    for name, value in settings.items():
        check = _CHECKS.get(name)
        if check is None:
            raise Misconfigured(f"a connection has no such setting: there are {', '.join(sorted(_CHECKS))}")
        check(name, value)
    return dict(settings)


def timezone_checked(name: str) -> str:
    """Answer the name of a time zone. Raises Misconfigured where the system's database has none of that name."""
    zone_of(name)
    return name


def networks_checked(networks: Sequence[str]) -> list[str]:
    """Answer address ranges in CIDR form. Raises Misconfigured for what is none, or has bits set behind its mask."""
    try:
        return [str(ip_network(network.strip())) for network in networks]
    except ValueError:
        raise Misconfigured(
            "an allowed network is not an address or a range such as 203.0.113.0/24 or 2001:db8::/32"
        ) from None


def api_key_checked(api_key: str) -> str:
    """Answer the key without what was pasted around it. Raises Misconfigured for what no HTTP header can carry."""
    key = api_key.strip()
    if not (key.isascii() and key.isprintable()):
        raise Misconfigured("the API key has characters that no key has: copy it anew from the vendor's page")
    return key


def base_url_checked(url: str) -> str:
    """Answer the URL without its last slash. Raises Misconfigured unless it is http(s) with a host and no more."""
    try:
        parts = urlsplit(url.strip())
        is_plain = bool(parts.hostname) and not (parts.query or parts.fragment or parts.username or parts.password)
        is_usable = parts.scheme in ("http", "https") and is_plain and (parts.port is None or parts.port > 0)
    except ValueError:  # brackets that do not close, a port that is no number
        is_usable = False
    if not is_usable:
        raise Misconfigured("the base URL is not one: give it as https://host/path, without query or credentials")
    return url.strip().rstrip("/")


def _require_number(name: str, value: str, most: int) -> None:
    if not (value.isascii() and value.isdecimal() and len(value) <= 7 and 1 <= int(value) <= most):
        raise Misconfigured(f"{name} is not a whole number from 1 to {most:,}")


def _require_count(name: str, value: str) -> None:
    _require_number(name, value, _MOST_CALLS)


def _require_days(name: str, value: str) -> None:
    _require_number(name, value, _MOST_DAYS)


def _require_count_or_unlimited(name: str, value: str) -> None:
    if value != _UNLIMITED:
        _require_count(name, value)


def _require_switch(name: str, value: str) -> None:
    if value not in (ON, OFF):
        raise Misconfigured(f"{name} is neither {ON} nor {OFF}")


def _require_schedule(name: str, value: str) -> None:
    if value == OFF:
        return
    from eventsync.domain.daily_schedule import DailySchedule  # noqa: PLC0415  # whoever changes this, and no other

    try:
        DailySchedule.parse(value, zone_of("UTC"))
    except Misconfigured as error:
        raise Misconfigured(f'{name}: {error}, or "{OFF}"') from None


def _per_day(value: str) -> int | None:
    return None if value == _UNLIMITED else int(value)


_CHECKS: Mapping[str, Callable[[str, str], None]] = MappingProxyType(
    {
        "calls_per_minute": _require_count,
        "calls_per_day": _require_count_or_unlimited,
        "daily_schedule": _require_schedule,
        "sweeps": _require_switch,
        "days_back": _require_days,
        "days_ahead": _require_days,
    }
)
