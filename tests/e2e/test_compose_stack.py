"""The stack of docker-compose.yml without a container engine: its own commands and environments as processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
import yaml

from servers.eventually import eventually
from servers.ports import free_ports

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "eventsync/vendors/intakeq/samples"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOTENV = {
    "POSTGRES_PASSWORD": "invented",
    "RABBITMQ_PASSWORD": "invented",
    "EVENTSYNC_ENCRYPTION_KEYS": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
}
HEALTH_PORT = "8081"
READY_WITHIN_S = 45.0


@dataclass(frozen=True, slots=True)
class Places:
    """Where the test's servers are, in place of the stack's."""

    database_url: str
    amqp_url: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Running:
    """One process of a service."""

    service: str
    process: asyncio.subprocess.Process
    environment: Mapping[str, str]
    health_port: int
    log: Path

    @property
    def port(self) -> int:
        return int(self.environment["EVENTSYNC_PORT"])

    @property
    def data_dir(self) -> Path:
        return Path(self.environment["EVENTSYNC_DATA_DIR"])

    async def probe(self) -> tuple[bool, str]:
        """Run the service's own health check; answer whether it passed, and what it printed."""
        kind, python, *arguments = COMPOSE["services"][self.service]["healthcheck"]["test"]
        assert (kind, python) == ("CMD", "python")
        asked = [argument.replace(HEALTH_PORT, str(self.health_port)) for argument in arguments]
        return await run_to_its_end([sys.executable, *asked], {}, self.log.parent)

    async def require_ready(self) -> None:
        assert self.process.returncode is None, f"{self.service} ended:\n{self.log.read_text()[-3000:]}"
        passed, told = await self.probe()
        assert passed, f"{self.service} is not ready: {told[-2000:]}\n{self.log.read_text()[-2000:]}"

    async def stop(self) -> int:
        """Stop it as the engine does, and answer its exit code."""
        self.process.send_signal(signal.SIGTERM)
        grace_s = float(COMPOSE["services"][self.service]["stop_grace_period"].removesuffix("s"))
        async with asyncio.timeout(grace_s):
            return await self.process.wait()


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Fill in `${NAME:-default}` and `${NAME:?message}` as Compose does."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if variables.get(name):
            return variables[name]
        assert kind == ":-", f"{name} is not set: {rest}"
        return rest

    return re.sub(r"\$\{(\w+)(:-|:\?)([^}]*)\}", value, text)


def environment_of(service: str, places: Places) -> dict[str, str]:
    """What a container of the service would see, with the stack's hosts replaced by the test's."""
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    image = dict(re.findall(r"(EVENTSYNC_\w+)=(\S+)", dockerfile))
    given = COMPOSE["services"][service]["environment"]
    environment = image | {name: interpolated(value, DOTENV) for name, value in given.items()}
    replaced = {"EVENTSYNC_DATABASE_URL": places.database_url, "EVENTSYNC_AMQP_URL": places.amqp_url}
    environment |= {name: url for name, url in replaced.items() if name in environment}
    assert environment["EVENTSYNC_HOST"] == "0.0.0.0"  # noqa: S104  # in a container; here only the loopback is used
    return environment | {"EVENTSYNC_HOST": "127.0.0.1", "PATH": os.environ["PATH"], "HOME": str(places.folder)}


async def run_to_its_end(
    command: list[str], environment: Mapping[str, str], folder: Path, stdin: str = ""
) -> tuple[bool, str]:
    """Run a command; answer whether it ended with 0, and its output."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=dict(environment),
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate(stdin.encode())
    return process.returncode == 0, (output if process.returncode == 0 else output + errors).decode()


async def ours(service: str, places: Places, *arguments: str, stdin: str = "") -> str:
    """Run `eventsync ARGUMENTS` as `docker compose exec SERVICE` would (or `run`, for the service's own command)."""
    passed, output = await run_to_its_end(
        [sys.executable, "-m", "eventsync", *arguments], environment_of(service, places), places.folder, stdin
    )
    assert passed, output
    return output


@asynccontextmanager
async def running(service: str, places: Places, *, port: int | None = None) -> AsyncIterator[Running]:
    """Start one process of a service, and end it in any case."""
    spare_port, health_port = free_ports(2)
    folder = places.folder / f"{service}-{health_port}"
    folder.mkdir()
    environment = environment_of(service, places) | {
        "EVENTSYNC_PORT": str(port or spare_port),
        "EVENTSYNC_DATA_DIR": str(folder / "data"),
    }
    command = [str(health_port) if word == HEALTH_PORT else word for word in COMPOSE["services"][service]["command"]]
    log = folder / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "eventsync", *command, env=environment, cwd=folder, stdout=output, stderr=output
        )
    try:
        yield Running(service, process, environment, health_port, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def places(empty_database_url: str, amqp_url: str, tmp_path: Path) -> Places:
    return Places(empty_database_url, amqp_url, tmp_path)


async def get(port: int, path: str) -> tuple[int, str]:
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout) as http, http.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_a_webhook_sent_to_the_stack_becomes_a_row_and_the_stack_stops_cleanly(places: Places) -> None:
    await ours("migrate", places, *COMPOSE["services"]["migrate"]["command"])
    async with contextlib.AsyncExitStack() as stack:
        stack_of_roles = ["ingress", "consumer", "consumer", "worker", "worker", "scheduler", "api"]
        roles = [await stack.enter_async_context(running(service, places)) for service in stack_of_roles]
        for role in roles:
            await eventually(_is_ready(role), READY_WITHIN_S)

        webhook_path = await _connect_a_practice(places)
        body = (SAMPLES / "appointment_created.json").read_bytes()
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{roles[0].port}", timeout=timeout) as vendor:
            answer = await vendor.post(webhook_path, data=body)
            accepted = await answer.json()
        assert (answer.status, accepted["status"]) == (200, "accepted")

        appointment = json.loads(body)["Appointment"]
        row = await eventually(lambda: _appointment(places.database_url), 20.0)
        assert (row["external_id"], str(row["applied_event_id"])) == (appointment["Id"], accepted["event_id"])

        for role in roles:
            status, metrics = await get(role.health_port, "/metrics")
            assert status == 200, role.service
            assert "eventsync_listener_proven 1.0" in metrics, role.service

        codes = await asyncio.gather(*(role.stop() for role in roles))
        assert codes == [0] * len(roles), "\n".join(role.log.read_text()[-1000:] for role in roles)
    assert {role.service for role in roles if role.data_dir.exists()} == {"ingress"}, (
        "only the door has a disk to write to"
    )


