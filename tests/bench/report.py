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


def as_table(contest: Contest, outcome: Outcome) -> RenderableType:
    """Show the medians, and each target with what became of it."""
    title = f"{outcome.name}: {outcome.about} ({outcome.events:,} events, medians of {outcome.rounds})"
    notes = [Text(f"left out: {name}: {why}") for name, why in outcome.left_out.items()]
    shown = [measure for measure in contest.measures if any(measure.name in f for f in outcome.medians.values())]
    return Group(Text(title, style="bold"), _medians_table(outcome.medians, shown), _targets_table(outcome), *notes)


def _medians_table(medians: Mapping[str, Figures], measures: Sequence[Measure]) -> Table:
    table = Table("contender")
    for measure in measures:
        table.add_column(measure.title, justify="right")
    for contender, figures in medians.items():
        table.add_row(contender, *(_shown(measure, figures) for measure in measures))
    return table


def _targets_table(outcome: Outcome) -> Table:
    table = Table("target", "found", "")
    for judged in outcome.judged:
        found = "" if judged.value is None else f"{judged.value:,.3g}"
        table.add_row(Text(judged.text), found, Text(judged.verdict.value, style=_STYLES[judged.verdict]))
    return table


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
