"""Names of practitioners: learned where nobody has given one, and missed where an appointment needs one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.runs import SyncType
from eventsync.postgres.database import Database
from eventsync.postgres.providers import Providers
from eventsync.stages.practitioners import learn_practitioners, unknown_practitioners
from eventsync.vendorkit.budget import Purpose
from stages.refresh_site import RefreshSite
from stages.sync_site import open_site


@pytest.fixture
async def desk(pool: Database, keyring: Keyring, database: asyncpg.Connection) -> AsyncIterator[RefreshSite]:
    """A practice of which nothing has been read; its one client has no appointment."""
    async with open_site(pool, keyring, clients=1, appointments=0, practitioners=3) as site:
        yield RefreshSite(site, database, client_id=str(next(iter(site.sandbox.truth("client"))).data["ClientId"]))


def book(desk: RefreshSite, practitioner_id: str, days: float) -> str:
    start = desk.site.clock() + timedelta(days=days)
    start_ms, client_id = int(start.timestamp() * 1000), int(desk.client_id)
    return desk.act("book", client_id=client_id, practitioner_id=practitioner_id, start_ms=start_ms)


async def learn(desk: RefreshSite) -> int:
    site = desk.site
    client = site.open_account(site.connection, SyncType.AUTOMATED_DAILY).client
    return await learn_practitioners(site.pool, client, site.connection.id, Purpose.SWEEP, site.clock())


async def names(desk: RefreshSite) -> dict[str, tuple[str, str | None]]:
    mapped = await Providers(desk.site.pool).mapped(desk.site.owner_id)
    return {entry.practitioner_id: (entry.provider_name, entry.email) for entry in mapped}


async def unknown(desk: RefreshSite) -> list[str]:
    return await unknown_practitioners(desk.site.pool, desk.site.connection.id, desk.site.clock())


async def test_the_vendors_names_are_learned_by_one_call(desk: RefreshSite) -> None:
    assert await learn(desk) == 3
    staff = desk.practice.practitioners
    assert await names(desk) == {key: (entry.name, entry.email) for key, entry in staff.items()}
    assert desk.site.calls == 1
    assert await learn(desk) == 0


async def test_a_name_that_a_person_has_given_is_never_overwritten(desk: RefreshSite) -> None:
    mapped, *others = desk.practice.practitioners
    site = desk.site
    await Providers(site.pool).map(site.connection.id, mapped, "Pat Test", None, site.clock(), site.owner_id)
    assert await learn(desk) == len(others)
    assert (await names(desk))[mapped] == ("Pat Test", None)


async def test_practitioners_of_near_living_appointments_without_a_name_are_unknown(desk: RefreshSite) -> None:
    staff = list(desk.practice.practitioners)
    near, gone, far = (book(desk, practitioner, days) for practitioner, days in zip(staff, (3, 4, 120), strict=True))
    desk.site.clock.advance(minutes=1)
    await desk.site.sync(days_ahead=200)
    await desk.database.execute("DELETE FROM provider_intakeq_settings")
    desk.act("delete", id=gone)
    desk.site.clock.advance(minutes=1)
    await desk.site.sync(SyncType.AUTOMATED_SWEEP)
    assert await desk.appointment(near) is not None
    assert await desk.appointment(far) is not None
    assert await unknown(desk) == [staff[0]]
    desk.site.clock.advance(days=60)
    assert await unknown(desk) == sorted([staff[0], staff[2]])


async def test_who_has_a_name_or_another_connection_is_not_unknown(desk: RefreshSite) -> None:
    book(desk, next(iter(desk.practice.practitioners)), 3)
    desk.site.clock.advance(minutes=1)
    await desk.site.sync()
    await learn(desk)
    assert await unknown(desk) == []
    await desk.database.execute("DELETE FROM provider_intakeq_settings")
    assert len(await unknown(desk)) == 1
    other = ConnectionId(uuid4())
    assert await unknown_practitioners(desk.site.pool, other, desk.site.clock()) == []
