"""The benchmark's own arithmetic: medians, ratios, verdicts, and reports that can be read again."""

from __future__ import annotations

from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench.contest import (
    CPU_US_PER_EVENT,
    EVENTS_PER_S,
    P50_MS,
    P99_MS,
    Contender,
    Contest,
    Figures,
    Judged,
    Outcome,
    Run,
    Target,
    Verdict,
    at_least,
    at_most,
    figures_in,
    judge,
    medians_of,
)
from bench.report import Report, as_chart, as_line, as_table, from_json, to_json
from bench.rows import load_contest, row_names
from eventsync.bench.environment import Environment


def contest(*targets: Target) -> Contest:
    contenders = (Contender("ours", "bench.ours"), Contender("theirs", command=("node", "theirs.js")))
    return Contest("row", "a row", ("ours",), contenders, targets, events=100)


def judged(target: Target, ours: Figures, theirs: Figures) -> Judged:
    return judge(contest(target), {"ours": ours, "theirs": theirs})[0]


def test_a_rate_is_events_over_seconds() -> None:
    assert figures_in('{"events": 300, "seconds": 1.5}') == {"events": 300, "seconds": 1.5, "events_per_s": 200}


def test_a_cost_is_processor_time_over_events() -> None:
    line = '{"events": 200, "seconds": 1, "cpu_seconds": 0.1}'
    assert figures_in(line)[CPU_US_PER_EVENT.name] == pytest.approx(500)


@pytest.mark.parametrize(
    "line",
    ["", "done", "[1]", "{}", '{"events": 3}', '{"seconds": 1}', '{"events": 3, "seconds": 0}', '{"events": "3"}'],
)
def test_a_last_line_without_events_and_seconds_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="last line"):
        figures_in(line)


def test_medians_are_taken_contender_by_contender_and_figure_by_figure() -> None:
    runs = [
        Run("ours", 1, {"p99_ms": 5, "seconds": 1}),
        Run("theirs", 1, {"p99_ms": 50}),
        Run("ours", 2, {"p99_ms": 900, "seconds": 3}),
        Run("theirs", 2, {"p99_ms": 70}),
        Run("ours", 3, {"p99_ms": 7, "seconds": 2}),
    ]
    assert medians_of(runs) == {"ours": {"p99_ms": 7, "seconds": 2}, "theirs": {"p99_ms": 60}}


def test_a_single_loss_in_one_of_many_runs_is_not_hidden_by_the_median() -> None:
    runs = [Run("ours", number, {"lost": 1 if number == 2 else 0, "doubled": 0}) for number in range(1, 6)]
    assert medians_of(runs) == {"ours": {"lost": 1, "doubled": 0}}


def test_a_failed_run_leaves_the_medians_of_the_others() -> None:
    runs = [Run("ours", 1, {"seconds": 4}), Run("ours", 2, {}, "ended with 1")]
    assert medians_of(runs) == {"ours": {"seconds": 4}}


@pytest.mark.parametrize(
    ("target", "ours", "verdict"),
    [
        (at_least(3, EVENTS_PER_S, "ours", against="theirs"), 300, Verdict.MET),
        (at_least(3, EVENTS_PER_S, "ours", against="theirs"), 299, Verdict.MISSED),
        (at_most(0.25, EVENTS_PER_S, "ours", against="theirs"), 25, Verdict.MET),
        (at_most(0.25, EVENTS_PER_S, "ours", against="theirs"), 26, Verdict.MISSED),
    ],
)
def test_a_ratio_is_met_at_its_bound_and_missed_beyond_it(target: Target, ours: float, verdict: Verdict) -> None:
    found = judged(target, {"events_per_s": ours}, {"events_per_s": 100})
    assert found.value == ours / 100
    assert found.verdict is verdict


def test_an_absolute_target_looks_at_one_contender_only() -> None:
    assert judged(at_most(6, P50_MS, "ours"), {"p50_ms": 6}, {}).verdict is Verdict.MET
    assert judged(at_most(6, P50_MS, "ours"), {"p50_ms": 6.1}, {"p50_ms": 1}).verdict is Verdict.MISSED


@pytest.mark.parametrize("theirs", [{}, {"p99_ms": 0}])
def test_a_ratio_against_nothing_is_unknown_instead_of_met(theirs: Figures) -> None:
    found = judged(at_most(0.25, P99_MS, "ours", against="theirs"), {"p99_ms": 1}, theirs)
    assert (found.value, found.verdict) == (None, Verdict.UNKNOWN)


