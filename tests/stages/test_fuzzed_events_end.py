"""No event is ever stuck: whatever a vendor sends, and answers when asked, each accepted event comes to a known end."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Sequence

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.answers import Answers
from contracts.fuzzed import api_answers, as_json, headers, readable_bodies, webhook_bodies
from eventsync.domain.connections import WebhookVerifier
from eventsync.domain.events import new_event_id
from eventsync.stages.incoming import incoming
from eventsync.stages.refetch import MAX_ATTEMPTS, Refetcher
from eventsync.vendorkit.vendor import RecordVendor
from eventsync.vendors import load_vendors, record_vendors
from stages.spine import Spine, a_connection

EXAMPLES = 1_000 if os.environ.get("EVENTSYNC_PROVE") else 100
VENDORS = record_vendors(load_vendors())
FAULTS_OF_OURS = {"internal_error", "database_refused", "kills_the_consumer", "kills_the_worker"}
# Otherwise the first far future among the modification times would make all later webhooks stale.
_FORGOTTEN = "DELETE FROM appointments; DELETE FROM patient_identities; DELETE FROM patients; DELETE FROM documents"

Sent = tuple[tuple[tuple[str, str], ...], bytes]


class Trial:
    """A handful of webhooks that come together, and the answers that the vendor then gives."""

    def __init__(self, spine: Spine, database: asyncpg.Connection, vendor: RecordVendor) -> None:
        self._spine = spine
        self._database = database
        self._vendor = vendor
        self._verifier = WebhookVerifier(bytes(32), spine.connection_id, vendor.name)
        spine.connections[spine.connection_id] = a_connection(spine.connection_id, vendor=vendor.name)

    async def run(self, sent: Sequence[Sent], answers: Sequence[bytes]) -> None:
        """Take them in as the door does, apply them, read what they name; each must have ended."""
        spine = self._spine
        await self._database.execute(_FORGOTTEN)
        events = [
            incoming(new_event_id(spine.clock(), secrets.token_bytes(10)), self._verifier, fields, body)
            for fields, body in sent
        ]
        await spine.queue.store(events)
        await spine.applier().apply([event.id for event in events])
        await self._read_what_waits(Answers(answers))
        ends = await self._database.fetch(
            "SELECT event_id, state, reason FROM v_events WHERE event_id = ANY($1)", [event.id for event in events]
        )
        assert {row["event_id"] for row in ends} == {event.id for event in events}
        assert {row["state"] for row in ends} <= {"applied", "unchanged", "stale", "parked"}
        for row in ends:
            assert row["state"] != "parked" or row["reason"]
            assert row["reason"] not in FAULTS_OF_OURS

    async def _read_what_waits(self, http: Answers) -> None:
        spine = self._spine
        refetcher = Refetcher(
            spine.queue,
            spine.writer,
            spine.directory,
            lambda connection: self._vendor.client(connection, http),
            spine.metrics,
            spine.clock,
        )
        for _ in range(MAX_ATTEMPTS + 1):
            rows = await self._database.fetch("SELECT event_id FROM event_queue WHERE status = 'pending'")
            for row in rows:
                lease = await refetcher.lease(row["event_id"])
                if lease is not None:  # else a read for another event has answered this one
                    await refetcher.refetch(lease)
            if not rows:
                return
            spine.clock.advance(3_601)


@pytest.mark.parametrize("vendor", VENDORS.values(), ids=VENDORS)
async def test_whatever_a_vendor_sends_and_answers_every_event_ends(
    spine: Spine, database: asyncpg.Connection, vendor: RecordVendor
) -> None:
    trial = Trial(spine, database, vendor)
    loop = asyncio.get_running_loop()

    readable = st.tuples(st.just(()), readable_bodies(vendor))

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        sent=st.lists(readable | readable | st.tuples(headers, webhook_bodies(vendor)), min_size=1, max_size=6),
        answers=st.lists(api_answers(vendor).map(as_json) | st.binary(max_size=20), max_size=4),
    )
    def run(sent: list[Sent], answers: list[bytes]) -> None:
        asyncio.run_coroutine_threadsafe(trial.run(sent, answers), loop).result(timeout=60)

    await asyncio.to_thread(run)
