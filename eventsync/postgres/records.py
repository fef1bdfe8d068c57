"""The one write path: webhook, sweep, manual sync and import change records through `RecordWriter.write`.

What pages of an API only repeat is recognized first and left alone (`comparing`). The other rows are locked in key
order, merged by the domain's rules, and written at most once each, whatever the number of changes; who loses the race
to insert a row loads it and merges again. An absence has no row to lock, so whoever brings one writes alone within its
connection, while all other writers work side by side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

from eventsync.crypto import Keyring
from eventsync.domain.changes import Absence, EntityRef, RecordChange
from eventsync.domain.events import EventId, Outcome
from eventsync.domain.merging import Merged, RecordState, changed_fields, merge
from eventsync.domain.records import RecordKind, patient_id_of, record_id_of
from eventsync.postgres.comparing import compare, is_comparable
from eventsync.postgres.database import Session
from eventsync.postgres.json_rows import json_rows
from eventsync.postgres.record_rows import (
    AppointmentTable,
    DocumentTable,
    PatientTable,
    RecordTable,
    milliseconds,
    moment,
    shared_columns,
)
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    write_alone: str
    write_side_by_side: str
    load_absences: str
    insert_absences: str
    insert_news: str
    take_news: str


SQL = load_statements(_Sql, "records.sql")

_KNOWN = {outcome: Merged(RecordState(), outcome) for outcome in (Outcome.UNCHANGED, Outcome.STALE)}


@dataclass(frozen=True, slots=True)
class EventChange:
    """A change and the event that brought it; `event_id` is None for a read that no event asked for."""

    event_id: EventId | None
    change: RecordChange


@dataclass(frozen=True, slots=True)
class News:
    """What other teams are told of a record that changed: ids and version only."""

    connection_id: UUID
    kind: RecordKind
    record_id: UUID
    external_id: str
    position: int
    deleted: bool
    event_id: UUID | None


@dataclass(slots=True)
class _Plan:
    """What one batch does to one record. `visible_change` says whether a reader sees a difference at its end."""

    before: RecordState
    after: RecordState
    exists: bool
    applied_event_id: EventId | None = None
    visible_change: bool = False


_Waiting: TypeAlias = dict[EntityRef, list[tuple[int, EventChange]]]
"""Changes and their places in the batch, by the record that they are about."""

_Loaded: TypeAlias = tuple[RecordState, bool]
"""A record's state, and whether it has a row."""


