"""What a benchmark found: each trial, medians over rounds, ratios to the machine's limits, as JSON and as chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from eventsync.bench.charts import bars
from eventsync.bench.environment import Environment
from eventsync.bench.limits import Limits
from eventsync.bench.options import BenchOptions, BusKind
from eventsync.bench.trial import Trial

LISTED_IDS = 10
BUS_NAMES: Mapping[BusKind, str] = {BusKind.MEMORY: "in-process bus", BusKind.RABBITMQ: "RabbitMQ"}


@dataclass(frozen=True, slots=True)
class Summary:
    """The medians over the rounds of one bus; `…_ratio` are shares of the limit measured in the same round.

    `cpu_us_per_event` is processor time in microseconds, of all processes but the load generator; it hardly depends on
    what else the machine does. Latencies in milliseconds; None where no webhook became a row.
    """

    bus: BusKind
    post_events_per_s: float
    row_events_per_s: float
    post_to_handler_ratio: float
    row_to_handler_ratio: float
    row_to_commits_ratio: float
    cpu_us_per_event: float
    post_p50_ms: float
    post_p95_ms: float
    post_p99_ms: float
    row_p50_ms: float | None
    row_p95_ms: float | None
    row_p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Round:
    """One round: the machine's limits, then a trial a bus."""

    limits: Limits
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All rounds, and what they ran on."""

    environment: Environment
    options: BenchOptions
    rounds: tuple[Round, ...]

    @property
    def is_good(self) -> bool:
        """Whether in every trial every webhook was accepted and took effect exactly once."""
        return all(trial.is_good for trial in self.trials)

    @property
    def trials(self) -> list[Trial]:
        """The trials of all rounds, in their order."""
        return [trial for each in self.rounds for trial in each.trials]

    def summaries(self) -> list[Summary]:
        """Tell each bus's medians."""
        return [_summary(bus, self.rounds) for bus in self.options.buses]

    def to_json(self) -> dict[str, Any]:
        """Write everything as plain values; of ids that are wrong the first ten, with their count."""
        settings = asdict(self.options)
        for private in ("amqp_url", "temp_dir"):
            del settings[private]
        return {
            "environment": asdict(self.environment),
            "settings": settings,
            "is_good": self.is_good,
            "summaries": [asdict(summary) for summary in self.summaries()],
            "rounds": [_round_json(each) for each in self.rounds],
        }

    def to_chart(self) -> str:
        """Draw the medians as an SVG: events a second or, where these were given, latencies."""
        if self.options.rate_per_s is not None:
            return self._latency_chart(self.options.rate_per_s)
        groups = {
            BUS_NAMES[each.bus]: {"POST → 200": each.post_events_per_s, "POST → row": each.row_events_per_s}
            for each in self.summaries()
        }
        limits = [each.limits for each in self.rounds]
        groups["this machine's limits"] = {
            "handler that stores nothing": median(each.handler_events_per_s for each in limits),
            "durable commits, one by one": median(each.commits_per_s for each in limits),
        }
        version = self.environment.eventsync
        cores = self.environment.cores
        return bars(f"eventsync {version}: webhooks a second on {cores} cores", groups, "events per second")

    def _latency_chart(self, rate_per_s: float) -> str:
        groups = {
            BUS_NAMES[each.bus]: {
                "POST → 200, p50": each.post_p50_ms,
                "POST → 200, p99": each.post_p99_ms,
                "receipt → row, p50": each.row_p50_ms or 0.0,
                "receipt → row, p99": each.row_p99_ms or 0.0,
            }
            for each in self.summaries()
        }
        title = f"eventsync {self.environment.eventsync}: latency at {rate_per_s:g} webhooks a second"
        return bars(title, groups, "milliseconds")


def _summary(bus: BusKind, rounds: Sequence[Round]) -> Summary:
    pairs = [(trial, each.limits) for each in rounds for trial in each.trials if trial.bus is bus]
    posts = [trial.post_latencies for trial, _ in pairs]
    rows = [trial.row_latencies for trial, _ in pairs if trial.row_latencies is not None]
    return Summary(
        bus=bus,
        post_events_per_s=median(trial.post_events_per_s for trial, _ in pairs),
        row_events_per_s=median(trial.row_events_per_s for trial, _ in pairs),
        post_to_handler_ratio=median(trial.post_events_per_s / at.handler_events_per_s for trial, at in pairs),
        row_to_handler_ratio=median(trial.row_events_per_s / at.handler_events_per_s for trial, at in pairs),
        row_to_commits_ratio=median(trial.row_events_per_s / at.commits_per_s for trial, at in pairs),
        cpu_us_per_event=median(trial.cpu_us_per_event for trial, _ in pairs),
        post_p50_ms=median(each.p50_ms for each in posts),
        post_p95_ms=median(each.p95_ms for each in posts),
        post_p99_ms=median(each.p99_ms for each in posts),
        row_p50_ms=median(each.p50_ms for each in rows) if rows else None,
        row_p95_ms=median(each.p95_ms for each in rows) if rows else None,
        row_p99_ms=median(each.p99_ms for each in rows) if rows else None,
    )


def _round_json(each: Round) -> dict[str, Any]:
    return {"limits": asdict(each.limits), "trials": [_trial_json(trial) for trial in each.trials]}


def _trial_json(trial: Trial) -> dict[str, Any]:
    wrong = asdict(trial.verdict)
    return asdict(trial) | {
        "is_good": trial.is_good,
        "verdict": {name: {"count": len(ids), "first": list(ids[:LISTED_IDS])} for name, ids in wrong.items()},
    }
