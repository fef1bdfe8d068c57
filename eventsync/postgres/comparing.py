"""Tells, before anything is loaded or locked, which of an API's pages' records say nothing that the rows do not.

Part of the one write path: `RecordWriter` asks here first, so that a sweep writes what differs and nothing else.

A read moves a row's bookkeeping even where it changes nothing: the time of the read in the version, and the sighting.
That time matters only against a read that began earlier and is written later: one that says something else at the same
vendor's time, or an absence. Webhooks are ordered without it. So it may be left out exactly where no such read can
come, which only the caller knows (`reads_in_order`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from eventsync.domain.changes import Authority, RecordChange, Source, Upsert
from eventsync.domain.events import Outcome
from eventsync.postgres.database import Session
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    find_known: str


SQL = load_statements(_Sql, "comparing.sql")


def is_comparable(change: RecordChange) -> TypeGuard[Upsert]:
    """Whether `change` is one of those that come in pages; extras have a version of their own, and must be merged."""
    return isinstance(change, Upsert) and change.version.source is Source.API and change.extras is None


async def compare(session: Session, upserts: Sequence[Upsert], *, reads_in_order: bool) -> dict[int, Outcome]:
    """Tell what becomes of those of `upserts` that need not be merged, by their places: UNCHANGED or STALE.

    All of them must be comparable. What is not in the answer must be merged, and so must what is, where another change
    of the same record in the same batch is not. Without `reads_in_order` only what would move nothing at all is left
    out. With it, what only confirms a row or comes after a newer webhook is as well, unless an absence on record waits
    for the sighting, or what the row's version says besides the time of the read differs, or it is a client's.
    """
    row = await session.fetchrow(SQL.find_known, *arguments(upserts), reads_in_order)
    unchanged, stale = row["unchanged"] or (), row["stale"] or ()
    return {place - 1: Outcome.UNCHANGED for place in unchanged} | {place - 1: Outcome.STALE for place in stale}


def arguments(upserts: Sequence[Upsert]) -> tuple[list[Any], ...]:
    """Write `upserts` as the statement's arrays. The last are sightings' times (Unix ms), None for a mention."""
    refs, versions = [upsert.entity for upsert in upserts], [upsert.version for upsert in upserts]
    return (
        [ref.connection_id for ref in refs],
        [ref.kind.value for ref in refs],
        [ref.external_id for ref in refs],
        [version.to_bytes() for version in versions],
        [version.read_began_ms if version.authority is Authority.RECORD else None for version in versions],
    )
