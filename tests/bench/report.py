"""What a run of the benchmark leaves: a table for the terminal, JSON for later, a chart for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import orjson
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.contest import EVENTS_PER_S, Contest, Figures, Judged, Measure, Outcome, Run, Verdict
from eventsync.bench.charts import bars
from eventsync.bench.environment import Environment

_STYLES = {Verdict.MET: "green", Verdict.MISSED: "bold red", Verdict.UNKNOWN: "yellow"}
_VERSIONS = ("eventsync", "python", "postgresql", "rabbitmq", "aiohttp", "asyncpg", "aio_pika", "uvloop", "kernel")
_SETTINGS = ("fsync", "synchronous_commit", "shared_buffers", "max_wal_size")


@dataclass(frozen=True, slots=True)
class Report:
    """The outcomes of one run of the benchmark, and what it ran on."""

    environment: Environment
    outcomes: tuple[Outcome, ...]

    @property
    def is_passed(self) -> bool:
        """Whether every outcome is."""
        return all(outcome.is_passed for outcome in self.outcomes)


def to_json(report: Report) -> bytes:
    """Write everything: each run's figures too, so that others can judge anew."""
    return orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def from_json(text: bytes) -> Report:
    """Read what `to_json` wrote."""
    read = orjson.loads(text)
    environment = {field.name: read["environment"][field.name] for field in fields(Environment)}
    environment["measured_at"] = datetime.fromisoformat(environment["measured_at"])
    return Report(Environment(**environment), tuple(map(_outcome, read["outcomes"])))


def _outcome(read: Mapping[str, Any]) -> Outcome:
    runs = tuple(Run(**run) for run in read["runs"])
    judged = tuple(Judged(each["text"], each["value"], Verdict(each["verdict"])) for each in read["judged"])
    return Outcome(**{**read, "runs": runs, "judged": judged})


def as_line(environment: Environment) -> str:
    """Say what a run is made on, for the terminal."""
    told = asdict(environment)
    settings = [f"{name} {told[name]}" for name in _SETTINGS]
    versions = [f"{name} {told[name]}" for name in _VERSIONS if told[name] is not None]
    return f"{environment.cores} x {environment.cpu}, {', '.join(versions)}; PostgreSQL with {', '.join(settings)}"


def as_table(contest: Contest, outcome: Outcome) -> RenderableType:
    """Show the medians, and each target with what became of it."""
    title = f"{outcome.name}: {outcome.about} ({outcome.events:,} events, medians of {outcome.rounds})"
    notes = [Text(f"left out: {name}: {why}") for name, why in outcome.left_out.items()]
    shown = [measure for measure in contest.measures if any(measure.name in f for f in outcome.medians.values())]
    if not shown:
        return Group(Text(title, style="bold"), Text("nothing was measured"), *notes)
    return Group(Text(title, style="bold"), _medians_table(outcome, shown), _targets_table(outcome), *notes)


def _medians_table(outcome: Outcome, measures: Sequence[Measure]) -> Table:
    """Show each contender's medians, and how far its runs were apart in the first measure."""
    table = Table("contender")
    for place, measure in enumerate(measures):
        table.add_column(measure.title, justify="right")
        if place == 0 and outcome.rounds > 1:
            table.add_column("from - to", justify="right", style="dim")
    for contender, figures in outcome.medians.items():
        first, *others = [_shown(measure, figures) for measure in measures]
        spread = [_range(outcome.runs, contender, measures[0])] if outcome.rounds > 1 else []
        table.add_row(contender, first, *spread, *others)
    return table


def _range(runs: Sequence[Run], contender: str, measure: Measure) -> str:
    found = [run.figures for run in runs if run.contender == contender and measure.name in run.figures]
    ordered = sorted(found, key=lambda figures: figures[measure.name])
    return f"{_shown(measure, ordered[0])} - {_shown(measure, ordered[-1])}" if ordered else ""


def _targets_table(outcome: Outcome) -> Table:
    table = Table("target", "found", "")
    for judged in outcome.judged:
        table.add_row(
            Text(judged.text), _short(judged.value), Text(judged.verdict.value, style=_STYLES[judged.verdict])
        )
    return table


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _shown(measure: Measure, figures: Figures) -> str:
    figure = figures.get(measure.name)
    return "" if figure is None else f"{figure:,.{measure.digits}f}"


def as_chart(outcomes: Sequence[Outcome]) -> str:
    """Draw the rates side by side, one group of bars a row; what has none is left out. Returns an SVG document."""
    groups = {
        outcome.name: {name: figures[EVENTS_PER_S.name] for name, figures in outcome.medians.items()}
        for outcome in outcomes
    }
    return bars("eventsync and others, medians", groups, EVENTS_PER_S.title)
