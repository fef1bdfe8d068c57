"""The whole benchmark: rounds of limits and trials on a place of its own, and the report of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventsync.bench.broker import borrowed_vhost, require_unused
from eventsync.bench.environment import describe_environment
from eventsync.bench.limits import Limits, measure_limits
from eventsync.bench.options import BenchOptions, BusKind
from eventsync.bench.place import Place, open_place
from eventsync.bench.report import Report, Round
from eventsync.bench.specimens import appointment_webhooks
from eventsync.bench.trial import Trial, Watcher, run_trial
from eventsync.domain.errors import Misconfigured

_LIMIT_EVENTS = 20_000  # enough to know the handler's rate


async def run_benchmark(options: BenchOptions, watcher: Watcher) -> Report:
    """Do what `options` ask for; nothing stays behind, also where this is cancelled.

    Raises Misconfigured where the virtual host holds eventsync's queues already or RabbitMQ or PostgreSQL cannot be
    used, Transient where one of them goes away meanwhile.
    """
    if (options.amqp_url is not None) != (BusKind.RABBITMQ in options.buses):
        raise Misconfigured("an AMQP URL is what the bus rabbitmq needs, and no other")
    if options.amqp_url is not None:
        await require_unused(options.amqp_url)  # said at once, not after the trials of another bus
    async with open_place(options.temp_dir) as place:
        environment = await describe_environment(place.server_url, options.amqp_url)
        rounds = [await _round(place, options, watcher, number) for number in range(1, options.rounds + 1)]
    return Report(environment, options, tuple(rounds))


async def _round(place: Place, options: BenchOptions, watcher: Watcher, number: int) -> Round:
    told = watcher if options.rounds == 1 else _Numbered(watcher, f"round {number} of {options.rounds}, ")
    limits = await _limits(place, options, told)
    trials: list[Trial] = []
    for bus in options.buses:
        async with _bus_of_its_own(options, bus):
            trials.append(await run_trial(place, options, bus, told))
    return Round(limits, tuple(trials))


@asynccontextmanager
async def _bus_of_its_own(options: BenchOptions, bus: BusKind) -> AsyncIterator[None]:
    """Leave no queue to the next trial, nor to anyone else."""
    if bus is BusKind.MEMORY or options.amqp_url is None:
        yield
        return
    async with borrowed_vhost(options.amqp_url):
        yield


async def _limits(place: Place, options: BenchOptions, watcher: Watcher) -> Limits:
    events = min(options.events, _LIMIT_EVENTS)
    bodies = appointment_webhooks(events, version_ms=0)
    watcher.begin("the machine's own limits", events)
    async with place.database() as database_url:
        return await measure_limits(bodies, options.connections, database_url, watcher.progress)


class _Numbered:
    """Puts the round's number before what is being done."""

    def __init__(self, watcher: Watcher, prefix: str) -> None:
        self._watcher = watcher
        self._prefix = prefix

    def begin(self, doing: str, total: int) -> None:
        self._watcher.begin(self._prefix + doing, total)

    def progress(self, done: int) -> None:
        self._watcher.progress(done)
