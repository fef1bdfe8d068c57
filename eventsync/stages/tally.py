"""What a run has met so far: each appointment counted once, whichever of the run's lists told of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Self

from eventsync.domain.changes import Absence, Authority, Delete, RecordChange, Upsert
from eventsync.domain.events import Outcome
from eventsync.domain.merging import Merged
from eventsync.domain.records import RecordKind
from eventsync.domain.runs import RunCounts
from eventsync.postgres.coverage import FoundBefore
from eventsync.vendorkit.listing import RejectedRow

_MOST_ERRORS = 10


class Finding(IntEnum):
    """How a run found an appointment; where several lists tell of it, the greatest counts."""

    UNCHANGED = 1
    UPDATED = 2
    NEW = 3


@dataclass(frozen=True, slots=True)
class Written:
    """What one page of records of a `kind`, or one row of it, did to them, and which rows could not be written."""

    results: Sequence[tuple[RecordChange, Merged]] = ()
    rejected: Sequence[RejectedRow] = ()
    kind: RecordKind = RecordKind.APPOINTMENT

    def appointments(self) -> Iterable[tuple[str, Finding]]:
        """Name the appointments that people see, and how they were found."""
        for change, merged in self.results:
            finding = _finding(change, merged)
            if finding is not None:
                yield change.entity.external_id, finding


@dataclass(slots=True)
class Tally:
    """The run's figures. `listed` are the ids that lists of what is there have told, by kind."""

    counts: RunCounts = field(default_factory=RunCounts)  # begins with those of the run's earlier attempts
    found: dict[str, Finding] = field(default_factory=dict)
    rejected: set[str] = field(default_factory=set)
    rejected_without_id: int = 0
    new_patients: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    listed: dict[RecordKind, set[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @classmethod
    def resumed(cls, counts: RunCounts, found: Iterable[FoundBefore]) -> Self:
        """Go on with what earlier workers of the same run have counted, so that nothing is counted twice."""
        entries = {entry.external_id: entry for entry in found}
        known = {external_id: _found_before(entry) for external_id, entry in entries.items()}
        unchanged = sum(finding is Finding.UNCHANGED for finding in known.values())
        deleted = {external_id for external_id, entry in entries.items() if entry.is_gone and not entry.is_new}
        return cls(replace(counts, appointments_unchanged=unchanged), found=known, deleted=deleted)

    def counts_with(self, written: Written) -> RunCounts:
        """Tell the counts as they will be once `written` is committed."""
        counts, found = self.counts, dict[str, Finding]()
        for external_id, finding in written.appointments():
            before = found.get(external_id, self.found.get(external_id))
            counts = _moved(counts, before, finding)
            found[external_id] = finding if before is None else max(before, finding)
        if written.kind is not RecordKind.APPOINTMENT:
            return counts
        nameless = sum(row.external_id is None for row in written.rejected)
        fresh = {row.external_id for row in written.rejected if row.external_id is not None} - self.rejected
        return replace(counts, appointments_errors=counts.appointments_errors + len(fresh) + nameless)

    def add(self, written: Written) -> None:
        """Take in what was committed."""
        self.counts = self.counts_with(written)
        for external_id, finding in written.appointments():
            self.found[external_id] = max(finding, self.found.get(external_id, finding))
        for change, merged in written.results:
            self._note(change, merged)
        for row in written.rejected:
            if row.external_id is None:
                self.rejected_without_id += 1
            if row.external_id is None or row.external_id not in self.rejected:
                self.error(f"a row of the {written.kind.value}s was not kept ({row.reason})")
            if row.external_id is not None:
                self.rejected.add(row.external_id)

    def error(self, text: str) -> None:
        """Keep one of the first errors, which holds nothing personal."""
        if len(self.errors) < _MOST_ERRORS:
            self.errors.append(text)

    def ids(self, finding: Finding) -> list[str]:
        """Name the appointments that were found so."""
        return [external_id for external_id, found in self.found.items() if found is finding]

    def _note(self, change: RecordChange, merged: Merged) -> None:
        entity = change.entity
        if isinstance(change, Upsert) and change.version.authority is Authority.RECORD:
            self.listed.setdefault(entity.kind, set()).add(entity.external_id)
        if merged.outcome is not Outcome.APPLIED:
            return
        if entity.kind is RecordKind.PATIENT and merged.is_new and isinstance(change, Upsert):
            self.new_patients.add(entity.external_id)
        if entity.kind is RecordKind.APPOINTMENT and _ends(change) and not merged.is_new:
            self.deleted.add(entity.external_id)


def surprises(results: Iterable[tuple[RecordChange, Merged]]) -> Iterable[tuple[RecordChange, Merged]]:
    """Name the records of which the copy was wrong: a reader sees them otherwise since. What came and went is none."""
    for change, merged in results:
        is_mention = isinstance(change, Upsert) and change.version.authority is Authority.MENTION
        if merged.outcome is Outcome.APPLIED and not is_mention and not (merged.is_new and _ends(change)):
            yield change, merged


def _finding(change: RecordChange, merged: Merged) -> Finding | None:
    if change.entity.kind is not RecordKind.APPOINTMENT:
        return None
    if merged.outcome is not Outcome.APPLIED:
        return None if _ends(change) else Finding.UNCHANGED
    if merged.is_new:
        return None if _ends(change) else Finding.NEW
    return Finding.UPDATED


def _found_before(entry: FoundBefore) -> Finding:
    if not entry.is_changed:
        return Finding.UNCHANGED
    return Finding.NEW if entry.is_new else Finding.UPDATED


def _ends(change: RecordChange) -> bool:
    return isinstance(change, (Delete, Absence))


def _moved(counts: RunCounts, before: Finding | None, after: Finding) -> RunCounts:
    if before is not None and before >= after:
        return counts
    counts = counts + _one(after)
    return counts if before is None else counts + _one(before, -1)


def _one(finding: Finding, by: int = 1) -> RunCounts:
    match finding:
        case Finding.NEW:
            return RunCounts(appointments_new=by)
        case Finding.UPDATED:
            return RunCounts(appointments_updated=by)
        case Finding.UNCHANGED:
            return RunCounts(appointments_unchanged=by)
