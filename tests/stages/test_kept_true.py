"""What the sweep is for: webhooks are lost and edits are silent, and one full run makes the copy the vendor's again.

In full size (`make prove`) the practice has 10,000 clients and 30,000 appointments in the window, and 500 calls a day.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson
import pytest

from e2e.sandbox_truth import appointment_rows, client_rows, expected_appointments, expected_clients
from eventsync.crypto import Keyring
from eventsync.domain.drift import DriftVerdict
from eventsync.domain.runs import Run, RunStatus
from eventsync.postgres.database import Database
from eventsync.postgres.drift import DriftFilter, DriftReport
from eventsync.sandbox import NotPossibleError, QuotaLimits
from stages.sync_site import SyncSite, open_site

PROVE = os.environ.get("EVENTSYNC_PROVE") == "1"
CLIENTS, APPOINTMENTS, ACTIONS = (10_000, 30_000, 3_000) if PROVE else (500, 1_500, 400)
CALLS_PER_DAY = 500
LOST_SHARE = 0.03
LONG_AGO_DELETED = 40  # more than a run may look up one by one
ACTIONS_OF_APPOINTMENTS = ("book", "confirm", "reschedule", "cancel", "miss", "delete", "edit")
ACTIONS_OF_CLIENTS = ("edit_client", "add_client")


@dataclass
class Happenings:
    """What was done to each appointment: whether the change was announced, and whether its webhook was heard."""

    rng: random.Random
    changes: dict[str, list[tuple[bool, bool]]] = field(default_factory=lambda: defaultdict(list))

    def last_announcement_was_lost(self, appointment_id: str) -> bool:
        """Whether the latest change for which there is a webhook was not heard."""
        announced = [heard for is_announced, heard in self.changes[appointment_id] if is_announced]
        return bool(announced) and not announced[-1]

    async def live_through(self, site: SyncSite, actions: int) -> None:
        """Let the practice work; 3% of its webhooks are lost, the others are applied in bunches."""
        heard: list[Any] = []
        for _ in range(actions):
            site.clock.advance(seconds=2)
            names = ACTIONS_OF_CLIENTS if self.rng.random() < 0.1 else ACTIONS_OF_APPOINTMENTS
            is_lost = self.rng.random() < LOST_SHARE
            try:
                effect = (site.sandbox.act_unheard if is_lost else site.sandbox.act)(self.rng.choice(names))
            except NotPossibleError:  # nothing left to confirm, say
                continue
            if names is ACTIONS_OF_APPOINTMENTS and effect.record_id is not None:
                self.changes[effect.record_id].append((bool(effect.webhooks), not is_lost))
            heard += [] if is_lost else [orjson.loads(hook.body) for hook in effect.webhooks]
            if len(heard) >= 50:
                await site.spine.apply(*heard)
                heard = []
        await site.spine.apply(*heard)

    def delete_long_ago(self, site: SyncSite, count: int) -> set[str]:
        """Let appointments have been deleted, unheard, so long ago that no list of deletions tells of them."""
        appointments = [a for a in site.practice.appointments.values() if a.start_ms > site.ms(days=1)]
        chosen = self.rng.sample(appointments, count)
        for appointment in chosen:
            site.sandbox.act_unheard("delete", id=appointment.id, deleted_ms=site.ms(days=-11))
            self.changes[appointment.id].append((True, False))
        return {appointment.id for appointment in chosen}


def visible(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What people see of the living ones: when it was changed last is not among it."""
    return {
        external_id: {name: value for name, value in row.items() if name != "modified"}
        for external_id, row in rows.items()
        if not row["deleted"]
    }


async def wrong_appointments(site: SyncSite, database: asyncpg.Connection) -> set[str]:
    held = visible(await appointment_rows(database))
    true = visible(expected_appointments(site.sandbox.truth("appointment")))
    return {external_id for external_id in held.keys() | true.keys() if held.get(external_id) != true.get(external_id)}


async def found_by(site: SyncSite, run: Run) -> dict[str, DriftVerdict]:
    findings = await DriftReport(site.pool).findings(
        DriftFilter(run_id=run.id), site.clock(), after=None, limit=100_000
    )
    return {finding.external_id: finding.verdict for finding in findings if finding.kind.value == "appointment"}


@pytest.mark.timeout(600)
async def test_one_full_run_within_the_days_calls_makes_the_copy_true_and_drift_names_what_was_lost(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    limits = {"calls_per_minute": "100000", "calls_per_day": str(CALLS_PER_DAY)}
    quota = QuotaLimits(per_minute=None, per_day=CALLS_PER_DAY)
    happenings = Happenings(random.Random(4))
    async with open_site(
        pool, keyring, clients=CLIENTS, appointments=APPOINTMENTS, settings=limits, quota=quota
    ) as site:
        assert (await site.sync()).status is RunStatus.COMPLETED
        site.clock.advance(days=1)
        await happenings.live_through(site, ACTIONS)
        long_ago = happenings.delete_long_ago(site, LONG_AGO_DELETED)
        site.clock.advance(minutes=10)
        wrong = await wrong_appointments(site, database)
        lost = {external_id for external_id in wrong if happenings.last_announcement_was_lost(external_id)}
        assert len(lost) > LONG_AGO_DELETED
        assert len(wrong) > len(lost)

        calls_before = site.calls
        run = await site.sync()
        assert run.counts.appointments_errors == 0, run
        assert site.calls - calls_before <= CALLS_PER_DAY
        still_wrong = await wrong_appointments(site, database)
        assert still_wrong < long_ago, run
        held, true = await client_rows(database), expected_clients(site.sandbox.truth("client"))
        assert {key: row for key, row in held.items() if not row["deleted"]} == {
            key: row for key, row in true.items() if not row["deleted"]
        }

        site.clock.advance(minutes=10)  # a webhook may be on its way for some minutes
        found = await found_by(site, run)
        assert {key for key, verdict in found.items() if verdict is DriftVerdict.NEVER_CAME} == lost - still_wrong
        assert {key for key, verdict in found.items() if verdict is DriftVerdict.UNANNOUNCED} == wrong - lost
        assert set(found) == wrong - still_wrong

        site.clock.advance(days=1)
        following = await site.sync()
        assert await wrong_appointments(site, database) == set()
        assert set(await found_by(site, following)) == still_wrong
        assert site.sandbox.stats.rate_limited == 0
