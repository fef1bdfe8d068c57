"""A role imports only what it needs: what it does not need costs every process of it memory and time to start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eventsync.wiring import Role

# Opens the process of one role as `eventsync run ROLE` does, over a broker, and lists what has been imported by then.
_OPEN = """
import json, sys
from pathlib import Path
from pydantic import SecretStr
from eventsync.cli import eventsync_command
command = eventsync_command.commands["run"]
from eventsync.cli.loop import run_async
from eventsync.settings import Settings
from eventsync.wiring import Role, keyring_of
from eventsync.wiring.process import ProcessOptions, open_process
settings = Settings(
    _env_file=None, database_url=SecretStr("postgresql://app@127.0.0.1:9/eventsync"),
    amqp_url=SecretStr("amqp://guest@127.0.0.1:9/"), data_dir=Path(sys.argv[2]),
    encryption_keys=SecretStr("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
)
async def opened():
    options = ProcessOptions(
        settings=settings, roles=frozenset({Role(sys.argv[1])}), database_url="postgresql://app@127.0.0.1:9/eventsync",
        keyring=keyring_of(settings), health_port=0,
    )
    async with open_process(options):
        print(json.dumps(sorted(sys.modules)))
run_async(opened())
"""
_DEADLINE_S = 60

_OTHER_PROGRAMS = (
    "eventsync.sandbox",
    "eventsync.bench",
    "pygal",
    "rich.progress",
    "rich.live",
    "eventsync.wiring.demo",
)
_BROKER = ("eventsync.bus.rabbit", "aio_pika", "aiormq", "pamqp")
_VENDORS = ("eventsync.vendors", "eventsync.vendorkit", "backoff")
_SPOOL = ("eventsync.spool", "sqlite3")
_DOOR = (*_SPOOL, "eventsync.web.ingress", "eventsync.stages.receive")
_API = ("eventsync.web.api", "eventsync.web.openapi", "eventsync.postgres.search", "eventsync.wiring.api")
_APPLYING = ("eventsync.stages.apply", "eventsync.stages.refetch", "eventsync.wiring.applying")
_RELAY = ("eventsync.stages.relay", "eventsync.stages.wake")
_CHORES = ("eventsync.postgres.linking", "eventsync.stages.upkeep", "eventsync.wiring.chores")
_SCHEDULE = ("eventsync.stages.schedule", "eventsync.postgres.schedules", "cronsim")
_SYNCING = (
    "eventsync.stages.sync_worker", "eventsync.stages.reconcile", "eventsync.wiring.syncing",
    "eventsync.stages.deliver", "eventsync.stages.delivery_worker", "eventsync.wiring.delivering",
)  # fmt: skip
UNNEEDED = {
    Role.INGRESS: (
        *_BROKER, *_API, *_APPLYING, *_RELAY, *_CHORES, *_SCHEDULE, *_SYNCING, "eventsync.postgres.records",
    ),
    Role.RELAY: (*_VENDORS, *_DOOR, *_API, *_APPLYING, *_CHORES, *_SCHEDULE, *_SYNCING),
    Role.CONSUMER: (*_DOOR, *_API, *_RELAY, *_CHORES, *_SCHEDULE, *_SYNCING),
    Role.WORKER: (*_DOOR, *_API, *_RELAY, *_CHORES, "eventsync.stages.schedule", "cronsim"),
    Role.SCHEDULER: (
        *_BROKER, "eventsync.vendors", "eventsync.vendorkit.http", *_DOOR, *_API, *_APPLYING, *_RELAY, *_SYNCING,
    ),
    Role.API: (*_BROKER, *_DOOR, *_APPLYING, *_RELAY, *_CHORES, *_SCHEDULE, *_SYNCING),
}  # fmt: skip


def imported_by(role: Role, folder: Path) -> list[str]:
    """Open a process of this role, and answer the modules that it has then."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("EVENTSYNC_")}
    ended = subprocess.run(  # noqa: S603  # our own interpreter, our own script
        [sys.executable, "-c", _OPEN, role.value, str(folder)],
        env=env, cwd=folder, capture_output=True, text=True, timeout=_DEADLINE_S, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    modules: list[str] = json.loads(ended.stdout.splitlines()[-1])
    return modules


@pytest.mark.parametrize("role", Role)
def test_a_role_imports_only_what_it_needs(role: Role, tmp_path: Path) -> None:
    unneeded = (*_OTHER_PROGRAMS, *UNNEEDED[role])
    found = [
        module
        for module in imported_by(role, tmp_path)
        if any(module == name or module.startswith(f"{name}.") for name in unneeded)
    ]
    assert found == []


def test_what_a_role_needs_is_there_as_soon_as_it_is_open(tmp_path: Path) -> None:
    modules = imported_by(Role.CONSUMER, tmp_path)
    assert {"eventsync.stages.apply", "eventsync.vendors.intakeq.mapping", "eventsync.bus.rabbit"} <= set(modules)
    modules = imported_by(Role.SCHEDULER, tmp_path)
    assert {"eventsync.stages.schedule", "cronsim"} <= set(modules)