async def test_the_health_check_of_a_service_fails_and_says_why_while_postgres_is_away(places: Places) -> None:
    nobody = f"postgresql://eventsync:invented@127.0.0.1:{free_ports(1)[0]}/eventsync"
    away = Places(nobody, places.amqp_url, places.folder)
    async with running("scheduler", away) as scheduler, running("ingress", away) as ingress:
        await eventually(_is_ready(ingress), READY_WITHIN_S)
        _, told_by_the_door = await ingress.probe()
        assert json.loads(told_by_the_door)["parts"]["postgres"]["ready"] is False

        await eventually(_answers(scheduler), READY_WITHIN_S)
        passed, told = await scheduler.probe()
        assert not passed
        assert json.loads(told)["parts"]["postgres"]["reason"]
        assert list(await asyncio.gather(scheduler.stop(), ingress.stop())) == [0, 0]


def test_the_services_find_their_database_and_broker_by_the_names_and_users_of_the_stack() -> None:
    services = COMPOSE["services"]
    postgres, rabbitmq = services["postgres"]["environment"], services["rabbitmq"]["environment"]
    for name in ("migrate", "ingress", "consumer", "worker", "scheduler", "api"):
        given = services[name]["environment"]
        database = urlsplit(interpolated(given["EVENTSYNC_DATABASE_URL"], DOTENV))
        assert (database.hostname, database.port) == ("postgres", 5432)
        assert (database.username, database.path) == (postgres["POSTGRES_USER"], f"/{postgres['POSTGRES_DB']}")
        if name == "migrate":
            continue
        broker = urlsplit(interpolated(given["EVENTSYNC_AMQP_URL"], DOTENV))
        assert (broker.hostname, broker.port) == ("rabbitmq", 5672)
        assert broker.username == rabbitmq["RABBITMQ_DEFAULT_USER"]
        assert broker.path == f"/{rabbitmq['RABBITMQ_DEFAULT_VHOST']}"


@pytest.mark.parametrize("name", DOTENV)
def test_the_stack_refuses_to_start_without_a_secret(name: str) -> None:
    incomplete = DOTENV | {name: ""}
    with pytest.raises(AssertionError, match=f"{name} is not set: set it in .env to the output of `openssl"):
        interpolated((ROOT / "docker-compose.yml").read_text(), incomplete)


async def test_the_runbooks_queries_run_on_our_schema(database: asyncpg.Connection) -> None:
    runbook = (ROOT / "deploy/runbook.md").read_text()
    queries = re.findall(r"```sql\n(.*?)```", runbook, re.DOTALL)
    assert len(queries) >= 5
    for query in queries:
        for placeholder in ("EVENT_ID", "queue-item-uuid"):
            query = query.replace(placeholder, "01234567-89ab-7def-8123-456789abcdef")  # noqa: PLW2901  # filled in
        await database.execute(query)


async def _connect_a_practice(places: Places) -> str:
    """Connect an account as an operator would; answer the path of its webhook URL."""
    organization = json.loads(await ours("worker", places, "orgs", "add", "Test Practice", "--json"))
    options = ["--org", organization["id"], "--api-key", "-", "--base-url", "http://127.0.0.1:9/api/v1", "--json"]
    added = json.loads(await ours("worker", places, "connections", "add", "intakeq", *options, stdin="invented-key"))
    url = urlsplit(added["webhook_url"])
    assert f"{url.scheme}://{url.netloc}" == environment_of("worker", places)["EVENTSYNC_PUBLIC_URL"]
    return str(url.path)


async def _appointment(database_url: str) -> Mapping[str, Any] | None:
    connection = await asyncpg.connect(database_url, timeout=10)
    try:
        row: Mapping[str, Any] | None = await connection.fetchrow("SELECT * FROM appointments")
    finally:
        await connection.close(timeout=10)
    return row


def _is_ready(role: Running) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        await role.require_ready()
        return True

    return check


def _answers(role: Running) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        try:
            status, _ = await get(role.health_port, "/healthz")
        except aiohttp.ClientConnectionError:
            return False
        return status == 200

    return check
