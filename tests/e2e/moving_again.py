"""Measures how soon events flow after a fault: from a moment until one that was acknowledged later has its end."""

from __future__ import annotations

import time
from collections.abc import Callable

import asyncpg

from e2e.persistent_sender import PersistentSender
from servers.eventually import eventually

MOVES_AGAIN_WITHIN_S = 30.0  # of the fault's end; five seconds are the aim

RecordProperty = Callable[[str, object], None]


async def seconds_to_move(
    database: asyncpg.Connection, sender: PersistentSender, *, within_s: float = MOVES_AGAIN_WITHIN_S
) -> float:
    """Wait until an event that is acknowledged from now on has ended, and tell how long that took.

    No clock decides what "from now on" is: the process under test may have one of its own.
    """
    began = time.monotonic()
    before = set(sender.acknowledged)

    async def one_has_ended() -> bool:
        new = list(sender.acknowledged - before)
        statement = "SELECT EXISTS (SELECT FROM event_history WHERE event_id = ANY($1::uuid[]))"
        return bool(await database.fetchval(statement, new))

    await eventually(one_has_ended, within_s)
    return time.monotonic() - began


async def acknowledges_more(sender: PersistentSender, *, within_s: float = MOVES_AGAIN_WITHIN_S) -> None:
    """Wait until the door has answered 200 once more."""
    before = len(sender.acknowledged)
    await eventually(lambda: len(sender.acknowledged) > before, within_s)


def tell(record_property: RecordProperty, fault: str, seconds: float) -> None:
    """Keep how long a fault was felt in the test's report, and say it."""
    record_property(f"moving_again_s[{fault}]", round(seconds, 2))
    print(f"moving again {seconds:.2f} s after: {fault}")  # noqa: T201  # shown by `pytest -rP`
