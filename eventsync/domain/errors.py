"""What went wrong, told as what to do next: never again, later, or fix the configuration."""

from __future__ import annotations


class EventsyncError(Exception):
    """Base of every error that eventsync raises on purpose."""


class Rejected(EventsyncError):
    """The input itself is wrong, so trying again cannot help.

    `reason` is a short machine-readable word: the parked event's reason and a metric's label.
    The message never holds a value of the input, since inputs are patients' data.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Transient(EventsyncError):
    """A neighbour could not serve us now; the same call may succeed later.

    `retry_after_s` is the neighbour's own wish in seconds, None where it said nothing.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Misconfigured(EventsyncError):
    """A setting, credential or installation must be changed by a person; the message says which and how."""
