"""What a role's imports alone take: the memory of an interpreter that has imported just them, and done nothing.

`python -m bench.contenders.memory_baseline modules ROLE` opens the process of a role, as `eventsync run ROLE` does
before it connects to anything, and lists its modules; `… memory` reads such a list, imports them, and tells its own
resident memory in megabytes.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

_NOWHERE = "127.0.0.1:9"  # nobody is asked for anything
_KEYS = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
_WITHIN_S = 60.0


async def import_baseline_mb(role: str, folder: Path) -> float:
    """Measure what the imports of a role take, the interpreter included; its spool is opened in `folder`."""
    modules = await _told("modules", role, given=b"", folder=folder)
    return float(await _told("memory", given=modules, folder=folder))


async def bare_interpreter_mb(folder: Path) -> float:
    """Measure what the interpreter takes with next to nothing imported."""
    return float(await _told("memory", given=b"[]", folder=folder))


async def _told(*arguments: str, given: bytes, folder: Path) -> bytes:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.contenders.memory_baseline", *arguments,
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(_WITHIN_S):
        told, _ = await process.communicate(given)
    if process.returncode:
        raise RuntimeError(f"the baseline's process ended with {process.returncode}; see its output above")
    return told


def _modules(role: str) -> list[str]:
    """Open the role's process and list what is imported then; the modules that only this needs are loaded here."""
    import_module("eventsync.cli").eventsync_command.commands["run"]
    process, settings = import_module("eventsync.wiring.process"), import_module("eventsync.settings")
    wiring, secret = import_module("eventsync.wiring"), import_module("pydantic").SecretStr
    given = settings.Settings(
        _env_file=None,
        database_url=secret(f"postgresql://app@{_NOWHERE}/eventsync"),
        amqp_url=secret(f"amqp://guest@{_NOWHERE}/"),
        encryption_keys=secret(_KEYS),
        data_dir=Path.cwd(),
    )

    async def opened() -> list[str]:
        options = process.ProcessOptions(
            settings=given,
            roles=frozenset({wiring.Role(role)}),
            database_url=given.database_url.get_secret_value(),
            keyring=wiring.keyring_of(given),
            health_port=0,
        )
        async with process.open_process(options):
            return [name for name, module in sys.modules.items() if _can_be_imported(name, module)]

    modules: list[str] = import_module("eventsync.cli.loop").run_async(opened())
    return modules


def _can_be_imported(name: str, module: ModuleType) -> bool:
    """Tell whether this is an ordinary module, and not one that another one has put there under a name of its own."""
    spec = getattr(module, "__spec__", None)
    return spec is not None and spec.name == name and spec.loader is not None and not name.startswith("bench")


def _resident_mb() -> float:
    resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Do what the command line says."""
    if sys.argv[1] == "modules":
        sys.stdout.write(json.dumps(_modules(sys.argv[2])))
        return
    for name in json.load(sys.stdin):
        if name not in sys.modules:
            import_module(name)
    sys.stdout.write(str(_resident_mb()))


if __name__ == "__main__":
    main()
