"""A sender that sends each webhook again until it was answered 2xx, and remembers which events were acknowledged."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from uuid import UUID

import aiohttp

from servers.eventually import eventually

_CONCURRENCY = 8
_GIVE_UP_AFTER_S = 60.0
_ANSWER_TIMEOUT_S = 20.0


class PersistentSender:
    """POSTs bodies to `url`, some at once. `acknowledged` holds the events' ids, as the 2xx answers named them."""

    def __init__(self, url: str) -> None:
        self.acknowledged: set[UUID] = set()
        self.posts = 0
        self._url = url

    async def deliver(self, bodies: Iterable[bytes]) -> None:
        """Return when all were acknowledged."""
        waiting = deque(bodies)
        timeout = aiohttp.ClientTimeout(total=_ANSWER_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as http, asyncio.TaskGroup() as group:
            for _ in range(_CONCURRENCY):
                group.create_task(self._deliver_what_waits(http, waiting))

    async def _deliver_what_waits(self, http: aiohttp.ClientSession, waiting: deque[bytes]) -> None:
        while waiting:
            body = waiting.popleft()

            async def post(body: bytes = body) -> bool:
                return await self._post(http, body)

            await eventually(post, _GIVE_UP_AFTER_S)

    async def _post(self, http: aiohttp.ClientSession, body: bytes) -> bool:
        self.posts += 1
        try:
            async with http.post(self._url, data=body, headers={"Content-Type": "application/json"}) as answer:
                if answer.status == 200:
                    self.acknowledged.add(UUID((await answer.json())["event_id"]))
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False
