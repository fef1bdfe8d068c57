"""Why the spool could not take or give back an entry; the door answers 503 only on these."""

from __future__ import annotations

from eventsync.domain.errors import EventsyncError, Transient


class SpoolFull(Transient):
    """The spool, its lane for unknown tokens, or its disk has no room; what it holds still drains."""


class SpoolUnavailable(Transient):
    """The disk under the spool failed for another reason than being full."""


class SpoolDamaged(EventsyncError):
    """SQLite no longer understands the file. Never leaves this package: the file is moved aside."""


class EntryDamaged(EventsyncError):
    """One entry does not open or is not understood. Never leaves this package: the entry is kept aside.

    `reason` is a short machine-readable word, kept beside the entry.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
