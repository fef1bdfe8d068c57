"""A vendor's latest changes by number: lists follow them record by record, and the ledger tells them."""

from collections import deque
from itertools import islice

from eventsync.sandbox.vendor import RecordChange

KEPT = 50_000  # also more than any one action may change


class ChangeFeed:
    """The last changes; one that is too old, or that was made past the feed, makes followers begin anew."""

    def __init__(self) -> None:
        self._kept: deque[RecordChange] = deque(maxlen=KEPT)

    def add(self, change: RecordChange) -> None:
        """Note one more change."""
        self._kept.append(change)

    def between(self, revision: int, latest: int) -> list[RecordChange] | None:
        """The changes after `revision` up to `latest`, in order; None when some of them are not known."""
        count = latest - revision
        if count > len(self._kept):
            return None
        newest = [*islice(reversed(self._kept), count)][::-1]
        if newest and (newest[0].revision, newest[-1].revision) != (revision + 1, latest):
            return None
        return newest
