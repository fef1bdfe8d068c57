"""Installs the peers, pinned, into a folder of the project that git ignores; before the first round, never during one.

`python -m bench.peers.installation` does it by hand.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.contest import CannotRun

_PINS = Path(__file__).parent
_PROJECT = _PINS.parents[2]
_FOLDER = _PROJECT / ".bench-peers"
_OLDEST_NODE = 18
_INSTALLED_WITHIN_S = 600.0
_MIGRATION = "node_modules/@supabase/stripe-sync-engine/dist/migrations/0012_add_updated_at.sql"

NODE_FOLDER = _FOLDER / "node"
PEERS_PYTHON = str(_FOLDER / "python" / "bin" / "python")
"""The interpreter that has eventsync, this package and all peers in Python."""


async def install_python_peers() -> None:
    """Make the virtual environment of PEERS_PYTHON, unless it stands with these very pins. Raises CannotRun."""
    pins = [_PROJECT / "requirements.lock", _PINS / "requirements.txt"]
    folder = _FOLDER / "python"
    if _is_current(folder, pins):
        return
    shutil.rmtree(folder, ignore_errors=True)
    await _run([sys.executable, "-m", "venv", str(folder)])
    pip = [PEERS_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    await _run([*pip, "--require-hashes", "-r", str(pins[0])])
    await _run([*pip, "--no-deps", "-r", str(pins[1])])
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # eventsync itself, and the benchmark: a build would ask for more packages and gain nothing.
    (site_packages / "eventsync-bench.pth").write_text(f"{_PROJECT}\n{_PINS.parents[1]}\n")
    _mark(folder, pins)


async def install_node_peers() -> None:
    """Make the folder whose `node_modules` has the peers in JavaScript. Raises CannotRun where Node.js is missing."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise CannotRun(f"Node.js {_OLDEST_NODE} or later is missing: install it (Debian: apt-get install nodejs npm)")
    version = (await _run(["node", "--version"])).strip().lstrip("v")
    if int(version.split(".")[0]) < _OLDEST_NODE:
        raise CannotRun(f"Node.js {version} is too old: install {_OLDEST_NODE} or later")
    # Node.js looks for packages beside the file that asks for them, so the server goes along.
    pins = [_PINS / name for name in ("package.json", "package-lock.json", "stripe_server.cjs")]
    if _is_current(NODE_FOLDER, pins):
        return
    shutil.rmtree(NODE_FOLDER, ignore_errors=True)
    NODE_FOLDER.mkdir(parents=True)
    for pin in pins:
        shutil.copy(pin, NODE_FOLDER)
    await _run(["npm", "ci", "--prefix", str(NODE_FOLDER), "--no-audit", "--no-fund", "--ignore-scripts"])
    # One of the sync engine's migrations gives a function to the superuser, which nobody can be here.
    migration = NODE_FOLDER / _MIGRATION
    migration.write_text(migration.read_text().replace("owner to postgres", "owner to current_user"))
    _mark(NODE_FOLDER, pins)


def _is_current(folder: Path, pins: Sequence[Path]) -> bool:
    mark = folder / ".installed"
    return mark.exists() and mark.read_text() == _digest(pins)


def _mark(folder: Path, pins: Sequence[Path]) -> None:
    (folder / ".installed").write_text(_digest(pins))


def _digest(pins: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(pin.read_bytes() for pin in pins)).hexdigest()


async def _run(command: Sequence[str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_INSTALLED_WITHIN_S):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        last = (errors.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise CannotRun(f"`{Path(command[0]).name} {' '.join(command[1:3])} …` failed: {last}")
    return output.decode()


async def _main() -> None:
    await install_python_peers()
    await install_node_peers()


if __name__ == "__main__":
    asyncio.run(_main())