class RecordWriter:
    """Applies changes to the records, inside a transaction of the caller's."""

    def __init__(self, keyring: Keyring) -> None:
        self._tables: tuple[RecordTable, ...] = (PatientTable(), AppointmentTable(), DocumentTable(keyring))

    async def write(
        self, session: Session, changes: Sequence[EventChange], now: datetime, *, reads_in_order: bool = False
    ) -> list[Merged]:
        """Apply `changes` and tell, in their order, what each of them did; a state is given only where it was loaded.

        Tables are written in one fixed order and rows in key order, so that writers rarely wait in a circle.

        `reads_in_order` is the caller's word that the reads among `changes` are the last of their records so far: of
        each record, every read that began before has been committed or never will be, and this read says one thing
        only. Then a record that was found as it stands is not written; which ones those are is for the caller to keep.
        """
        if not changes:
            return []
        absences = [entry.change for entry in changes if isinstance(entry.change, Absence)]
        await _enter(session, changes, alone=bool(absences))
        results = await _compared(session, changes, reads_in_order=reads_in_order)
        waiting = self._waiting([(place, entry) for place, entry in enumerate(changes) if place not in results])
        states = await _load(session, {table: sorted(mine) for table, mine in waiting.items()})
        news: list[News] = []
        for table, mine in waiting.items():
            news += await self._write_table(session, table, mine, states, results, now)
        if absences:
            await session.execute(SQL.insert_absences, json_rows([_absence_row(absence) for absence in absences]))
        if news:
            await session.execute(SQL.insert_news, json_rows(news), now)
        return [results[place] for place in range(len(changes))]

    def _waiting(self, changes: Sequence[tuple[int, EventChange]]) -> dict[RecordTable, _Waiting]:
        """Sort changes by their tables, in the order of writing, and within them by their records."""
        by_table: dict[RecordTable, _Waiting] = {}
        for table in self._tables:
            mine: _Waiting = defaultdict(list)
            for place, entry in changes:
                if entry.change.entity.kind in table.kinds:
                    mine[entry.change.entity].append((place, entry))
            if mine:
                by_table[table] = mine
        return by_table

    async def _write_table(
        self,
        session: Session,
        table: RecordTable,
        waiting: _Waiting,
        states: Mapping[EntityRef, _Loaded],
        results: dict[int, Merged],
        now: datetime,
    ) -> list[News]:
        written: dict[EntityRef, _Plan] = {}
        while waiting:
            plans = _plan(waiting, states, results)
            lost = await self._write_rows(session, table, plans, now)
            written |= {ref: plan for ref, plan in plans.items() if ref not in lost}
            waiting = {ref: waiting[ref] for ref in sorted(lost)}
            states = await _load(session, {table: list(waiting)} if waiting else {})
        changed = {ref: plan for ref, plan in written.items() if plan.visible_change}
        if table.projection is not None and changed:
            await session.execute(table.projection, *table.keys(sorted(changed)), now)
        return [_news(ref, plan) for ref, plan in sorted(changed.items(), key=lambda item: item[0])]

    async def _write_rows(
        self, session: Session, table: RecordTable, plans: Mapping[EntityRef, _Plan], now: datetime
    ) -> set[EntityRef]:
        """Write the rows whose state moved; answer the records that someone else inserted in the meantime."""
        moved = {ref: plan for ref, plan in plans.items() if plan.after != plan.before and plan.after.core is not None}
        updates = [_row(table, ref, plan, now) for ref, plan in moved.items() if plan.exists]
        if updates:
            await session.execute(table.sql.update, json_rows(updates), now)
        inserts = {ref: _row(table, ref, plan, now) for ref, plan in moved.items() if not plan.exists}
        if not inserts:
            return set()
        rows = await session.fetch(table.sql.insert, json_rows(list(inserts.values())), now)
        return inserts.keys() - {table.ref(row) for row in rows}


async def take_news(session: Session, at_most: int) -> list[News]:
    """Take the oldest news out of the outbox, inside a transaction that ends once the bus has confirmed them."""
    rows = await session.fetch(SQL.take_news, at_most)
    return [
        News(
            connection_id=row["connection_id"],
            kind=RecordKind(row["kind"]),
            record_id=row["record_id"],
            external_id=row["external_id"],
            position=row["position"],
            deleted=row["deleted"],
            event_id=row["event_id"],
        )
        for row in sorted(rows, key=lambda row: row["id"])
    ]


async def _enter(session: Session, changes: Sequence[EventChange], *, alone: bool) -> None:
    connection_ids = sorted({entry.change.entity.connection_id for entry in changes})
    await session.execute(SQL.write_alone if alone else SQL.write_side_by_side, connection_ids)


async def _load(session: Session, wanted: Mapping[RecordTable, Sequence[EntityRef]]) -> dict[EntityRef, _Loaded]:
    """Lock and read the rows of these records, each table's in key order; then, so that none is missed, absences."""
    rows = [
        (table, row) for table, refs in wanted.items() for row in await session.fetch(table.sql.load, *table.keys(refs))
    ]
    refs = [ref for mine in wanted.values() for ref in mine]
    absences = await _load_absences(session, refs) if refs else {}
    states = {ref: (RecordState(absences=absences.get(ref, frozenset())), False) for ref in refs}
    for table, row in rows:
        ref = table.ref(row)
        core, extras = table.held(row)
        seen_ms = 0 if row["seen_at"] is None else milliseconds(row["seen_at"])
        states[ref] = (RecordState(core, extras, seen_ms, absences.get(ref, frozenset())), True)
    return states


