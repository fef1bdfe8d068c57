"""What a connection's settings say of its syncs: when it is read of itself, and how far its lists reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from eventsync.domain.errors import Misconfigured

DEFAULT_DAILY_SCHEDULE = "0 3 * * *"
DEFAULT_DAYS = 90
ON = "on"
OFF = "off"


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """The settings, with the defaults of what is not set. A `daily_schedule` of None: there is no daily run.

    Lists of appointments reach from `days_back` days before today to `days_ahead` days after it.
    """

    daily_schedule: str | None = DEFAULT_DAILY_SCHEDULE
    has_sweeps: bool = True
    days_back: int = DEFAULT_DAYS
    days_ahead: int = DEFAULT_DAYS

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> SyncSettings:
        """Read a connection's settings. Raises Misconfigured for what was set by hand in the database, and wrongly."""
        schedule = settings.get("daily_schedule", DEFAULT_DAILY_SCHEDULE)
        return cls(
            daily_schedule=None if schedule == OFF else schedule,
            has_sweeps=settings.get("sweeps", ON) != OFF,
            days_back=_days(settings, "days_back"),
            days_ahead=_days(settings, "days_ahead"),
        )


def zone_of(name: str) -> ZoneInfo:
    """Find a time zone. Raises Misconfigured where the system's database has none of that name."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # no such zone; a path out of the database; a folder of zones
        raise Misconfigured("there is no such time zone: give its IANA name, such as Europe/Berlin") from None


def _days(settings: Mapping[str, str], name: str) -> int:
    try:
        return int(settings.get(name, DEFAULT_DAYS))
    except ValueError:
        raise Misconfigured(
            f"the connection's {name} is not a number: set it with `eventsync connections update`"
        ) from None
