"""How IntakeQ writes times and numbers: .NET round-trip text with seven digits, and Unix milliseconds."""

from datetime import UTC, datetime, timedelta, tzinfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc(ms: int) -> datetime:
    """Unix milliseconds as an aware time."""
    return _EPOCH + timedelta(milliseconds=ms)


def to_ms(moment: datetime) -> int:
    """An aware time as Unix milliseconds."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def iso_utc(ms: int) -> str:
    """`2025-08-04T18:00:00.0000000Z`."""
    return utc(ms).replace(tzinfo=None).isoformat(timespec="microseconds") + "0Z"


def iso_local(local: datetime) -> str:
    """`2025-08-04T14:00:00.0000000`: naive, in the practice's time zone."""
    return local.replace(tzinfo=None).isoformat(timespec="microseconds") + "0"


def spoken_local(local: datetime) -> str:
    """`8/4/2025 at 02:00:00 PM`; written out, since strftime's AM and PM follow the process's locale."""
    half = "PM" if local.hour >= 12 else "AM"
    clock = f"{(local.hour + 11) % 12 + 1:02d}:{local.minute:02d}:{local.second:02d}"
    return f"{local.month}/{local.day}/{local.year} at {clock} {half}"


def in_zone(ms: int, zone: tzinfo) -> datetime:
    """Unix milliseconds as the practice's local time."""
    return utc(ms).astimezone(zone)
