import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from eventsync.sandbox import sandbox_command

PROJECT = Path(__file__).parents[2]
LIST_FOREIGN = """
import sys, eventsync.sandbox
own = [name for name in sys.modules if name.startswith("eventsync.") and not name.startswith("eventsync.sandbox")]
third = {"asyncpg", "aio_pika", "structlog", "pydantic", "rich", "cryptography"} & set(sys.modules)
print(own, sorted(third))
"""


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_program_prints_its_address_serves_and_stops_cleanly_on_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    state_path = tmp_path / "practice.json"
    arguments = ("-m", "eventsync.sandbox", "--port", "0", "--appointments", "20", "--state", str(state_path))
    async with process(*arguments) as child, asyncio.timeout(60):
        assert child.stdout is not None
        lines = [(await child.stdout.readline()).decode().split() for _ in range(4)]
        assert [line[0] for line in lines] == ["API", "API", "practice", "control"]
        api_url, key = lines[0][-1], lines[1][-1]
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{api_url}/practitioners", headers={"X-Auth-Key": key}) as answer,
        ):
            assert answer.status == 200
        child.send_signal(number)
        assert await child.wait() == 0
        assert state_path.exists()


async def test_a_marketplace_prints_no_practice_and_takes_a_quota_of_its_own() -> None:
    arguments = ("-m", "eventsync.sandbox", "--vendor", "colectiva", "--port", "0", "--quota-per-minute", "7")
    async with process(*arguments) as child, asyncio.timeout(60):
        assert child.stdout is not None
        lines = [(await child.stdout.readline()).decode().split() for _ in range(3)]
        assert [line[0] for line in lines] == ["API", "API", "control"]
        assert lines[0][-1].endswith("/api")
        async with aiohttp.ClientSession() as session, session.get(lines[2][-1] + "/stats") as answer:
            quota = (await answer.json())["quota"]
        assert (quota["per_minute"], quota["per_day"]) == (7, None)
        child.send_signal(signal.SIGINT)
        assert await child.wait() == 0


async def test_the_sandbox_imports_nothing_else_of_eventsync() -> None:
    async with process("-c", LIST_FOREIGN) as child, asyncio.timeout(60):
        out, _ = await child.communicate()
        assert out.decode().strip() == "[] []"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--faults", "dropp=1"], "known: drop"),
        (["--webhook-url", "appointment"], "KIND=URL"),
        (["--webhook-url", "plant=http://127.0.0.1:1/"], "unknown webhook kinds"),
        (["--speed", "-1"], "--speed"),
        (["--vendor", "nobody"], "--vendor"),
        (["--vendor", "colectiva", "--clients", "200"], "--clients says nothing of colectiva"),
        (["--vendor", "colectiva", "--appointments", "5"], "--appointments says nothing of colectiva"),
        (["--vendor", "colectiva", "--practice-id", "0"], "--practice-id says nothing of colectiva"),
        (["--vendor", "colectiva", "--webhook-url", "note=http://127.0.0.1:1/"], "known: payment"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_hint(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(sandbox_command, ["--port", "0", *arguments])
    assert result.exit_code == 2
    assert words in result.output


def test_help_explains_each_option() -> None:
    result = CliRunner().invoke(sandbox_command, ["--help"])
    assert result.exit_code == 0
    for option in ("--vendor", "--seed", "--faults", "--rate", "--speed", "--api-key", "--webhook-url", "--state"):
        assert option in result.output
