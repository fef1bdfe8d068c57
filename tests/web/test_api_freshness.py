"""The age of truth over the management API and in the metrics."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from pydantic import SecretStr

from eventsync.crypto import Keyring
from eventsync.postgres.affiliation_rows import AffiliationTerms
from eventsync.postgres.database import Database
from eventsync.postgres.freshness import Freshness
from eventsync.settings import Settings
from eventsync.telemetry import Metrics
from eventsync.wiring import Role
from eventsync.wiring.process import ProcessOptions, open_process
from eventsync.wiring.readiness import truth_ages
from web.api_site import DAY, NOW, Practice, Site, make_practice

FRESHNESS = "/api/v1/freshness"
HOUR = timedelta(hours=1)


async def read_everything(database: asyncpg.Connection, practice: Practice, kind: str, began: datetime) -> None:
    """Let a complete list of all records of the kind have been read."""
    await database.execute(
        "INSERT INTO sync_coverage (connection_id, kind, window_from, window_to, read_began_at)"
        " VALUES ($1, $2, '-infinity', 'infinity', $3)",
        practice.connection_id, kind, began,
    )  # fmt: skip


async def test_an_organization_sees_how_old_its_own_truth_is(site: Site, database: asyncpg.Connection) -> None:
    patient = await site.client(site.practice, "12")
    await site.appointment(site.practice, "a1", "12")
    await site.appointment(site.practice, "a2", "12", NOW - DAY)
    await site.appointment(site.other, "b1", "12")
    await site.follow(patient, site.practice, site.other, AffiliationTerms(start_date=NOW.date()))
    await read_everything(database, site.practice, "appointment", NOW - HOUR)
    await read_everything(database, site.other, "patient", NOW)
    answer = (await site.get(FRESHNESS, site.practice.viewer)).json
    measured_at = datetime.fromisoformat(answer["measured_at"])
    found = {item["kind"]: item for item in answer["items"]}
    assert {kind: item["records"] for kind, item in found.items()} == {
        "appointment": 2, "appointment_upcoming": 1, "patient": 1,
    }  # fmt: skip
    age_s = (measured_at - NOW + HOUR) // timedelta(seconds=1)
    upcoming = found["appointment_upcoming"]
    assert [upcoming[name] for name in ("p50_s", "p95_s", "p99_s", "oldest_s")] == [age_s] * 4
    assert (upcoming["organization_id"], upcoming["connection"]) == (str(site.practice.organization_id), None)
    assert found["patient"]["oldest_s"] > age_s
    (other,) = {item["organization_id"] for item in (await site.get(FRESHNESS, site.other.viewer)).json["items"]}
    assert other == str(site.other.organization_id)
    everyone = (await site.get(FRESHNESS, site.admin)).json["items"]
    assert {item["organization_id"] for item in everyone} == {str(site.practice.organization_id), other}
    assert len((await site.get(FRESHNESS, site.admin, org="practice-2")).json["items"]) == 2


async def test_an_organization_without_records_has_no_age(site: Site) -> None:
    assert (await site.get(FRESHNESS, site.practice.viewer)).json["items"] == []


async def test_appointments_and_patients_show_when_they_were_verified(site: Site, database: asyncpg.Connection) -> None:
    await site.client(site.practice, "12")
    await site.appointment(site.practice, "a1", "12")
    await read_everything(database, site.practice, "appointment", NOW - HOUR)
    await read_everything(database, site.practice, "patient", NOW)
    for path, verified_at in (("/api/v1/appointments", NOW - HOUR), ("/api/v1/patients", NOW)):
        (item,) = (await site.get(path, site.practice.viewer)).json["items"]
        assert datetime.fromisoformat(item["verified_at"]) == verified_at


async def metrics_of(role: Role, database_url: str, keyring: Keyring, folder: Path) -> str:
    """Read the metrics of a process with one role."""
    options = ProcessOptions(
        settings=Settings(data_dir=folder, amqp_url=SecretStr("amqp://guest@127.0.0.1:9/")),
        roles=frozenset({role}),
        database_url=database_url,
        keyring=keyring,
        health_port=0,
    )
    async with open_process(options) as process, aiohttp.ClientSession() as http:
        await process.open()
        async with http.get(f"{process.servers[0].address}/metrics") as answer:
            return await answer.text()


@pytest.mark.parametrize(("role", "shows"), [(Role.SCHEDULER, True), (Role.WORKER, True), (Role.RELAY, False)])
async def test_the_roles_that_run_syncs_show_the_age_of_truth_in_their_metrics(
    pool: Database, database_url: str, keyring: Keyring, tmp_path: Path, role: Role, *, shows: bool
) -> None:
    practice = await make_practice(pool, keyring, "practice-1")
    async with aiohttp.ClientSession() as http:
        site = Site("", http, pool, keyring, practice, practice, "")
        await site.appointment(practice, "a1", "12")
    text = await metrics_of(role, database_url, keyring, tmp_path)
    ages = [line for line in text.splitlines() if line.startswith("eventsync_truth_age_seconds{")]
    assert len(ages) == (2 * 4 if shows else 0)  # kinds and quantiles
    wanted = 'eventsync_truth_age_seconds{kind="appointment_upcoming",organization="1",quantile="0.99"}'
    assert any(line.startswith(wanted) for line in ages) == shows


async def test_the_age_of_truth_is_measured_at_most_once_a_minute(pool: Database, keyring: Keyring) -> None:
    practice = await make_practice(pool, keyring, "practice-1")
    times = [NOW, NOW + timedelta(seconds=59), NOW + timedelta(seconds=60), NOW - DAY]  # and after a clock set back
    metrics = Metrics()
    refresh = truth_ages(Freshness(pool), metrics, iter(times).__next__)
    shown = []
    async with aiohttp.ClientSession() as http:
        site = Site("", http, pool, keyring, practice, practice, "")
        for number, _ in enumerate(times):
            await site.appointment(practice, f"a{number}", "12", NOW + (number - 2) * DAY)
            await refresh()
            shown.append(_oldest_s(metrics))
    modified = datetime.fromtimestamp(1_772_000_000, NOW.tzinfo)
    ages_s = [max((at - modified).total_seconds(), 0) for at in times]
    assert shown == [ages_s[0], ages_s[0], ages_s[2], ages_s[3]]


def _oldest_s(metrics: Metrics) -> float | None:
    labels = {"organization": "1", "kind": "appointment", "quantile": "1"}
    return metrics.registry.get_sample_value("eventsync_truth_age_seconds", labels)
