"""A peer as the benchmark sees it: what its publisher and its one worker do, each in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib import import_module

from bench.peers.job import Apply

Publish = Callable[[Sequence[bytes]], Awaitable[None]]
"""Hands all these bodies over; each is safe with the peer's broker or table once it returns."""


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers that a peer may use, by their URLs."""

    database_url: str
    amqp_url: str


@dataclass(frozen=True, slots=True)
class Peer:
    """`prepare` makes its tables; `publisher` is connected around its block; `work` applies jobs until cancelled.

    `connections` is how many the jobs' own pool may open, beside those of the peer: with twenty each of them got more
    done than with four, ten or forty, since more commits then share a write to the disk.
    """

    publisher: Callable[[Servers], AbstractAsyncContextManager[Publish]]
    work: Callable[[Servers, Apply], Awaitable[None]]
    prepare: Callable[[Servers], Awaitable[None]] | None = None
    connections: int = 20


def load_peer(name: str) -> Peer:
    """Find a peer by the name of its module in this package. Raises TypeError where that has no PEER."""
    peer = getattr(import_module(f"bench.peers.{name}"), "PEER", None)
    if not isinstance(peer, Peer):
        raise TypeError(f"bench.peers.{name} has no PEER")
    return peer


async def publish_in_windows(
    bodies: Sequence[bytes], publish_one: Callable[[bytes], Awaitable[object]], window: int
) -> None:
    """Publish with `window` of them on their way at a time, each confirmed: much faster than one by one."""
    for start in range(0, len(bodies), window):
        await asyncio.gather(*map(publish_one, bodies[start : start + window]))
