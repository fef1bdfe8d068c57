"""How a change meets what we hold of its record: the one place where the total order is applied.

A record's state is a tuple of maxima (content, extras, latest sighting) and a set (absences): merging is
idempotent, commutative and associative, which the property tests show through the real SQL.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, assert_never

from eventsync.domain.changes import Absence, Authority, Delete, RecordChange, Source, Upsert, Version
from eventsync.domain.events import Outcome
from eventsync.domain.records import Appointment, AppointmentExtras, Content, field_names

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Held(Generic[T]):
    """A group of fields that changes together, with the version that it came from."""

    version: Version
    content: T


@dataclass(frozen=True, slots=True)
class RecordState:
    """All that decides a record's row.

    `seen_ms` is when the latest API read that saw the record alive began (Unix milliseconds, 0 for never).
    """

    core: Held[Content | None] | None = None
    extras: Held[AppointmentExtras] | None = None
    seen_ms: int = 0
    absences: frozenset[Absence] = frozenset()

    @property
    def deleted_at_ms(self) -> int | None:
        """When the record ended, in Unix milliseconds by the vendor's time or the read's; None while it lives."""
        if self.core is None:
            return None
        if self.core.version.deleted:
            return self.core.version.position
        return min((absence.read_began_ms for absence in self.absences if self._counts(absence)), default=None)

    def _counts(self, absence: Absence) -> bool:
        if self.core is None or self.core.version.deleted:
            return False
        older = self.core.version.position + absence.margin_ms < absence.read_began_ms
        return older and self.seen_ms < absence.read_began_ms and _lies_in_window(self.core.content, absence)


@dataclass(frozen=True, slots=True)
class Merged:
    """What a change did: the state after it, what the event's history will say, and whether the record is new to us."""

    state: RecordState
    outcome: Outcome
    changed_fields: tuple[str, ...] = ()
    is_new: bool = False


def merge(state: RecordState, change: RecordChange) -> Merged:
    """Let `change` meet `state`."""
    match change:
        case Upsert():
            after = _with_upsert(state, change)
            held = after.core is not None and after.core.version == change.version
        case Delete():
            after = replace(state, core=_newer(state.core, Held(change.version, change.content)))
            held = after.core is not None and after.core.version == change.version
        case Absence():
            after = replace(state, absences=state.absences | {change})
            held = True
        case _:
            assert_never(change)
    changed = changed_fields(state, after)
    if changed:
        return Merged(after, Outcome.APPLIED, changed, is_new=state.core is None)
    return Merged(after, Outcome.UNCHANGED if held or _same_content(state, change) else Outcome.STALE)


def merge_all(state: RecordState, changes: Iterable[RecordChange]) -> RecordState:
    """Let each of `changes` meet the state that the one before it left."""
    for change in changes:
        state = merge(state, change).state
    return state


def changed_fields(before: RecordState, after: RecordState) -> tuple[str, ...]:
    """Name the fields in which two states differ to a reader, sorted; bookkeeping does not count."""
    names = _differing(_content(before.core), _content(after.core))
    names |= _differing(_content(before.extras), _content(after.extras))
    if (before.deleted_at_ms is None) != (after.deleted_at_ms is None):
        names.add("deleted_at")
    return tuple(sorted(names))


def _with_upsert(state: RecordState, change: Upsert) -> RecordState:
    extras = state.extras
    if change.extras is not None:
        extras = _newer(extras, Held(change.version, change.extras))
    seen_ms = max(state.seen_ms, change.version.read_began_ms) if _is_sighting(change) else state.seen_ms
    return RecordState(_newer(state.core, Held(change.version, change.content)), extras, seen_ms, state.absences)


def _is_sighting(change: Upsert) -> bool:
    # An appointment that still names its client does not show that the client's own record is there.
    return change.version.source is Source.API and change.version.authority is Authority.RECORD


def _newer(held: Held[T] | None, offered: Held[T]) -> Held[T]:
    return offered if held is None or offered.version > held.version else held


def _content(held: Held[T] | None) -> T | None:
    return None if held is None else held.content


def _same_content(state: RecordState, change: RecordChange) -> bool:
    if isinstance(change, Absence) or state.core is None:
        return False
    held = state.core.version
    return (held.content_hash, held.deleted) == (change.version.content_hash, change.version.deleted)


def _differing(before: Content | AppointmentExtras | None, after: Content | AppointmentExtras | None) -> set[str]:
    if before is after or after is None:
        return set()
    names = field_names(type(after))
    if before is None:
        return {name for name in names if getattr(after, name) not in (None, {}, ())}
    return {name for name in names if getattr(before, name) != getattr(after, name)}


def _lies_in_window(content: Content | None, absence: Absence) -> bool:
    if not isinstance(content, Appointment):
        return True
    return absence.window_from <= content.start_time < absence.window_to
