"""What a dry run finds that a run would do to the records: gathered page by page, one line a record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from eventsync.domain.changes import Absence, Delete, RecordChange
from eventsync.domain.events import Outcome
from eventsync.domain.merging import Merged
from eventsync.domain.records import RecordKind


class Effect(StrEnum):
    """What a run would do to a record."""

    NEW = "new"
    UPDATED = "updated"
    DELETED = "deleted"
    REVIVED = "revived"


@dataclass(frozen=True, slots=True)
class ProposedChange:
    """What a run would do to one record; `fields` are the names of those that change, none for a new record."""

    kind: RecordKind
    external_id: str
    effect: Effect
    fields: tuple[str, ...]


class Proposals:
    """The records that a reader would see otherwise."""

    def __init__(self) -> None:
        self._changes: dict[tuple[RecordKind, str], ProposedChange] = {}

    def add(self, results: Iterable[tuple[RecordChange, Merged]]) -> None:
        """Take in what one page would do."""
        for change in _proposed(results):
            key = change.kind, change.external_id
            self._changes[key] = _together(self._changes.get(key), change)

    def in_order(self) -> tuple[ProposedChange, ...]:
        """List them by kind and id."""
        return tuple(self._changes[key] for key in sorted(self._changes))

    def deleted(self, kind: RecordKind) -> set[str]:
        """Name the records of a kind that would be gone."""
        return {
            change.external_id
            for change in self._changes.values()
            if change.kind is kind and change.effect is Effect.DELETED
        }


def _proposed(results: Iterable[tuple[RecordChange, Merged]]) -> Iterable[ProposedChange]:
    """Name the records that change; what came and went unseen is none."""
    for change, merged in results:
        ends = isinstance(change, (Delete, Absence))
        if merged.outcome is Outcome.APPLIED and not (merged.is_new and ends):
            fields = () if merged.is_new else merged.changed_fields
            yield ProposedChange(change.entity.kind, change.entity.external_id, _effect(merged, ends=ends), fields)


def _effect(merged: Merged, *, ends: bool) -> Effect:
    if merged.is_new:
        return Effect.NEW
    if "deleted_at" not in merged.changed_fields:
        return Effect.UPDATED
    return Effect.DELETED if ends else Effect.REVIVED


def _together(before: ProposedChange | None, change: ProposedChange) -> ProposedChange:
    """Put together what two pages would do to one record: its end counts, else what was told first."""
    if before is None:
        return change
    effect = change.effect if change.effect is Effect.DELETED else before.effect
    fields = tuple(sorted({*before.fields, *change.fields}))
    return ProposedChange(change.kind, change.external_id, effect, fields)
