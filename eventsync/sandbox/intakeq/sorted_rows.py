"""Lists kept in order while their records change, so that a page costs no sort of the whole practice."""

from bisect import bisect_left
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from eventsync.sandbox.vendor import RecordChange

_MOST_LISTS = 8


class Record(Protocol):
    """What is listed: it has an id, and is replaced as a whole when it changes."""

    @property
    def id(self) -> Any:
        """The key in the practice's records."""


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Source(Generic[R]):
    """Records of one kind by id, and their order: `order` must differ between any two records."""

    kind: str
    records: Mapping[Any, R]
    order: Callable[[R], Any]
    to_key: Callable[[str], Any] = str  # from a change's record id to the key in `records`


class SortedRows(Generic[R]):
    """The records of a source that fit, in ascending order."""

    def __init__(self, source: Source[R], fits: Callable[[R], bool]) -> None:
        self._source = source
        self._fits = fits
        self.rows: list[R] = []
        self._orders: list[Any] = []
        self._order_of: dict[Any, Any] = {}
        self.fill()

    def fill(self) -> None:
        """Read the whole source."""
        order = self._source.order
        self.rows = sorted(filter(self._fits, self._source.records.values()), key=order)
        self._orders = [order(row) for row in self.rows]
        self._order_of = {row.id: place for row, place in zip(self.rows, self._orders, strict=True)}

    def follow(self, changes: Sequence[RecordChange]) -> None:
        """Bring each changed record up to its present state."""
        for key in {self._source.to_key(change.record_id) for change in changes if change.kind == self._source.kind}:
            self._remove(key)
            record = self._source.records.get(key)
            if record is not None and self._fits(record):
                self._insert(record)

    def _remove(self, key: Any) -> None:
        order = self._order_of.pop(key, None)
        if order is not None:
            place = bisect_left(self._orders, order)
            del self._orders[place], self.rows[place]

    def _insert(self, record: R) -> None:
        order = self._source.order(record)
        place = bisect_left(self._orders, order)
        self._orders.insert(place, order)
        self.rows.insert(place, record)
        self._order_of[record.id] = order


class ListingCache:
    """The lists asked for last, each with the revision that it shows."""

    def __init__(self, changes_between: Callable[[int, int], Sequence[RecordChange] | None]) -> None:
        self._changes_between = changes_between
        self._lists: dict[Hashable, tuple[int, SortedRows[Any]]] = {}

    def get(self, revision: int, key: Hashable, make: Callable[[], SortedRows[R]]) -> list[R]:
        """The rows of the list of that key as they are at `revision`."""
        shown, found = self._lists.pop(key, (revision, None))
        rows = make() if found is None else found
        if shown != revision:
            changes = self._changes_between(shown, revision)
            if changes is None:
                rows.fill()
            else:
                rows.follow(changes)
        self._lists[key] = (revision, rows)  # now the youngest
        if len(self._lists) > _MOST_LISTS:
            del self._lists[next(iter(self._lists))]
        return rows.rows