def _plan(waiting: _Waiting, states: Mapping[EntityRef, _Loaded], results: dict[int, Merged]) -> dict[EntityRef, _Plan]:
    """Let every change meet its record's state, and note in `results`, by its place, what it did."""
    plans = {}
    for ref, entries in sorted(waiting.items(), key=lambda item: item[0]):
        state, exists = states[ref]
        plan = _Plan(before=state, after=state, exists=exists)
        for place, entry in entries:
            results[place] = merged = merge(plan.after, entry.change)
            plan.after = merged.state
            if merged.outcome is Outcome.APPLIED:
                plan.applied_event_id = entry.event_id
                plan.visible_change = True
        if len(entries) > 1:  # a later change may have undone what an earlier one did
            plan.visible_change = bool(changed_fields(state, plan.after))
        plans[ref] = plan
    return plans


async def _compared(session: Session, changes: Sequence[EventChange], *, reads_in_order: bool) -> dict[int, Merged]:
    """Find the changes, by their places, of those records of which the whole batch says nothing new."""
    pages = [(place, entry.change) for place, entry in enumerate(changes) if is_comparable(entry.change)]
    if not pages:
        return {}
    known = await compare(session, [upsert for _, upsert in pages], reads_in_order=reads_in_order)
    found = {pages[at][0]: _KNOWN[outcome] for at, outcome in known.items()}
    waiting = {entry.change.entity for place, entry in enumerate(changes) if place not in found}
    names = {entity.external_id for entity in waiting}  # hashed sooner than the entities, of which nearly none waits
    return {
        place: merged
        for place, merged in found.items()
        if (entity := changes[place].change.entity).external_id not in names or entity not in waiting
    }


async def _load_absences(session: Session, refs: Sequence[EntityRef]) -> dict[EntityRef, frozenset[Absence]]:
    keys = [ref.connection_id for ref in refs], [ref.kind.value for ref in refs], [ref.external_id for ref in refs]
    found: dict[EntityRef, set[Absence]] = defaultdict(set)
    for row in await session.fetch(SQL.load_absences, *keys):
        ref = EntityRef(row["connection_id"], RecordKind(row["kind"]), row["external_id"])
        read_began_ms = milliseconds(row["read_began_at"])
        found[ref].add(Absence(ref, read_began_ms, row["window_from"], row["window_to"], row["margin_ms"]))
    return {ref: frozenset(absences) for ref, absences in found.items()}


def _absence_row(absence: Absence) -> dict[str, Any]:
    return {
        "connection_id": absence.entity.connection_id,
        "kind": absence.entity.kind.value,
        "external_id": absence.entity.external_id,
        "read_began_at": moment(absence.read_began_ms),
        "window_from": absence.window_from,
        "window_to": absence.window_to,
        "margin_ms": absence.margin_ms,
    }


def _row(table: RecordTable, ref: EntityRef, plan: _Plan, now: datetime) -> dict[str, Any]:
    row = shared_columns(ref, plan.after) | table.columns(ref, plan.after)
    if plan.visible_change:
        row |= {"changed_at": now, "applied_event_id": plan.applied_event_id}
    return row


def _news(ref: EntityRef, plan: _Plan) -> News:
    if plan.after.core is None:
        raise ValueError("a record without a version cannot have changed")
    if ref.kind is RecordKind.PATIENT:
        record_id = patient_id_of(ref.connection_id, ref.external_id)
    else:
        record_id = record_id_of(ref.connection_id, ref.kind, ref.external_id)
    return News(
        connection_id=ref.connection_id,
        kind=ref.kind,
        record_id=record_id,
        external_id=ref.external_id,
        position=plan.after.core.version.position,
        deleted=plan.after.deleted_at_ms is not None,
        event_id=plan.applied_event_id,
    )
