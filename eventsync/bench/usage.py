"""What processes use: processor time and memory, as the kernel counts them in /proc (Linux; elsewhere nothing is told).

A server of several processes, such as PostgreSQL with its backends, is taken as a whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_KIB_PER_MB = 1024  # megabytes of 2**20 bytes, as `ps` and `top` count
_LISTENING = "0A"  # a socket's state in /proc/net/tcp
_SOCKET = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor time since a process started, in seconds, and what it holds in memory, in megabytes.

    `memory_mb` is the resident memory of a single process; of several, each page that they share counts once.
    `peak_mb` is the most that a single process ever held, None for several.
    """

    cpu_seconds: float
    memory_mb: float
    peak_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process used between two looks: processor time, and its memory at the first, at its most, at the last."""

    name: str
    cpu_seconds: float
    memory_start_mb: float
    memory_peak_mb: float | None
    memory_end_mb: float


def usage_of(pid: int) -> Usage | None:
    """Look at one process; None where it has ended, or the kernel does not tell."""
    try:
        status = _sizes_kib(_PROC / str(pid) / "status")
        return Usage(
            cpu_seconds=_cpu_seconds(pid, with_children=False),
            memory_mb=status["VmRSS"] / _KIB_PER_MB,
            peak_mb=status["VmHWM"] / _KIB_PER_MB,
        )
    except (OSError, KeyError):
        return None


def usage_of_tree(pid: int) -> Usage | None:
    """Look at a process with all that descend from it, those that have ended included (their time, that is)."""
    if usage_of(pid) is None:
        return None
    cpu_seconds = memory_mb = 0.0
    for member in (pid, *_descendants(pid)):
        try:
            cpu_seconds += _cpu_seconds(member, with_children=True)
            # Each process's share of the pages that it has in common with others.
            memory_mb += _sizes_kib(_PROC / str(member) / "smaps_rollup").get("Pss", 0) / _KIB_PER_MB
        except OSError:
            continue  # it has just ended
    return Usage(cpu_seconds, memory_mb)


def listener_pid(port: int) -> int | None:
    """Find the process on this machine that listens on a TCP port; None where it cannot be seen."""
    inodes = set(_listening_inodes(port))
    for folder in _PROC.glob("[0-9]*") if inodes else ():
        try:
            targets = [str(entry.readlink()) for entry in (folder / "fd").iterdir()]
        except OSError:  # another user's, or just ended
            continue
        if any((match := _SOCKET.match(target)) and match[1] in inodes for target in targets):
            return int(folder.name)
    return None


class UsageWatch:
    """Looks at named processes twice: when made, and at `spent`. `trees` are servers of several processes."""

    def __init__(self, processes: Mapping[str, int], trees: Mapping[str, int]) -> None:
        self._processes = dict(processes)
        self._trees = dict(trees)
        self._before = self._look()

    def spent(self) -> list[Spent]:
        """Tell what each of them has used since; those that cannot be seen are left out."""
        after = self._look()
        return [
            Spent(
                name=name,
                cpu_seconds=now.cpu_seconds - before.cpu_seconds,
                memory_start_mb=before.memory_mb,
                memory_peak_mb=now.peak_mb,
                memory_end_mb=now.memory_mb,
            )
            for name, before in self._before.items()
            if (now := after.get(name)) is not None
        ]

    def _look(self) -> dict[str, Usage]:
        seen = {name: usage_of(pid) for name, pid in self._processes.items()}
        seen |= {name: usage_of_tree(pid) for name, pid in self._trees.items()}
        return {name: usage for name, usage in seen.items() if usage is not None}


def _cpu_seconds(pid: int, *, with_children: bool) -> float:
    # After the name, which may hold anything but ends at the last parenthesis: proc(5), fields 14 to 17.
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    ticks = sum(map(int, fields[11 : 15 if with_children else 13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _sizes_kib(path: Path) -> dict[str, int]:
    pairs = (line.split(":", 1) for line in path.read_text().splitlines() if line.endswith(" kB"))
    return {name: int(size.split()[0]) for name, size in pairs}


def _descendants(pid: int) -> Iterator[int]:
    try:
        children = [
            int(child)
            for task in (_PROC / str(pid) / "task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:  # it has just ended
        return
    for child in children:
        yield child
        yield from _descendants(child)


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
