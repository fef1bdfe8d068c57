"""What eventsync tells of itself: structured logs and the metrics of every role, without personal data."""

from __future__ import annotations

import logging
import sys
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:  # only some roles have these
    from eventsync.domain.drift import DriftFinding

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCY_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 3600)


class Metrics:
    """Every metric by its name, on a registry of its own, so that several instances can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._tell_of_the_door(self.registry)
        self._tell_of_events(self.registry)
        self._tell_of_what_waits(self.registry)
        self._tell_of_notifications_and_workers(self.registry)
        self._tell_of_vendors(self.registry)
        self._tell_of_deliveries(self.registry)

    def _tell_of_the_door(self, registry: CollectorRegistry) -> None:
        self.received = Counter(
            "eventsync_events_received", "Events made durable at the door", ["vendor", "store"], registry=registry
        )
        self.refused = Counter(
            "eventsync_requests_refused", "Requests turned away at the door", ["vendor", "reason"], registry=registry
        )
        self.ingress_seconds = Histogram(
            "eventsync_ingress_seconds",
            "From a webhook's arrival to its durable answer",
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )

    def _tell_of_events(self, registry: CollectorRegistry) -> None:
        self.published = Counter(
            "eventsync_events_published", "Events confirmed by the bus", ["work", "lane"], registry=registry
        )
        self.republished = Counter(
            "eventsync_events_republished", "Events published again because they seemed lost", registry=registry
        )
        self.finished = Counter(
            "eventsync_events_finished", "Events that came to an end", ["vendor", "outcome"], registry=registry
        )
        self.parked = Counter("eventsync_events_parked", "Events set aside for a person", ["reason"], registry=registry)
        self.latency_seconds = Histogram(
            "eventsync_webhook_to_row_seconds",
            "From an event's receipt to the commit of what it changed",
            ["vendor"],
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.batch_events = Histogram(
            "eventsync_apply_batch_events",
            "Events applied in one transaction",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200),
            registry=registry,
        )

    def _tell_of_what_waits(self, registry: CollectorRegistry) -> None:
        self.queue_events = Gauge(
            "eventsync_queue_events", "Unfinished events", ["work", "lane", "status"], registry=registry
        )
        self.queue_oldest_seconds = Gauge(
            "eventsync_queue_oldest_seconds",
            "Age of the oldest unfinished event that is not parked",
            ["work"],
            registry=registry,
        )
        self.spool_events = Gauge("eventsync_spool_events", "Events waiting in the local spool", registry=registry)
        self.spool_bytes = Gauge("eventsync_spool_bytes", "Size of the local spool", registry=registry)
        self.spool_oldest_seconds = Gauge(
            "eventsync_spool_oldest_seconds", "Age of the oldest event in the local spool", registry=registry
        )

    def _tell_of_notifications_and_workers(self, registry: CollectorRegistry) -> None:
        self.notifications = Counter(
            "eventsync_notifications", "Notifications heard from PostgreSQL", ["channel"], registry=registry
        )
        self.wakeups = Counter(
            "eventsync_relay_wakeups",
            "Relay turns that found work, by what woke them: `poll` means that a notification was missed",
            ["by"],
            registry=registry,
        )
        self.listener_proven = Gauge(
            "eventsync_listener_proven", "1 while the loopback probe of LISTEN comes back", registry=registry
        )
        self.worker_restarts = Counter(
            "eventsync_worker_restarts", "Workers started again after a failure", ["worker"], registry=registry
        )

    def _tell_of_vendors(self, registry: CollectorRegistry) -> None:
        self.api_calls = Counter(
            "eventsync_vendor_calls", "Calls to vendors' APIs", ["vendor", "purpose", "result"], registry=registry
        )
        self.budget_left = Gauge(
            "eventsync_budget_left", "Calls left today to a vendor's API", ["connection"], registry=registry
        )
        self.truth_age_seconds = Gauge(
            "eventsync_truth_age_seconds",
            "How long ago an organization's living records were last known to be true; quantile 1 is the oldest",
            ["organization", "kind", "quantile"],
            registry=registry,
        )
        self.runs_ended = Counter(
            "eventsync_runs_ended",
            "Runs of syncs that came to an end, by their type and status",
            ["sync_type", "status"],
            registry=registry,
        )
        self.drift_found = Counter(
            "eventsync_drift_found",
            "Records that a sweep found wrong, by the webhook that should have told of it (`none`: there is none)",
            ["kind", "expected_event"],
            registry=registry,
        )
        self.drift_last_day = Gauge(
            "eventsync_drift_last_day",
            "Records that sweeps found wrong within a day, by what became of the webhook that should have told of it",
            ["expected_event", "verdict"],
            registry=registry,
        )
        self.webhook_silent_seconds = Gauge(
            "eventsync_webhook_silent_seconds",
            "How long a connection's webhook has been silent although its practice changed; else 0",
            ["connection"],
            registry=registry,
        )

    def _tell_of_deliveries(self, registry: CollectorRegistry) -> None:
        self.outbound_items = Gauge(
            "eventsync_outbound_items",
            "Items of the outbound queue; of those that ended, only what failed",
            ["status"],
            registry=registry,
        )
        self.outbound_oldest_seconds = Gauge(
            "eventsync_outbound_oldest_seconds", "Age of the outbound queue's oldest unfinished item", registry=registry
        )
        self.outbound_attempts = Counter(
            "eventsync_outbound_attempts",
            "Attempts to deliver an item of the outbound queue; `lost`: the item was not ours any more at the end",
            ["result"],
            registry=registry,
        )
        self.outbound_delivery_seconds = Histogram(
            "eventsync_outbound_delivery_seconds",
            "From an item's creation to its being accepted",
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.outbound_paused = Gauge(
            "eventsync_outbound_paused",
            "1 while the outbound queue waits for a person to mend its account",
            registry=registry,
        )

    def count_drift(self, findings: Iterable[DriftFinding]) -> None:
        """Count what a sweep found wrong, once that is committed."""
        counts = Tally((finding.kind.value, finding.expected_event or "none") for finding in findings)
        for (kind, expected_event), count in counts.items():
            self.drift_found.labels(kind=kind, expected_event=expected_event).inc(count)

    def render(self) -> bytes:
        """Write all of them in Prometheus' text format."""
        return generate_latest(self.registry)


def configure_logging(log_format: str) -> None:
    """Send structured logs to standard error, as `console` lines or `json`; libraries' logs go the same way."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    renderer: Any = structlog.processors.JSONRenderer() if log_format == "json" else console
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _ToStandardError()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _without_traces, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # Their own lines would name addresses, queries or bodies.
    for name in ("aiohttp.access", "aiormq", "aio_pika", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class _ToStandardError(logging.Handler):
    """Writes to whatever standard error is at the moment: a live view puts itself in its place while it draws."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201  # this is where lines come out
        except Exception:  # noqa: BLE001  # as every handler does: a line that cannot be written stops nobody
            self.handleError(record)


def origin_of(error: BaseException) -> str:
    """Name the place in the code that failed, as `module:line`: an error's own text could quote a patient's data."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return "unknown" if frame is None else f"{frame.tb_frame.f_globals.get('__name__')}:{frame.tb_lineno}"


def _without_traces(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Keep the kind of an exception and drop its text and trace, which can quote a patient's data."""
    info = event.pop("exc_info", None)
    if info:
        kind = (
            info[0] if isinstance(info, tuple) else type(info) if isinstance(info, BaseException) else sys.exc_info()[0]
        )
        event["exception"] = getattr(kind, "__name__", "unknown")
    return event
