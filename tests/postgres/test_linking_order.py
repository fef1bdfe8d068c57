"""The links that stand depend on who is there: not on the order of arrival, nor on what is written meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventsync.crypto import Keyring
from eventsync.domain.errors import Transient
from eventsync.postgres.database import Database
from postgres.linked_practice import Practice, check_that_records_follow, open_practice

# Few addresses on purpose: who shares one is what must be decided.
EMAILS = st.sampled_from(["a@example.test", "A@example.test", "a@example.test", "b@example.test", None])


@dataclass(frozen=True, slots=True)
class Arrival:
    """A client (with its number) or a local patient (without) that becomes known; a client may be deleted at once."""

    email: str | None
    client: str | None = None
    connection: int = 0
    deleted: bool = False


CLIENTS = st.lists(
    st.builds(
        Arrival,
        EMAILS,
        st.sampled_from(["1", "2", "3"]),
        connection=st.integers(0, 1),
        deleted=st.sampled_from([0, 0, 1]),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda arrival: (arrival.client, arrival.connection),
)
LOCALS = st.lists(st.builds(Arrival, EMAILS), min_size=1, max_size=3)


def expected_links(arrivals: Sequence[Arrival]) -> set[tuple[int, str, int]]:
    """The rule, said again without SQL: (connection, client, place of the local patient) of every link."""
    expected = set()
    for email in {arrival.email.lower() for arrival in arrivals if arrival.email}:
        sharing = [arrival for arrival in arrivals if (arrival.email or "").lower() == email and not arrival.deleted]
        clients = [arrival for arrival in sharing if arrival.client is not None]
        locals_ = [place for place, arrival in enumerate(arrivals) if arrival in sharing and arrival.client is None]
        if len(clients) == 1 and len(locals_) == 1:
            expected.add((clients[0].connection, clients[0].client or "", locals_[0]))
    return expected


async def let_arrive(practice: Practice, arrivals: Sequence[Arrival], shuffler: random.Random) -> dict[UUID, int]:
    """Let everybody arrive in some order, clients with an appointment, with linking in between; name local patients."""
    places = [place for place, arrival in enumerate(arrivals) for _ in range(1 if arrival.client is None else 2)]
    shuffler.shuffle(places)
    local_places: dict[UUID, int] = {}
    known: set[int] = set()
    for place in places:
        arrival = arrivals[place]
        if arrival.client is None:
            local_places[await practice.local_patient(arrival.email)] = place
        elif place in known:
            await practice.appointment(f"a{place}", arrival.client, connection=arrival.connection)
        else:
            known.add(place)
            await practice.client(arrival.client, arrival.email, connection=arrival.connection)
        await perhaps_link(practice, shuffler)
    return local_places


async def let_some_be_deleted(practice: Practice, arrivals: Sequence[Arrival], shuffler: random.Random) -> None:
    for arrival in shuffler.sample(arrivals, len(arrivals)):
        if arrival.client is not None and arrival.deleted:
            await practice.client(arrival.client, arrival.email, connection=arrival.connection, deleted=True)
            await perhaps_link(practice, shuffler)


async def perhaps_link(practice: Practice, shuffler: random.Random) -> None:
    if shuffler.random() < 0.6:
        await practice.link()


@given(clients=CLIENTS, locals_=LOCALS, seed=st.integers(0, 2**32))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_links_that_stand_are_the_rules_whatever_the_order_of_arrival(
    database: asyncpg.Connection,
    pool: Database,
    keyring: Keyring,
    clients: list[Arrival],
    locals_: list[Arrival],
    seed: int,
) -> None:
    practice, shuffler = await open_practice(database, pool, keyring), random.Random(seed)
    arrivals = [*clients, *locals_]
    local_places = await let_arrive(practice, arrivals, shuffler)
    await let_some_be_deleted(practice, arrivals, shuffler)
    await practice.link()
    standing = await practice.standing()
    found = {
        (practice.connections.index(connection_id), client, local_places[patient_id])
        for (connection_id, client), patient_id in standing.items()
    }
    assert found == expected_links(arrivals)
    await check_that_records_follow(practice, standing)
    again = await practice.link()
    assert (again.linked, again.ended) == (0, 0)


async def test_records_written_while_clients_are_linked_end_with_the_right_patient(
    database: asyncpg.Connection, pool: Database, keyring: Keyring
) -> None:
    practice = await open_practice(database, pool, keyring)
    clients = [str(number) for number in range(8)]
    for client in clients:
        await practice.local_patient(f"{client}@example.test")
    writers = [asyncio.create_task(keep_writing(practice, clients, seed)) for seed in range(3)]
    while not all(writer.done() for writer in writers):
        await until_it_passes(practice.link)
    await asyncio.gather(*writers)
    await practice.link()
    standing = await practice.standing()
    assert {client for _, client in standing} == set(clients)
    await check_that_records_follow(practice, standing)


async def keep_writing(practice: Practice, clients: Sequence[str], seed: int) -> None:
    """Write clients and their appointments in some order; an e-mail that is another's makes and ends links."""
    shuffler = random.Random(seed)
    for number in range(25):
        client, other = shuffler.choice(clients), shuffler.choice(clients)
        await until_it_passes(partial(practice.client, client, f"{other}@example.test"))
        await until_it_passes(partial(practice.appointment, f"{seed}-{number}", client))
    for client in clients:
        await until_it_passes(partial(practice.client, client, f"{client}@example.test"))


async def until_it_passes(action: Callable[[], Awaitable[object]]) -> None:
    """Try again after a deadlock, as the stages do."""
    async with asyncio.timeout(30):
        while True:
            try:
                await action()
            except Transient:
                continue
            return
