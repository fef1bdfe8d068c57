"""What the sandbox did to each record, and what became of the webhook that told of it: the truth of a drift report."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from eventsync.sandbox.fate import Delivery, Fate
from eventsync.sandbox.vendor import RecordChange, Webhook

RecordKey: TypeAlias = tuple[str, str]  # kind and id


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One change of one record: when (sandbox's time), by which action, and the webhook that it owed, if any."""

    number: int
    at_ms: int
    action: str
    kind: str  # one of the vendor's truth kinds
    record_id: str
    modified_ms: int  # the record's time of change as its API tells it
    event: str | None = None  # the webhook's name; None for a change that none announces
    delivery: Delivery | None = None

    @property
    def key(self) -> RecordKey:
        """Which record."""
        return self.kind, self.record_id

    @property
    def is_silent(self) -> bool:
        """Whether no webhook announces it."""
        return self.delivery is None

    @property
    def is_heard(self) -> bool:
        """Whether some copy of its webhook was answered 2xx."""
        return self.delivery is not None and self.delivery.fate is Fate.SENT

    def as_json(self) -> dict[str, Any]:
        """As a JSON object; `fate` is "silent" or one of Fate."""
        delivery = self.delivery
        return {
            "number": self.number,
            "at_ms": self.at_ms,
            "action": self.action,
            "kind": self.kind,
            "id": self.record_id,
            "modified_ms": self.modified_ms,
            "event": self.event,
            "fate": "silent" if delivery is None else delivery.fate.value,
            "copies": 0 if delivery is None else delivery.copies,
            "delayed": delivery is not None and delivery.is_delayed,
            "overtaken": delivery is not None and delivery.is_overtaken,
            "answers": [] if delivery is None else list(delivery.answers),
        }


class Ledger:
    """The changes since the sandbox's start in order; at most `limit` of them, then the oldest are forgotten."""

    def __init__(self, limit: int) -> None:
        self._entries: deque[LedgerEntry] = deque(maxlen=limit)
        self._written = 0
        self._cleared = 0  # entries before this number were forgotten on purpose

    def write(
        self,
        action: str,
        at_ms: int,
        changes: Iterable[RecordChange],
        webhooks: Sequence[tuple[Webhook, Delivery]],
    ) -> None:
        """Note what one action changed; each webhook belongs to the last change of its record."""
        owed: dict[RecordKey, list[tuple[Webhook, Delivery]]] = {}
        for webhook, delivery in webhooks:
            owed.setdefault((webhook.kind, webhook.record_id), []).append((webhook, delivery))
        noted: list[tuple[RecordChange, tuple[Webhook, Delivery] | None]] = []
        for change in reversed([*changes]):
            of_record = owed.get((change.kind, change.record_id))
            noted.append((change, of_record.pop() if of_record else None))
        for change, told in reversed(noted):
            event, delivery_of = (None, None) if told is None else (told[0].event, told[1])
            number, self._written = self._written, self._written + 1
            self._entries.append(
                LedgerEntry(
                    number, at_ms, action, change.kind, change.record_id, change.modified_ms, event, delivery_of
                )
            )

    def mark(self) -> int:
        """The number that the next entry will have: give it as `since` to see only what comes."""
        return self._written

    def clear(self) -> None:
        """Forget all entries; numbers go on."""
        self._entries.clear()
        self._cleared = self._written

    def entries(self, since: int = 0, kind: str | None = None) -> list[LedgerEntry]:
        """The entries from that number on, in order.

        Raises LookupError when some of them were forgotten because there were more than the limit.
        """
        oldest = self._entries[0].number if self._entries else self._written
        if max(since, self._cleared) < oldest:
            raise LookupError(f"entries before {oldest} are forgotten; ask since a later mark or raise ledger_limit")
        return [entry for entry in self._entries if entry.number >= since and kind in (None, entry.kind)]

    def latest(self, since: int = 0, kind: str | None = None) -> dict[RecordKey, LedgerEntry]:
        """The last change of each record."""
        return {entry.key: entry for entry in self.entries(since, kind)}

    def unheard(self, since: int = 0, kind: str | None = None) -> dict[RecordKey, list[LedgerEntry]]:
        """By record, its changes after the last one whose webhook was answered 2xx; records without any are left out.

        A webhook shows its whole record (or makes it be read), so it makes good what was not heard before it.
        """
        found: dict[RecordKey, list[LedgerEntry]] = {}
        for entry in self.entries(since, kind):
            if entry.is_heard:
                found.pop(entry.key, None)
            else:
                found.setdefault(entry.key, []).append(entry)
        return found

    def lost(self, since: int = 0, kind: str | None = None) -> set[str]:
        """The ids of the records whose last announced change was not heard."""
        unheard = self.unheard(since, kind)
        return {record_id for (_, record_id), entries in unheard.items() if any(not e.is_silent for e in entries)}

    def silent(self, since: int = 0, kind: str | None = None) -> set[str]:
        """The ids of the records that differ from what was heard by silent changes only."""
        unheard = self.unheard(since, kind)
        return {record_id for (_, record_id), entries in unheard.items() if all(e.is_silent for e in entries)}
