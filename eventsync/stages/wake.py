"""Tells the deliverers over the bus that the outbound queue has news: woken by NOTIFY, guaranteed by their polling."""

from __future__ import annotations

import asyncio

from eventsync.bus.topology import RoutingKey
from eventsync.bus.wire import Message, encode
from eventsync.domain.errors import Transient
from eventsync.postgres.listener import Channel, Listener
from eventsync.stages.bus_link import BusLink

_WAKE_UP = Message(RoutingKey.DELIVER, encode({"type": "outbound.due"}))
_BURST_S = 0.02  # what rings within it is one wake-up
_LONGEST_WAIT_S = 3600.0


class WakeRelay:
    """Publishes one wake-up for whatever rang since the last one. One that cannot be published is dropped."""

    name = "relay:outbound"

    def __init__(self, link: BusLink, listener: Listener, *, publish_timeout_s: float = 5.0) -> None:
        self._link = link
        self._signal = listener.signal(Channel.OUTBOUND)
        self._publish_timeout_s = publish_timeout_s

    async def run(self) -> None:
        """Pass news on for ever. Raises Transient when the bus goes away: run it again, it begins with a wake-up."""
        await self._link.restore()
        while True:
            await self._publish()
            await asyncio.sleep(_BURST_S)
            while not await self._signal.wait(_LONGEST_WAIT_S):
                pass

    async def _publish(self) -> None:
        try:
            async with asyncio.timeout(self._publish_timeout_s):
                await self._link.bus.publish([_WAKE_UP])
        except TimeoutError as error:
            raise Transient(f"the bus did not confirm within {self._publish_timeout_s:g} s") from error