def test_ours_must_lose_nothing_and_others_may() -> None:
    medians = {"ours": {"lost": 2, "doubled": 0}, "theirs": {"lost": 322}}
    found = {each.text: each.verdict for each in judge(contest(), medians)}
    assert found == {"ours: lost ≤ 0": Verdict.MISSED, "ours: doubled ≤ 0": Verdict.MET}


@given(st.floats(0.01, 1e6), st.floats(0.01, 1e6), st.floats(0.01, 100))
def test_what_is_met_as_at_least_is_missed_as_at_most_but_at_the_bound(
    ours: float, theirs: float, bound: float
) -> None:
    figures = {"events_per_s": ours}, {"events_per_s": theirs}
    least = judged(at_least(bound, EVENTS_PER_S, "ours", against="theirs"), *figures)
    most = judged(at_most(bound, EVENTS_PER_S, "ours", against="theirs"), *figures)
    assert least.value == most.value
    assert (least.verdict is most.verdict) == (least.value == bound)


def test_a_target_says_what_it_asks_for() -> None:
    assert at_least(3.5, EVENTS_PER_S, "ours", against="theirs").text == "ours: events/s ≥ 3.5 x theirs"
    assert at_most(6, P50_MS, "ours").text == "ours: p50 ms ≤ 6"


def test_a_target_about_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="mine"):
        contest(at_least(1, EVENTS_PER_S, "mine"))


def test_a_contender_is_either_a_module_or_a_command() -> None:
    for module, command in (("", ()), ("bench.ours", ("node",))):
        with pytest.raises(ValueError, match="either"):
            Contender("ours", module, command)


def an_outcome(*, failure: str | None = None, verdict: Verdict = Verdict.MET) -> Outcome:
    runs = Run("ours", 1, {"events": 100, "seconds": 0.5, "events_per_s": 200.0, "lost": 0}, failure)
    return Outcome(
        name="row",
        about="a row",
        events=100,
        rounds=1,
        runs=(runs,),
        medians={"ours": {"events_per_s": 200.0, "lost": 0}},
        judged=(Judged("ours: events/s ≥ 3 x theirs", None if verdict is Verdict.UNKNOWN else 3.5, verdict),),
        left_out={"theirs": "node is missing: install it"},
        profiles={"ours: contender": "ncalls  tottime"},
    )


def a_report(*outcomes: Outcome) -> Report:
    environment = Environment(
        measured_at=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
        eventsync="1",
        python="3",
        postgresql="18",
        rabbitmq=None,
        aiohttp="3",
        asyncpg="0",
        aio_pika="9",
        uvloop="0",
        cpu="a processor",
        cores=2,
        memory_mb=1024,
        kernel="Linux",
        fsync="on",
        synchronous_commit="on",
        shared_buffers="128MB",
        max_wal_size="1GB",
    )
    return Report(environment, outcomes)


@pytest.mark.parametrize("failure", [None, "ended with 1"])
@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_report_reads_back_as_it_was_written(failure: str | None, verdict: Verdict) -> None:
    report = a_report(an_outcome(failure=failure, verdict=verdict))
    assert from_json(to_json(report)) == report


@pytest.mark.parametrize(
    ("outcome", "is_passed"),
    [
        (an_outcome(), True),
        (an_outcome(verdict=Verdict.UNKNOWN), True),
        (an_outcome(verdict=Verdict.MISSED), False),
        (an_outcome(failure="ended with 1"), False),
    ],
)
def test_a_missed_target_and_a_failed_run_fail_the_report(outcome: Outcome, is_passed: bool) -> None:
    assert a_report(an_outcome(), outcome).is_passed is is_passed


def test_the_table_shows_figures_verdicts_and_who_was_left_out() -> None:
    console = Console(record=True, width=120, file=None, quiet=False)
    with console.capture() as captured:
        console.print(as_table(contest(), an_outcome()))
    text = captured.get()
    for part in ("a row", "200", "3.5", "met", "left out: theirs: node is missing"):
        assert part in text


def test_what_a_run_was_made_on_is_said_in_a_line() -> None:
    line = as_line(a_report().environment)
    assert line.startswith("2 x a processor, eventsync 1, python 3, postgresql 18, aiohttp 3")
    assert line.endswith("fsync on, synchronous_commit on, shared_buffers 128MB, max_wal_size 1GB")


def test_the_chart_draws_the_rates() -> None:
    svg = as_chart([an_outcome()])
    assert ET.fromstring(svg).tag.endswith("svg")  # noqa: S314  # our own chart
    assert "row" in svg
    assert "ours" in svg


@pytest.mark.parametrize("row", row_names())
def test_every_row_is_a_contest_with_targets(row: str) -> None:
    assert load_contest(row).targets
