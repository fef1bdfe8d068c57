"""`eventsync bench` as its users run it: it tells the truth, uses nothing of theirs, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from eventsync.bench.broker import require_unused
from servers.eventually import eventually

EVENTS = 300


@pytest.fixture
def place(data_dir: Path) -> Path:
    """A folder that PostgreSQL's own user can reach, for the benchmark's data."""
    data_dir.mkdir(mode=0o711)
    return data_dir


async def start_bench(place: Path, *arguments: str) -> asyncio.subprocess.Process:
    """Start the command, with settings that would make it fail if it used them."""
    env = os.environ | {
        "EVENTSYNC_DATABASE_URL": "postgresql://nobody:nothing@127.0.0.1:1/production",
        "EVENTSYNC_AMQP_URL": "amqp://127.0.0.1:1/production",
        "EVENTSYNC_ENCRYPTION_KEYS": "not a key",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "eventsync", "bench", "--temp-dir", str(place), *arguments,
        env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


def left_behind(place: Path) -> list[str]:
    """List the files in `place`, and the processes that work there."""
    left = [entry.name for entry in place.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            where = str((process / "cwd").readlink())
        except OSError:
            continue
        if where.startswith(str(place)):
            left.append(f"process {process.name} in {where}")
    return left


@pytest.mark.rabbitmq
async def test_the_benchmark_finds_every_webhook_over_both_buses_and_leaves_nothing_behind(
    place: Path, tmp_path: Path, amqp_url: str
) -> None:
    report_path, chart_path = tmp_path / "report.json", tmp_path / "chart.svg"
    bench = await start_bench(
        place, "--events", str(EVENTS), "--warm-up", "50", "--connections", "16", "--amqp-url", amqp_url,
        "--json", str(report_path), "--chart", str(chart_path),
    )  # fmt: skip
    stdout, stderr = await bench.communicate()
    assert (bench.returncode, stderr) == (0, b"")
    assert "POST → row, events/s" in stdout.decode()
    report = json.loads(report_path.read_text())
    assert report["is_good"] is True
    assert report["environment"]["fsync"] == report["environment"]["synchronous_commit"] == "on"
    assert report["settings"]["events"] == EVENTS
    assert_private(report_path.read_text(), place, amqp_url)
    (only_round,) = report["rounds"]
    assert only_round["limits"]["handler_events_per_s"] > only_round["limits"]["commits_per_s"] / 100 > 0
    memory, rabbitmq = only_round["trials"]
    assert_sound(memory, "memory", {"eventsync (all roles)", "load generator", "PostgreSQL"})
    roles = {"ingress", "relay", "consumer, worker, scheduler"}
    assert_sound(rabbitmq, "rabbitmq", {*roles, "load generator", "PostgreSQL", "RabbitMQ"})
    chart = ET.fromstring(chart_path.read_text())  # noqa: S314  # it is our own
    assert {"in-process bus", "RabbitMQ"} <= {"".join(element.itertext()) for element in chart.iter()}
    assert left_behind(place) == []
    await require_unused(amqp_url)


def assert_sound(trial: dict[str, Any], bus: str, processes: set[str]) -> None:
    """Hold a trial's figures against each other."""
    assert trial["bus"] == bus
    assert trial["sent"] == trial["accepted"] == EVENTS
    assert trial["verdict"] == {name: {"count": 0, "first": []} for name in ("lost", "doubled", "left", "wrong_rows")}
    assert 0 < trial["row_events_per_s"] < trial["post_events_per_s"] * 1.2
    for latencies in (trial["post_latencies"], trial["row_latencies"]):
        assert 0 < latencies["p50_ms"] <= latencies["p95_ms"] <= latencies["p99_ms"] < 60_000
    if Path("/proc/self/stat").exists():
        assert {spent["name"] for spent in trial["processes"]} == processes
        assert all(spent["memory_end_mb"] > 5 for spent in trial["processes"])
        assert sum(spent["cpu_seconds"] for spent in trial["processes"]) > 0


def assert_private(report: str, place: Path, amqp_url: str) -> None:
    """Hold that the report could be shown to anyone."""
    for private in (str(place), amqp_url, "127.0.0.1", os.uname().nodename):
        assert private not in report


@pytest.mark.rabbitmq
async def test_ctrl_c_ends_a_benchmark_over_rabbitmq_and_leaves_nothing_behind(place: Path, amqp_url: str) -> None:
    bench = await start_bench(place, "--events", "100000", "--rate", "50", "--amqp-url", amqp_url, "--bus", "rabbitmq")
    await eventually(lambda: len(list(place.glob("*/rabbitmq-*/*/log"))) == 3, 60)
    await assert_ends_in_order(bench, signal.SIGINT, place)
    await require_unused(amqp_url)


async def test_sigterm_ends_a_benchmark_while_it_sends_and_leaves_nothing_behind(place: Path) -> None:
    bench = await start_bench(place, "--events", "1000", "--rate", "50", "--warm-up", "0")
    await eventually(lambda: len(list(place.glob("*/memory-*/0/spool.sqlite3"))) == 1, 60)
    await assert_ends_in_order(bench, signal.SIGTERM, place)


async def assert_ends_in_order(bench: asyncio.subprocess.Process, number: signal.Signals, place: Path) -> None:
    """Signal the command and hold what it says and leaves."""
    bench.send_signal(number)
    _, stderr = await bench.communicate()
    assert bench.returncode == 1
    assert stderr.decode().splitlines()[-1] == "Aborted!"
    assert left_behind(place) == []
