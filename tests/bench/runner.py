"""Runs contests: servers of the benchmark's own, and for each run a fresh database, virtual host and process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import asyncpg

from bench.contest import (
    CannotRun,
    Contender,
    Contest,
    Figures,
    Need,
    Outcome,
    Place,
    Run,
    figures_in,
    judge,
    medians_of,
)
from bench.profiled import IS_FRONT, PROFILES
from eventsync.postgres.embedded import EmbeddedPostgres
from eventsync.postgres.migrations import migrate
from servers.postgres import DatabaseServer
from servers.rabbitmq import MISSING, RabbitServer, find_rabbitmq

# Durable, as users have it (fsync and synchronous_commit are PostgreSQL's defaults, named here so that it is seen);
# commits are dated, since that is how rows' latencies are told. The same server serves every contender.
DURABLE_SETTINGS: Mapping[str, str] = MappingProxyType(
    {"fsync": "on", "synchronous_commit": "on", "track_commit_timestamp": "on", "max_connections": "300"}
)
_TESTS = Path(__file__).resolve().parents[1]
_OUTPUT_CHARS = 3000
_CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Servers:
    """The running servers; `rabbitmq` is None where no contender asked for it."""

    postgres: DatabaseServer
    rabbitmq: RabbitServer | None

    async def settle(self) -> None:
        """Write out what the run before has left, so that no contender pays for another's checkpoint."""
        connection = await asyncpg.connect(self.postgres.url, timeout=_CONNECT_TIMEOUT_S)
        try:
            await connection.execute("CHECKPOINT")
        finally:
            await connection.close(timeout=_CONNECT_TIMEOUT_S)


@asynccontextmanager
async def open_servers(*, vhosts: int) -> AsyncIterator[Servers]:
    """Start PostgreSQL and, where any virtual host is wanted, RabbitMQ; both are ended and forgotten afterwards."""
    async with contextlib.AsyncExitStack() as stack:
        folder = _reachable_folder()
        stack.callback(shutil.rmtree, folder)
        embedded = await EmbeddedPostgres(folder / "data", settings=DURABLE_SETTINGS).start()
        stack.push_async_callback(embedded.stop)
        postgres = DatabaseServer(embedded.url)
        await postgres.prepare_template(migrate)
        rabbitmq = None
        if vhosts:
            programs = find_rabbitmq()
            if programs is None:
                raise CannotRun(MISSING)
            rabbitmq = RabbitServer(programs, folder / "rabbitmq", vhosts=vhosts)
            stack.push_async_callback(rabbitmq.close)
            await rabbitmq.start()
        yield Servers(postgres, rabbitmq)


def _reachable_folder() -> Path:
    """Make a folder that PostgreSQL's own user can pass through, where we are root."""
    folder = Path(tempfile.mkdtemp(prefix="evs-"))
    folder.chmod(0o711)
    return folder


def vhosts_of(contests: Sequence[Contest], rounds: int) -> int:
    """Count the virtual hosts that these contests use up, a profile's included."""
    brokers = sum(Need.BROKER in contender.needs for contest in contests for contender in contest.contenders)
    return brokers * (rounds + 1)


class ContenderFailed(Exception):
    """A contender ended badly; `output` is what it said last, which may name paths of this machine."""

    def __init__(self, why: str, output: str) -> None:
        super().__init__(why)
        self.output = output


