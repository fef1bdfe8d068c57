"""The path over each bus, and over the in-process one where the bus does not matter."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eventsync.bus.memory import MemoryBus
from eventsync.bus.rabbit import RabbitBus
from eventsync.bus.wire import Bus
from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.postgres.database import Database
from stages.spine import Spine


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def made_bus(request: pytest.FixtureRequest) -> Bus:
    """Each of the two buses; not an async fixture, since the broker starts in an event loop of its own."""
    return MemoryBus() if request.param == "memory" else RabbitBus(request.getfixturevalue("amqp_url"))


@pytest.fixture
async def bus(made_bus: Bus) -> AsyncIterator[Bus]:
    """Each of the two buses, not started yet."""
    yield made_bus
    await made_bus.stop()


@pytest.fixture
async def rabbit_bus(amqp_url: str) -> AsyncIterator[RabbitBus]:
    """RabbitMQ's bus, not started yet."""
    made = RabbitBus(amqp_url)
    yield made
    await made.stop()


@pytest.fixture
def spine(pool: Database, keyring: Keyring, connection_ids: list[ConnectionId]) -> Spine:
    """The path over the in-process bus."""
    return Spine(pool, keyring, MemoryBus(), connection_ids)


@pytest.fixture
def bus_spine(pool: Database, keyring: Keyring, bus: Bus, connection_ids: list[ConnectionId]) -> Spine:
    """The path over each of the two buses."""
    return Spine(pool, keyring, bus, connection_ids)


@pytest.fixture
def rabbit_spine(pool: Database, keyring: Keyring, rabbit_bus: RabbitBus, connection_ids: list[ConnectionId]) -> Spine:
    """The path over RabbitMQ."""
    return Spine(pool, keyring, rabbit_bus, connection_ids)
