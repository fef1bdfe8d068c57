"""What the trials of this package share: figures of several processes, added up and one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from bench.contest import CPU_SECONDS, MEMORY_MB
from eventsync.bench.usage import UsageWatch

Processes = Mapping[str, asyncio.subprocess.Process]


def watch(processes: Processes, own_pid: int | None = None) -> UsageWatch:
    """Look at the processes, each with those that it starts; `own_pid` is ours, where it does a part of the work."""
    trees = {name: process.pid for name, process in processes.items()}
    return UsageWatch({} if own_pid is None else {"publisher": own_pid}, trees)


def usage_figures(usage: UsageWatch) -> dict[str, float]:
    """Add up processor time and memory, and name each process's memory as `<name>_memory_mb`."""
    spent = usage.spent()
    figures = {f"{each.name}_{MEMORY_MB.name}": each.memory_end_mb for each in spent}
    figures[CPU_SECONDS.name] = sum(each.cpu_seconds for each in spent)
    figures[MEMORY_MB.name] = sum(each.memory_end_mb for each in spent)
    return figures
