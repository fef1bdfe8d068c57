"""What a benchmark ran on: versions, machine and PostgreSQL's settings, without which a figure says nothing."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path

from eventsync import __version__
from eventsync.bus.rabbit_link import open_link
from eventsync.domain.errors import Transient
from eventsync.postgres.database import Database
from eventsync.wiring import utc_now

_SETTINGS = """
SELECT current_setting('server_version') AS server_version, current_setting('fsync') AS fsync,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('shared_buffers') AS shared_buffers, current_setting('max_wal_size') AS max_wal_size
"""
_BROKER_TIMEOUT_S = 10.0
_MODEL = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Environment:
    """Versions and settings. `rabbitmq` is None where none took part; `memory_mb` is the machine's."""

    measured_at: datetime
    eventsync: str
    python: str
    postgresql: str
    rabbitmq: str | None
    aiohttp: str
    asyncpg: str
    aio_pika: str
    uvloop: str
    cpu: str
    cores: int
    memory_mb: int
    kernel: str
    fsync: str
    synchronous_commit: str
    shared_buffers: str
    max_wal_size: str


async def describe_environment(database_url: str, amqp_url: str | None) -> Environment:
    """Ask both servers and this machine. Raises Transient or Misconfigured where a server cannot be asked."""
    postgres = await _postgres_settings(database_url)
    return Environment(
        measured_at=utc_now(),
        eventsync=__version__,
        python=platform.python_version(),
        postgresql=postgres.pop("server_version").split()[0],
        rabbitmq=None if amqp_url is None else await _rabbitmq_version(amqp_url),
        aiohttp=metadata.version("aiohttp"),
        asyncpg=metadata.version("asyncpg"),
        aio_pika=metadata.version("aio-pika"),
        uvloop=_version_if_installed("uvloop"),
        cpu=_cpu_model(),
        cores=_usable_cores(),
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        kernel=f"{platform.system()} {platform.release()}",
        **postgres,
    )


async def _postgres_settings(url: str) -> dict[str, str]:
    database = Database(url, max_connections=1)
    await database.open()
    try:
        async with database.session() as session:
            return dict(await session.fetchrow(_SETTINGS))
    finally:
        await database.close()


async def _rabbitmq_version(url: str) -> str:
    link = await open_link(url, name="bench", heartbeat_s=10, timeout_s=_BROKER_TIMEOUT_S)
    try:
        transport = link.connection.transport
        if transport is None:
            raise Transient("RabbitMQ closed the connection: look at its log")
        properties = transport.connection.server_properties
    finally:
        await link.close()
    return str(properties.get("version", "unknown"))


def _version_if_installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # uvloop is not made for every platform
        return "none"


def _cpu_model() -> str:
    try:
        found = _MODEL.search(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _usable_cores() -> int:
    """Count the cores that this process may use, which can be fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
