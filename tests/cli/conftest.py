"""The real commands against a database of the test's own, in a thread, so that the test can look on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import structlog
from click.testing import CliRunner

from cli.colectiva_queue import API_KEY, Colectiva, connect
from cli.runs import Cli, Ended
from e2e.eventsync_process import ENCRYPTION_KEYS
from eventsync.cli import eventsync_command
from eventsync.sandbox import RunningSandbox, SandboxOptions, serve


@pytest.fixture
def bare_cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Runs commands in an empty folder, without any setting but those given as `env`."""
    monkeypatch.chdir(tmp_path)

    async def run(*arguments: str, given: str | None = None, env: dict[str, str] | None = None) -> Ended:
        runner = CliRunner()
        result = await asyncio.to_thread(runner.invoke, eventsync_command, list(arguments), input=given, env=env)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ended(result.exit_code, result.stdout, result.stderr)

    yield run
    structlog.reset_defaults()


@pytest.fixture
def settings_env(database_url: str, tmp_path: Path) -> dict[str, str]:
    """The settings of an installation on the test's database."""
    return {
        "EVENTSYNC_DATABASE_URL": database_url,
        "EVENTSYNC_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
        "EVENTSYNC_DATA_DIR": str(tmp_path / "data"),
    }


@pytest.fixture
def cli(bare_cli: Cli, settings_env: dict[str, str]) -> Cli:
    """Runs commands on the test's database."""

    async def run(*arguments: str, given: str | None = None, env: dict[str, str] | None = None) -> Ended:
        return await bare_cli(*arguments, given=given, env=settings_env | (env or {}))

    return run


@pytest.fixture
async def organization(cli: Cli) -> dict[str, Any]:
    """An organization as `orgs add` prints it."""
    added: dict[str, Any] = (await cli("orgs", "add", "Test Practice", "--external-id", "practice-7", "--json")).json
    return added


@pytest.fixture
async def connection(cli: Cli, organization: dict[str, Any]) -> dict[str, Any]:
    """A connection as `connections add` prints it."""
    added = await cli("connections", "add", "intakeq", "--org", "practice-7", "--api-key", "secret-key-1", "--json")
    assert added.exit_code == 0, added.stderr
    made: dict[str, Any] = added.json
    return made


@pytest.fixture
async def server() -> AsyncIterator[RunningSandbox]:
    """A pretend Colectiva, to which nothing is connected."""
    async with serve(SandboxOptions(vendor="colectiva", api_key=API_KEY)) as running:
        yield running


@pytest.fixture
async def colectiva(
    cli: Cli, organization: dict[str, Any], server: RunningSandbox, database: asyncpg.Connection
) -> Colectiva:
    """The same with the installation connected to it, and the queue."""
    await connect(cli, server)
    return Colectiva(server, database)
