"""What the benchmark's report says of its rounds: medians, ratios, and everything that is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from eventsync.bench.environment import Environment, describe_environment
from eventsync.bench.latencies import Latencies
from eventsync.bench.limits import Limits
from eventsync.bench.options import BenchOptions, BusKind
from eventsync.bench.report import Report, Round
from eventsync.bench.trial import Trial
from eventsync.bench.usage import Spent
from eventsync.bench.verdict import Verdict
from eventsync.cli.bench_tables import STDOUT, json_text, problems, show_report, tell

ENVIRONMENT = Environment(
    measured_at=datetime(2026, 3, 1, tzinfo=UTC), eventsync="1", python="3", postgresql="18", rabbitmq="4", aiohttp="3",
    asyncpg="0", aio_pika="10", uvloop="0", cpu="Test", cores=2, memory_mb=1024, kernel="Linux", fsync="on",
    synchronous_commit="on", shared_buffers="128MB", max_wal_size="1GB",
)  # fmt: skip


ALL_WELL = Verdict()


def trial(
    bus: BusKind = BusKind.MEMORY, *, rate: float = 1000.0, verdict: Verdict = ALL_WELL, accepted: int = 100
) -> Trial:
    latencies = Latencies(rate / 100, rate / 50, rate / 10)
    return Trial(
        bus=bus,
        sent=100,
        accepted=accepted,
        refused=100 - accepted,
        unanswered=0,
        unsent=0,
        post_events_per_s=rate,
        post_latencies=latencies,
        row_events_per_s=rate / 2,
        row_latencies=latencies,
        verdict=verdict,
        processes=(
            Spent("ingress", 0.25, 80.0, 85.0, 82.0),
            Spent("PostgreSQL", 0.15, 60.0, None, 70.0),
            Spent("load generator", 0.5, 60.0, None, 70.0),
        ),
    )


def report(*rounds: Round, buses: tuple[BusKind, ...] = (BusKind.MEMORY,)) -> Report:
    return Report(ENVIRONMENT, BenchOptions(buses=buses, amqp_url="amqp://user:secret@broker/bench"), rounds)


def one_round(*trials: Trial, handler: float = 2000.0) -> Round:
    return Round(Limits(handler, Latencies(1, 2, 3), 500.0), trials)


def test_figures_are_medians_and_ratios_are_taken_within_each_round() -> None:
    rates = {100.0: 1000.0, 300.0: 1000.0, 900.0: 9000.0}
    told = report(*(one_round(trial(rate=rate), handler=handler) for rate, handler in rates.items()))
    (summary,) = told.summaries()
    assert summary.post_events_per_s == 300
    assert summary.post_to_handler_ratio == pytest.approx(0.1)  # the median of 0.1, 0.3 and 0.1
    assert summary.row_to_commits_ratio == pytest.approx(0.3)
    assert (summary.row_p50_ms, summary.post_p99_ms) == (3, 30)
    assert summary.cpu_us_per_event == pytest.approx(4000)
    assert told.is_good


def test_ids_that_are_wrong_are_counted_and_the_first_ten_listed() -> None:
    lost = tuple(f"event-{number}" for number in range(12))
    bad = report(one_round(trial(), trial(verdict=Verdict(lost=lost, wrong_rows=("be01",)))))
    assert not bad.is_good
    assert list(problems(bad)) == [
        f"in-process bus: 12 accepted, but without an end: {', '.join(lost[:10])} and 2 more",
        "in-process bus: 1 appointments whose row is not the last version sent: be01",
    ]
    written = json.loads(json_text(bad))
    assert written["is_good"] is False
    verdict = written["rounds"][0]["trials"][1]["verdict"]
    assert verdict["lost"] == {"count": 12, "first": list(lost[:10])}
    assert "secret" not in json_text(bad)


def test_a_refused_webhook_is_a_problem_as_well() -> None:
    bad = report(one_round(trial(BusKind.RABBITMQ, accepted=97)), buses=(BusKind.RABBITMQ,))
    assert not bad.is_good
    assert list(problems(bad)) == ["RabbitMQ: of all webhooks 3 were refused"]


def test_what_was_lost_is_an_error_and_the_exit_code_is_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bad = report(one_round(trial(verdict=Verdict(doubled=("one", "two")))))
    assert tell(bad, tmp_path / "report.json", tmp_path / "chart.svg") == 1
    assert capsys.readouterr().err == "Error: in-process bus: 2 ended or applied twice: one, two\n"
    assert json.loads((tmp_path / "report.json").read_text())["is_good"] is False
    assert "this machine's limits" in (tmp_path / "chart.svg").read_text()


def test_json_on_standard_output_stands_there_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(report(one_round(trial())), STDOUT, None) == 0
    assert json.loads(capsys.readouterr().out)["is_good"] is True


def test_the_tables_name_both_buses_their_processes_and_what_was_lost(capsys: pytest.CaptureFixture[str]) -> None:
    both = (BusKind.MEMORY, BusKind.RABBITMQ)
    show_report(report(one_round(trial(), trial(BusKind.RABBITMQ, verdict=Verdict(lost=("a", "b")))), buses=both))
    printed = capsys.readouterr().out
    assert "in-process bus" in printed
    assert "10,000 webhooks over 64 connections, as fast as answers come" in printed
    (lost,) = [line.split() for line in printed.splitlines() if line.startswith("lost")]
    assert lost == ["lost", "0", "2"]
    assert "ingress" in printed
    assert "a handler that stores nothing 2,000 events/s; durable commits 500/s" in printed


def test_at_a_fixed_rate_latencies_are_drawn() -> None:
    drawn = replace(report(one_round(trial())), options=BenchOptions(rate_per_s=50.0)).to_chart()
    assert "latency at 50 webhooks a second" in drawn
    assert "receipt → row, p99" in drawn


async def test_the_environment_is_that_of_the_servers_that_were_asked(database_url: str) -> None:
    found = await describe_environment(database_url, None)
    assert found.rabbitmq is None
    assert found.fsync == "off"  # as the tests' own server is set
    assert int(found.postgresql.split(".")[0]) >= 15
    assert found.cores >= 1
    assert found.memory_mb > 100


async def test_the_environment_names_the_version_of_rabbitmq(database_url: str, amqp_url: str) -> None:
    found = await describe_environment(database_url, amqp_url)
    assert found.rabbitmq is not None
    assert int(found.rabbitmq.split(".")[0]) >= 3
