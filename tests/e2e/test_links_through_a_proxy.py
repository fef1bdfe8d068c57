"""The links to PostgreSQL and RabbitMQ are cut, slow and half-open under load; nothing is lost, and all goes on."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from e2e.eventsync_process import EventsyncProcess
from e2e.fixtures import Connect
from e2e.moving_again import RecordProperty, acknowledges_more, seconds_to_move, tell
from e2e.nothing_lost import assert_nothing_lost
from e2e.persistent_sender import PersistentSender
from e2e.probes import says_that_all_is_well, says_that_it_lacks, spooled_events
from e2e.steady_load import under_load
from e2e.whole_process import PRACTICE, running, whole_process
from eventsync.sandbox import serve
from servers.eventually import eventually
from servers.proxy import TcpProxy

_PROVES = bool(os.environ.get("EVENTSYNC_PROVE"))
_LASTS_S = 30.0 if _PROVES else 4.0
_CHUNK_DELAY_S = 0.1 if _PROVES else 0.05
_CUTS = 5 if _PROVES else 3
_ANSWERS_WITHIN_S = 8.0  # an INSERT has three seconds, then the spool takes over

MakeProxy = Callable[[str], Awaitable[TcpProxy]]
Move = Callable[[TcpProxy], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """A process that reaches one neighbour by way of `proxy`, and the load that it is under."""

    process: EventsyncProcess
    proxy: TcpProxy
    sender: PersistentSender
    database: asyncpg.Connection


RunTrial = Callable[..., AbstractAsyncContextManager[Trial]]


@pytest.fixture
def run_trial(
    tcp_proxy: MakeProxy, connect: Connect, database: asyncpg.Connection, database_url: str, tmp_path: Path
) -> RunTrial:
    """Run the block on a process behind a proxy under load; then nothing was lost and every worker runs."""

    @asynccontextmanager
    async def trial(amqp_url: str | None = None) -> AsyncIterator[Trial]:
        proxy = await tcp_proxy(amqp_url or database_url)
        urls = (proxy.url, None) if amqp_url is None else (database_url, proxy.url)
        process = whole_process(tmp_path, *urls)
        async with serve(PRACTICE) as sandbox, running(process):
            sender = PersistentSender(process.base_url + (await connect(sandbox)).webhook_path)
            async with under_load(sandbox, sender) as load:
                await seconds_to_move(database, sender)
                yield Trial(process, proxy, sender, database)
                await says_that_all_is_well(process.base_url)
            await assert_nothing_lost(database, sandbox, load.work(), sender)
            assert await process.stop() == 0
            assert "worker_did_not_end_in_time" not in process.log_path.read_text()

    return trial


def hold_both(proxy: TcpProxy) -> None:
    """Let vanish what either side sends; new connections are taken and never served."""
    proxy.hold()


def hold_answers(proxy: TcpProxy) -> None:
    """Let the server hear us and do as it is told, and us hear nothing of it."""
    proxy.hold_answers()


def hold_requests(proxy: TcpProxy) -> None:
    """Let us hear the server, which hears nothing of us."""
    proxy.hold_requests()


def flow_again(proxy: TcpProxy) -> None:
    """Let what was held back arrive after all, late."""
    proxy.resume()


def cut_at_last(proxy: TcpProxy) -> None:
    """Break the old connections off, with all that was held back; new ones work."""
    proxy.cut()
    proxy.resume()


# The first two hold every pair of one direction and one end between them; `make prove` runs all.
_HALF_OPEN = [(hold_both, cut_at_last), (hold_answers, flow_again)]
if _PROVES:
    _HALF_OPEN += [(hold_both, flow_again), (hold_answers, cut_at_last)]
    _HALF_OPEN += [(hold_requests, flow_again), (hold_requests, cut_at_last)]
half_open = pytest.mark.parametrize(
    ("hold", "end"), [pytest.param(hold, end, id=f"{hold.__name__}-{end.__name__}") for hold, end in _HALF_OPEN]
)


async def cut_again_and_again(trial: Trial) -> None:
    def is_linked() -> bool:
        return trial.proxy.connections > 0

    for _ in range(_CUTS):
        await eventually(is_linked, 30.0)
        accepted = trial.proxy.accepted
        trial.proxy.cut()

        def is_back(accepted: int = accepted) -> bool:
            return trial.proxy.accepted > accepted

        await eventually(is_back, 30.0)


async def refuse_until_it_is_said(trial: Trial, part: str) -> None:
    await trial.proxy.refuse()
    trial.proxy.cut()
    await says_that_it_lacks(trial.process.base_url, part)
    assert await trial.process.is_ready()  # the door is open all the while
    await trial.proxy.accept()


async def go_slowly(trial: Trial) -> None:
    """Delay every chunk: slower than any network, but nothing is broken, so nothing is said to be."""
    trial.proxy.delay_s = _CHUNK_DELAY_S
    for _ in range(2):
        await seconds_to_move(trial.database, trial.sender)
    await says_that_all_is_well(trial.process.base_url)
    trial.proxy.delay_s = 0.0


async def answers_all_the_while(trial: Trial, *, at_least_s: float) -> None:
    """See webhooks be acknowledged, one after the other, for as long as the fault lasts."""
    give_up_at = time.monotonic() + at_least_s
    while time.monotonic() < give_up_at:
        await acknowledges_more(trial.sender, within_s=_ANSWERS_WITHIN_S)


@pytest.fixture(params=["postgres", pytest.param("bus", marks=pytest.mark.rabbitmq)])
def neighbour(request: pytest.FixtureRequest) -> tuple[str, str | None]:
    """Each neighbour, as the probes name it; not async, since the broker starts in an event loop of its own."""
    part: str = request.param
    return part, request.getfixturevalue("amqp_url") if part == "bus" else None


async def test_a_link_is_cut_refused_and_slow_under_load(
    neighbour: tuple[str, str | None], run_trial: RunTrial, record_property: RecordProperty
) -> None:
    part, amqp_url = neighbour
    async with run_trial(amqp_url) as trial:
        await cut_again_and_again(trial)
        tell(record_property, f"{part} cut {_CUTS} times", await seconds_to_move(trial.database, trial.sender))
        await refuse_until_it_is_said(trial, part)
        tell(record_property, f"{part} refused connections", await seconds_to_move(trial.database, trial.sender))
        await go_slowly(trial)
        tell(record_property, f"{part} was slow", await seconds_to_move(trial.database, trial.sender))


@half_open
async def test_the_link_to_postgresql_is_half_open_and_the_door_answers_by_the_spool(
    hold: Move, end: Move, run_trial: RunTrial, record_property: RecordProperty
) -> None:
    async with run_trial() as trial:
        spooled = await spooled_events(trial.process.base_url)
        hold(trial.proxy)
        async with asyncio.TaskGroup() as group:
            group.create_task(says_that_it_lacks(trial.process.base_url, "postgres"))
            group.create_task(answers_all_the_while(trial, at_least_s=_LASTS_S))
        assert await spooled_events(trial.process.base_url) > spooled
        assert await trial.process.is_ready()
        end(trial.proxy)
        tell(record_property, "half-open to postgres", await seconds_to_move(trial.database, trial.sender))


@half_open
async def test_the_link_to_rabbitmq_is_half_open_and_all_goes_on_after_it(
    hold: Move, end: Move, run_trial: RunTrial, amqp_url: str, record_property: RecordProperty
) -> None:
    async with run_trial(amqp_url) as trial:
        hold(trial.proxy)
        async with asyncio.TaskGroup() as group:
            group.create_task(says_that_it_lacks(trial.process.base_url, "bus"))
            group.create_task(answers_all_the_while(trial, at_least_s=_LASTS_S))
        assert await trial.process.is_ready()
        end(trial.proxy)
        tell(record_property, "half-open to the bus", await seconds_to_move(trial.database, trial.sender))
