"""A webhook that has gone silent is noticed, told of once, and measured; a quiet practice is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.drift import WebhookSigns
from eventsync.postgres.database import Database
from eventsync.stages.silence import Patience, SilenceWatch, silence_of
from eventsync.telemetry import Metrics
from postgres.drifting import HOUR, MINUTE, NOW, SECOND, Change, Drifting

DAY_AGO = NOW - timedelta(days=1)
SIGNS = WebhookSigns(ConnectionId(UUID(int=1)), 1, NOW - 3 * HOUR, 3)


@pytest.fixture
async def practice(
    pool: Database, keyring: Keyring, connection_ids: list[ConnectionId], database: asyncpg.Connection
) -> Drifting:
    for number, connection_id in enumerate(connection_ids):
        await database.execute(
            "INSERT INTO webhook_tokens (token_hash, connection_id, token_sealed) VALUES ($1, $2, '')",
            bytes([number]), connection_id,
        )  # fmt: skip
    return Drifting(pool, keyring, connection_ids[0])


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def watch(practice: Drifting, metrics: Metrics) -> SilenceWatch:
    return SilenceWatch(practice.report, metrics)


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    with capture_logs() as captured:
        yield captured


def seconds_of(metrics: Metrics, connection: int = 1) -> float | None:
    return metrics.registry.get_sample_value("eventsync_webhook_silent_seconds", {"connection": str(connection)})


async def miss(practice: Drifting, *hours_ago: float, told_by: str | None = "AppointmentCreated") -> None:
    """Let a sweep find bookings of which no webhook came."""
    changes = [Change(f"m{hours}", NOW - hours * HOUR, told_by, price=7) for hours in hours_ago]
    await practice.sweep(*changes, began=NOW - MINUTE)


async def hear(practice: Drifting, hours_ago: float) -> None:
    """Receive the webhook of some other appointment."""
    await practice.webhook(Change(f"h{hours_ago}", NOW - hours_ago * HOUR), after=timedelta(0))


@pytest.mark.parametrize(
    ("signs", "is_silent"),
    [
        (SIGNS, True),
        (replace(SIGNS, missed_changes=2), False),
        (replace(SIGNS, last_received_at=NOW - 3 * HOUR + SECOND), False),
        (replace(SIGNS, last_received_at=None), True),
        (replace(SIGNS, last_received_at=None, missed_changes=0), False),
    ],
)
def test_silence_is_hours_without_a_webhook_while_changes_were_missed(signs: WebhookSigns, *, is_silent: bool) -> None:
    assert (silence_of(signs, DAY_AGO, NOW, Patience()) is not None) is is_silent


def test_who_was_not_heard_at_all_has_been_silent_for_as_long_as_one_looked() -> None:
    silence = silence_of(replace(SIGNS, last_received_at=None), DAY_AGO, NOW, Patience())
    assert silence is not None
    assert (silence.since, silence.lasted) == (None, timedelta(days=1))


async def test_a_silent_webhook_is_told_with_what_to_do(
    practice: Drifting, watch: SilenceWatch, metrics: Metrics, lines: list[EventDict]
) -> None:
    await hear(practice, 5)
    await miss(practice, 6, 4, 3, 1)
    (silence,) = await watch.look(NOW)
    assert (silence.connection_id, silence.missed_changes) == (practice.connection_id, 3)
    assert (silence.since, silence.lasted) == (NOW - 5 * HOUR, 5 * HOUR)
    assert (seconds_of(metrics, 1), seconds_of(metrics, 2)) == (5 * 3600.0, 0.0)
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("webhook_silent", "warning")
    assert (line["connection"], line["silent_hours"], line["missed_changes"]) == (1, 5.0, 3)
    assert "Developer API" in line["advice"]


@pytest.mark.parametrize(
    ("heard", "missed"),
    [
        ([2.9], [8, 7, 6, 5, 2.5, 2, 1]),  # heard lately, whatever was missed before
        ([5], [4, 3]),  # too few
        ([5], [9, 8, 7, 6, 4, 3]),  # too few since then
        ([5], [4, 3, 0.05]),  # the last of them may still be told
        ([], [30, 29, 28]),  # longer ago than one looks
    ],
)
async def test_a_webhook_that_may_be_as_it_should_be_is_not_silent(
    practice: Drifting, watch: SilenceWatch, metrics: Metrics, heard: list[float], missed: list[float]
) -> None:
    for hours in heard:
        await hear(practice, hours)
    await miss(practice, *missed)
    assert await watch.look(NOW) == []
    assert seconds_of(metrics) == 0


async def test_edits_that_no_webhook_tells_of_are_no_sign(practice: Drifting, watch: SilenceWatch) -> None:
    for hours in (5, 4, 3):
        known = Change(f"m{hours}", NOW - 12 * HOUR, "AppointmentCreated")
        await practice.webhook(known)
    await miss(practice, 5, 4, 3, told_by=None)
    assert await watch.look(NOW) == []


async def test_a_replay_is_no_sign_of_life(
    practice: Drifting, watch: SilenceWatch, database: asyncpg.Connection
) -> None:
    await hear(practice, 1)
    await miss(practice, 6, 4, 3)
    assert await watch.look(NOW) == []
    await database.execute("UPDATE events SET source = 'replay'")
    assert len(await watch.look(NOW)) == 1


async def test_a_connection_without_a_webhook_is_not_waited_for(
    practice: Drifting, watch: SilenceWatch, metrics: Metrics, database: asyncpg.Connection
) -> None:
    await miss(practice, 6, 4, 3)
    assert len(await watch.look(NOW)) == 1
    await database.execute("UPDATE webhook_tokens SET expires_at = $1", NOW - HOUR)
    assert await watch.look(NOW) == []
    assert seconds_of(metrics) is None
    await hear(practice, 12)  # it had one, by a token that has expired since
    assert len(await watch.look(NOW)) == 1
    await database.execute("UPDATE connections SET disabled_at = $1", NOW)
    assert await watch.look(NOW) == []


async def test_one_connection_can_be_looked_at_alone(
    practice: Drifting, watch: SilenceWatch, metrics: Metrics, connection_ids: list[ConnectionId]
) -> None:
    await miss(practice, 6, 4, 3)
    assert await watch.look(NOW, connection_ids[1]) == []
    assert seconds_of(metrics) is None
    assert len(await watch.look(NOW, connection_ids[0])) == 1
    assert seconds_of(metrics, 2) == 0


async def test_a_silence_is_warned_of_once_and_a_connection_once_an_hour(
    practice: Drifting, watch: SilenceWatch, lines: list[EventDict]
) -> None:
    await hear(practice, 5)
    await miss(practice, 4, 3, 2)
    for minutes in (0, 5, 70):
        await watch.look(NOW + minutes * MINUTE)
    assert len(lines) == 1
    await practice.receive(NOW + 75 * MINUTE)
    assert await watch.look(NOW + 80 * MINUTE) == []
    again = [Change(f"n{n}", NOW + 80 * MINUTE, "AppointmentCreated") for n in range(3)]
    await practice.sweep(*again, began=NOW + 85 * MINUTE)
    assert len(await watch.look(NOW + 75 * MINUTE + 3 * HOUR)) == 1
    assert len(lines) == 2


async def test_a_webhook_that_comes_and_goes_is_not_warned_of_twice_within_an_hour(
    practice: Drifting, metrics: Metrics, lines: list[EventDict]
) -> None:
    watch = SilenceWatch(practice.report, metrics, Patience(silent_hours=0.25, missed_changes=1))
    await miss(practice, 1)
    await watch.look(NOW)
    await practice.receive(NOW + MINUTE)
    assert await watch.look(NOW + 2 * MINUTE) == []
    await practice.sweep(Change("n1", NOW + 3 * MINUTE, "AppointmentCreated"), began=NOW + 4 * MINUTE)
    for minutes in (20, 59):
        assert len(await watch.look(NOW + minutes * MINUTE)) == 1
        assert len(lines) == 1
    await watch.look(NOW + 61 * MINUTE)
    assert len(lines) == 2


async def test_what_was_found_within_a_day_is_measured_by_event_and_verdict(
    practice: Drifting, watch: SilenceWatch, metrics: Metrics
) -> None:
    await practice.sweep(Change("old", NOW - 40 * HOUR, "AppointmentCreated"), began=NOW - 30 * HOUR)
    await miss(practice, 6, 4)
    await practice.webhook(Change("m6", NOW - 6 * HOUR, "AppointmentCreated", price=7), after=6 * HOUR)
    await practice.sweep(Change("m4", NOW - 2 * HOUR, price=8), began=NOW - MINUTE)
    await watch.run_once(NOW)

    def found(expected_event: str, verdict: str) -> float | None:
        labels = {"expected_event": expected_event, "verdict": verdict}
        return metrics.registry.get_sample_value("eventsync_drift_last_day", labels)

    assert found("AppointmentCreated", "never_came") == 1
    assert found("AppointmentCreated", "late") == 1
    assert found("none", "unannounced") == 1
    assert found("none", "never_came") is None


async def test_findings_are_counted_by_kind_and_expected_event(practice: Drifting, metrics: Metrics) -> None:
    findings = await practice.sweep(Change("m1", NOW - HOUR, "AppointmentCreated"), began=NOW - MINUTE)
    findings += await practice.sweep(Change("m1", NOW - MINUTE, price=9), began=NOW)
    metrics.count_drift(findings)
    metrics.count_drift(findings)

    def counted(expected_event: str) -> float | None:
        labels = {"kind": "appointment", "expected_event": expected_event}
        return metrics.registry.get_sample_value("eventsync_drift_found_total", labels)

    assert (counted("AppointmentCreated"), counted("none")) == (2, 2)
