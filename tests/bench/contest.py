"""A contest as values: who runs, what is measured, what the ratios must be; and the arithmetic that judges it.

A row of the benchmark is one module in `bench/rows/` with a `CONTEST`. Nothing here starts anything: `runner` does.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import median
from types import MappingProxyType

Figures = Mapping[str, float]
"""What one run of a contender measured: a figure by its measure's name."""


class Need(StrEnum):
    """What the runner makes for each run of a contender, anew every time."""

    DATABASE = "database"  # all of eventsync's migrations applied
    EMPTY_DATABASE = "empty database"  # no table at all
    BROKER = "broker"  # a virtual host of its own


class Comparison(StrEnum):
    """Which side of its bound a target's value must be on; the bound itself will do."""

    AT_LEAST = "≥"
    AT_MOST = "≤"


@dataclass(frozen=True, slots=True)
class Measure:
    """One kind of figure: `name` is its key in a contender's JSON, `title` its column, `digits` those shown."""

    name: str
    title: str
    digits: int = 0


EVENTS_PER_S = Measure("events_per_s", "events/s")  # made by the runner, of `events` and `seconds`
P50_MS = Measure("p50_ms", "p50 ms", 1)
P99_MS = Measure("p99_ms", "p99 ms", 1)
CPU_SECONDS = Measure("cpu_seconds", "CPU s", 2)
CPU_US_PER_EVENT = Measure(
    "cpu_us_per_event", "CPU us/event"
)  # made by the runner, of `cpu_seconds`; calm on a busy machine
MEMORY_MB = Measure("memory_mb", "memory MB")
LOST = Measure("lost", "lost")
DOUBLED = Measure("doubled", "doubled")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run happens: URLs of what the contender needs, "" otherwise, and a folder of the run's own."""

    database_url: str
    amqp_url: str
    events: int
    folder: Path


class CannotRun(Exception):
    """A contender lacks something on this machine: it is left out, and the report says why (the message)."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One program, started anew as a process of its own for each run.

    It is `python -m <module>` (this interpreter; a full dotted name such as `bench.contenders.relay`) or `command`
    (another interpreter, node); both get `--database-url URL --amqp-url URL --events N` and then `arguments`, and print
    one JSON object as the last line of their output: `events` and `seconds`, and any other figure by its measure's
    name (`p50_ms`, `p99_ms`, `cpu_seconds`, `memory_mb`, `lost`, `doubled`, ...). Set-up and warm-up are outside
    `seconds`.

    `install` runs once, before the first round (it may make a virtual environment), `prepare` before every run, in its
    place; either raises CannotRun. A profile is of what a module's Stopwatch is around, and of the processes that it
    starts by `bench.child.python`; of those alone where `is_front` says that the module only drives them.
    """

    name: str
    module: str = ""
    command: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    needs: frozenset[Need] = frozenset({Need.DATABASE})
    install: Callable[[], Awaitable[None]] | None = None
    prepare: Callable[[Place], Awaitable[None]] | None = None
    is_front: bool = False
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        """Refuse what could not be started."""
        if bool(self.module) == bool(self.command):
            raise ValueError(f"the contender {self.name} needs either a module or a command")


@dataclass(frozen=True, slots=True)
class Target:
    """What must hold of the medians: `contender`'s figure, over that of `against` where it names one."""

    contender: str
    measure: Measure
    comparison: Comparison
    bound: float
    against: str | None = None

    @property
    def text(self) -> str:
        """Say it for a person."""
        bound = f"{self.comparison} {self.bound:g}"
        whole = bound if self.against is None else f"{bound} x {self.against}"
        return f"{self.contender}: {self.measure.title} {whole}"


def at_least(bound: float, measure: Measure, contender: str, *, against: str | None = None) -> Target:
    """Ask for this much, or for this many times the figure of `against`."""
    return Target(contender, measure, Comparison.AT_LEAST, bound, against)


def at_most(bound: float, measure: Measure, contender: str, *, against: str | None = None) -> Target:
    """Allow this much, or this share of the figure of `against`."""
    return Target(contender, measure, Comparison.AT_MOST, bound, against)


