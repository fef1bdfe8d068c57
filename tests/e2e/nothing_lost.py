"""What must hold after any fault: every acknowledged event has its end, once, and the rows equal the vendor's data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from e2e.persistent_sender import PersistentSender
from e2e.sandbox_truth import appointment_rows, document_states, expected_appointments
from eventsync.sandbox import Effect, NotPossibleError, RunningSandbox
from servers.eventually import eventually

_BUSY_DAY = (
    *["book"] * 5,
    *["reschedule", "lock_note", "confirm", "cancel", "issue_invoice", "submit_intake", "miss", "delete"],
)


@dataclass(frozen=True, slots=True)
class Work:
    """What people did at the practice: the webhooks it owes, some twice, and the records that these are about."""

    bodies: Sequence[bytes]
    record_ids: frozenset[str]


def busy_days(sandbox: RunningSandbox, days: int) -> Work:
    """Let people work at the practice; nothing is sent yet."""
    effects = [effect for _ in range(days) for action in _BUSY_DAY for effect in _act(sandbox, action)]
    webhooks = [webhook for effect in effects for webhook in effect.webhooks]
    # A second event for a note or an intake would bring on the read that a first one, once lost, waits for in vain.
    doubled = [webhook for webhook in webhooks if webhook.kind in ("appointment", "invoice")][::5]
    bodies = [webhook.body for webhook in (*webhooks, *doubled)]
    return Work(bodies, frozenset(effect.record_id for effect in effects))


def _act(sandbox: RunningSandbox, action: str) -> list[Effect]:
    try:
        return [sandbox.sandbox.act(action)]
    except NotPossibleError:  # nothing waits to be confirmed, say
        return []


async def assert_nothing_lost(
    database: asyncpg.Connection,
    sandbox: RunningSandbox,
    work: Work,
    sender: PersistentSender,
    *,
    within_s: float = 30.0,
) -> None:
    """Wait until no event waits any more, then hold ends, effects and rows against what was sent."""

    async def every_event_ended_once() -> bool:
        await _assert_every_event_ended_once(database, sender)
        return True

    await eventually(every_event_ended_once, within_s)
    await _assert_nothing_was_applied_twice(database)
    await _assert_rows_equal_the_truth(database, sandbox, work)


async def _assert_every_event_ended_once(database: asyncpg.Connection, sender: PersistentSender) -> None:
    async with database.transaction(isolation="repeatable_read"):
        stored = [row["id"] for row in await database.fetch("SELECT id FROM events")]
        ended = [row["event_id"] for row in await database.fetch("SELECT event_id FROM event_history")]
        waiting = await database.fetch("SELECT work, status, reason, error, count(*) FROM event_queue GROUP BY 1,2,3,4")
    assert not waiting, f"still waiting: {[tuple(row) for row in waiting]}"  # parked ones too: each webhook was good
    assert len(set(stored)) == len(stored) <= sender.posts
    assert sorted(ended) == sorted(stored)
    assert sender.acknowledged <= set(ended)


async def _assert_nothing_was_applied_twice(database: asyncpg.Connection) -> None:
    """One commit may answer several events (one read, one batch), but two commits never make the same change."""
    twice = await database.fetch(
        "SELECT entity_kind, entity_id, entity_version, changed_fields FROM event_history"
        " WHERE outcome = 'applied' GROUP BY 1, 2, 3, 4 HAVING count(DISTINCT finished_at) > 1"
    )
    assert not twice


async def _assert_rows_equal_the_truth(database: asyncpg.Connection, sandbox: RunningSandbox, work: Work) -> None:
    facts = list(sandbox.sandbox.truth())
    expected = expected_appointments(facts)
    assert expected
    assert await appointment_rows(database) == expected
    for kind in ("invoice", "note", "intake"):
        of_kind = {
            fact.data["Id"]: fact.data["Status"]
            for fact in facts
            if fact.kind == kind and fact.data["Id"] in work.record_ids
        }
        assert of_kind
        assert await document_states(database, kind) == of_kind