class Runner:
    """Runs contests on `servers`; `say` is told what goes on, a line at a time."""

    def __init__(self, servers: Servers, say: Callable[[str], None]) -> None:
        self._servers = servers
        self._say = say

    async def run(self, contest: Contest, events: int, rounds: int, *, profile: str | None = None) -> Outcome:
        """Run every contender once a round, in turn, and judge the medians; then `profile` once more, profiled."""
        left_out = {c.name: why for c in contest.contenders if (why := await _why_left_out(c)) is not None}
        takes_part = [contender for contender in contest.contenders if contender.name not in left_out]
        runs = [
            await self._run_once(contest, contender, events, number)
            for number in range(1, rounds + 1)
            for contender in takes_part
        ]
        medians = medians_of(runs)
        return Outcome(
            name=contest.name,
            about=contest.about,
            events=events,
            rounds=rounds,
            runs=tuple(runs),
            medians=medians,
            judged=judge(contest, medians),
            left_out=left_out,
            profiles=await self._profiles([c for c in takes_part if c.name == profile and c.module], events),
        )

    async def _run_once(self, contest: Contest, contender: Contender, events: int, number: int) -> Run:
        try:
            figures = await self._figures(contender, events, {})
        except (CannotRun, ContenderFailed) as error:
            self._say_failed(f"{contest.name}  round {number}  {contender.name}", error)
            return Run(contender.name, number, {}, str(error))
        told = "  ".join(f"{m.title} {figures[m.name]:,.{m.digits}f}" for m in contest.measures if m.name in figures)
        self._say(f"{contest.name}  round {number}  {contender.name}: {told}")
        return Run(contender.name, number, figures)

    async def _profiles(self, contenders: Sequence[Contender], events: int) -> dict[str, str]:
        """Run contenders once more under a profiler: the texts by process."""
        profiles: dict[str, str] = {}
        for contender in contenders:
            with tempfile.TemporaryDirectory(prefix="evs-") as folder:
                self._say(f"profiling {contender.name}")
                front = {IS_FRONT: "yes"} if contender.is_front else {}
                try:
                    await self._figures(contender, events, {PROFILES: folder, **front})
                except (CannotRun, ContenderFailed) as error:
                    self._say_failed(f"the profile of {contender.name}", error)
                profiles |= _texts_in(Path(folder), contender.name)
        return profiles

    def _say_failed(self, what: str, error: CannotRun | ContenderFailed) -> None:
        output = f"; its output ends:\n{error.output}" if isinstance(error, ContenderFailed) else ""
        self._say(f"{what}: {error}{output}")

    async def _figures(self, contender: Contender, events: int, more: Mapping[str, str]) -> Figures:
        async with self._place(contender, events) as place:
            if contender.prepare is not None:
                await contender.prepare(place)
            await self._servers.settle()
            return await _start(contender, place, more)

    @asynccontextmanager
    async def _place(self, contender: Contender, events: int) -> AsyncIterator[Place]:
        async with contextlib.AsyncExitStack() as stack:
            database_url = amqp_url = ""
            if contender.needs & {Need.DATABASE, Need.EMPTY_DATABASE}:
                fresh = self._servers.postgres.database(migrated=Need.DATABASE in contender.needs)
                database_url = await stack.enter_async_context(fresh)
            if Need.BROKER in contender.needs:
                assert self._servers.rabbitmq is not None, "vhosts_of counted this contender"
                amqp_url = self._servers.rabbitmq.fresh_vhost_url()
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="evs-"))
            yield Place(database_url, amqp_url, events, Path(folder))


def _texts_in(folder: Path, contender: str) -> dict[str, str]:
    return {f"{contender}: {path.stem}": path.read_text() for path in sorted(folder.glob("*.txt"))}


async def _why_left_out(contender: Contender) -> str | None:
    try:
        if contender.install is not None:
            await contender.install()
    except CannotRun as error:
        return str(error)
    return None


async def _start(contender: Contender, place: Place, more: Mapping[str, str]) -> Figures:
    """Run the contender's process to its end and read its last line. Raises ContenderFailed."""
    output_path = place.folder / "output.txt"
    with output_path.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *_command(contender, place),
            env=_environment(contender, more),
            cwd=place.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(contender.timeout_s):
                printed, _ = await process.communicate()
        except TimeoutError:
            raise ContenderFailed(f"no end within {contender.timeout_s:g} s", _tail(output_path)) from None
        finally:
            _end_group(process.pid)
            await process.wait()
    lines = printed.decode(errors="replace").strip().splitlines()
    if process.returncode or not lines:
        raise ContenderFailed(f"it ended with {process.returncode}", _tail(output_path))
    try:
        return figures_in(lines[-1])
    except ValueError as error:
        raise ContenderFailed(str(error), _tail(output_path)) from None


def _command(contender: Contender, place: Place) -> list[str]:
    own = contender.command or (sys.executable, "-m", contender.module)
    places = ["--database-url", place.database_url, "--amqp-url", place.amqp_url, "--events", str(place.events)]
    return [*own, *places, *contender.arguments]


def _environment(contender: Contender, more: Mapping[str, str]) -> dict[str, str]:
    """Pass on the caller's environment, but no settings of eventsync's; our modules can be found from any folder."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EVENTSYNC_")}
    return {**inherited, "PYTHONPATH": str(_TESTS), **contender.environment, **more}


def _end_group(pid: int) -> None:
    """End whatever the contender has left running; it leads a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-_OUTPUT_CHARS:]