@dataclass(frozen=True, slots=True)
class Contest:
    """A row: `ours` is the contender (or the contenders) of which nothing may be lost or doubled.

    `events` is how many a run handles unless the caller says otherwise; `measures` are the columns shown. The first of
    them is what the chart draws.
    """

    name: str
    about: str
    ours: tuple[str, ...]
    contenders: tuple[Contender, ...]
    targets: tuple[Target, ...]
    events: int
    measures: tuple[Measure, ...] = (EVENTS_PER_S, CPU_US_PER_EVENT, MEMORY_MB)

    def __post_init__(self) -> None:
        """Refuse names that no contender bears, which would leave a target unjudged."""
        names = [contender.name for contender in self.contenders]
        used = {*self.ours, *(name for target in self.targets for name in (target.contender, target.against) if name)}
        if len(set(names)) < len(names) or not used <= set(names):
            raise ValueError(f"{self.name}: contenders {names} do not fit the names used: {sorted(used)}")


class Verdict(StrEnum):
    """What became of a target."""

    MET = "met"
    MISSED = "missed"
    UNKNOWN = "unknown"  # a contender was left out or failed, or gave no such figure


@dataclass(frozen=True, slots=True)
class Judged:
    """A target with the value that was found; None where there was none."""

    text: str
    value: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Run:
    """One contender's run in one round (counted from 1). `failure` says why there are no figures."""

    contender: str
    round: int
    figures: Figures
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that a contest gave; `left_out` names contenders that cannot run here, with the reason."""

    name: str
    about: str
    events: int
    rounds: int
    runs: tuple[Run, ...]
    medians: Mapping[str, Figures]
    judged: tuple[Judged, ...]
    left_out: Mapping[str, str]
    profiles: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_passed(self) -> bool:
        """Whether no target was missed and no run failed; a contender left out is no fault."""
        return all(judged.verdict is not Verdict.MISSED for judged in self.judged) and not any(
            run.failure for run in self.runs
        )


def figures_in(line: str) -> Figures:
    """Read a contender's last line, with its rate and its cost. Raises ValueError where it lacks what it must tell."""
    try:
        figures = json.loads(line)
    except ValueError:
        figures = None
    if not isinstance(figures, dict) or not all(isinstance(value, int | float) for value in figures.values()):
        raise ValueError("a contender's last line must be a JSON object of numbers")
    events, seconds = figures.get("events"), figures.get("seconds", 0)
    if events is None or seconds <= 0:
        raise ValueError("a contender's last line must have `events`, and `seconds` above 0")
    made = {EVENTS_PER_S.name: events / seconds}
    if events and CPU_SECONDS.name in figures:
        made[CPU_US_PER_EVENT.name] = figures[CPU_SECONDS.name] / events * 1e6
    return {**figures, **made}


def medians_of(runs: Sequence[Run]) -> dict[str, Figures]:
    """Take each contender's medians over its runs, figure by figure; but the worst of what was lost or doubled."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for name, figure in run.figures.items():
            found[run.contender][name].append(figure)
    return {
        contender: {name: max(values) if name in _NEVER else median(values) for name, values in figures.items()}
        for contender, figures in found.items()
    }


def judge(contest: Contest, medians: Mapping[str, Figures]) -> tuple[Judged, ...]:
    """Hold the medians against the contest's targets, and ours against loss."""
    nothing_lost = tuple(
        at_most(0, measure, contender)
        for contender in contest.ours
        for measure in (LOST, DOUBLED)
        if measure.name in medians.get(contender, {})
    )
    return tuple(_judge_one(target, medians) for target in (*contest.targets, *nothing_lost))


def _judge_one(target: Target, medians: Mapping[str, Figures]) -> Judged:
    value = _value(target, medians)
    if value is None:
        return Judged(target.text, None, Verdict.UNKNOWN)
    is_met = value >= target.bound if target.comparison is Comparison.AT_LEAST else value <= target.bound
    return Judged(target.text, value, Verdict.MET if is_met else Verdict.MISSED)


def _value(target: Target, medians: Mapping[str, Figures]) -> float | None:
    own = medians.get(target.contender, {}).get(target.measure.name)
    if target.against is None or own is None:
        return own
    other = medians.get(target.against, {}).get(target.measure.name)
    return own / other if other else None


_NEVER = frozenset({LOST.name, DOUBLED.name})
