"""API tokens, the access log and the counts of refused requests."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from eventsync.crypto import Keyring, hash_token
from eventsync.domain.connections import OrganizationId
from eventsync.domain.errors import Misconfigured
from eventsync.postgres.access import Access, AccessLog, ApiTokens, Principal, RefusalCounts, RefusalKey, Role
from eventsync.postgres.database import Database
from eventsync.postgres.tenants import Connections, NewConnection, Organizations
from eventsync.vendors import load_vendors

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def tokens(pool: Database) -> ApiTokens:
    return ApiTokens(pool)


@pytest.fixture
def counts(pool: Database) -> RefusalCounts:
    return RefusalCounts(pool)


@pytest.fixture
async def organization_id(pool: Database) -> OrganizationId:
    return (await Organizations(pool).add("Test Practice", None, NOW)).id


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.VIEWER])
async def test_a_token_speaks_for_its_role_and_organization(
    tokens: ApiTokens, organization_id: OrganizationId, role: Role
) -> None:
    made = await tokens.add(role, organization_id, NOW, "front desk")
    assert await tokens.authenticate(hash_token(made.token), NOW) == Principal(
        f"token:{made.id}", role, organization_id
    )


async def test_an_admins_token_speaks_for_no_organization(tokens: ApiTokens) -> None:
    made = await tokens.add(Role.ADMIN, None, NOW)
    principal = await tokens.authenticate(hash_token(made.token), NOW)
    assert principal is not None
    assert (principal.role, principal.organization_id) == (Role.ADMIN, None)


@pytest.mark.parametrize(("role", "is_bound"), [(Role.ADMIN, True), (Role.OPERATOR, False), (Role.VIEWER, False)])
async def test_an_admin_is_never_bound_and_everyone_else_always_is(
    tokens: ApiTokens, organization_id: OrganizationId, role: Role, *, is_bound: bool
) -> None:
    with pytest.raises(Misconfigured, match="--org"):
        await tokens.add(role, organization_id if is_bound else None, NOW)


async def test_a_token_is_stored_as_its_hash_only(
    pool: Database, tokens: ApiTokens, organization_id: OrganizationId
) -> None:
    made = await tokens.add(Role.VIEWER, organization_id, NOW)
    async with pool.session() as session:
        text = await session.fetchval("SELECT row_to_json(t)::text FROM api_tokens t")
    assert made.token not in text
    assert made.token not in repr(made)


async def test_an_unknown_or_revoked_token_is_nobodys(tokens: ApiTokens, organization_id: OrganizationId) -> None:
    made = await tokens.add(Role.VIEWER, organization_id, NOW)
    assert await tokens.authenticate(hash_token("another"), NOW) is None
    assert await tokens.revoke(made.id, organization_id, NOW)
    assert await tokens.authenticate(hash_token(made.token), NOW) is None
    assert not await tokens.revoke(made.id, organization_id, NOW)


async def test_an_organization_lists_and_revokes_its_own_tokens_only(
    tokens: ApiTokens, organization_id: OrganizationId
) -> None:
    mine = await tokens.add(Role.VIEWER, organization_id, NOW)
    admins = await tokens.add(Role.ADMIN, None, NOW)
    assert [token.id for token in await tokens.tokens(organization_id)] == [mine.id]
    assert {token.id for token in await tokens.tokens(None)} == {mine.id, admins.id}
    assert not await tokens.revoke(admins.id, organization_id, NOW)
    assert not await tokens.revoke(mine.id, OrganizationId(uuid4()), NOW)
    assert await tokens.revoke(admins.id, None, NOW)


async def test_the_time_of_use_is_noted_once_a_minute_at_most(
    tokens: ApiTokens, organization_id: OrganizationId
) -> None:
    made = await tokens.add(Role.VIEWER, organization_id, NOW)
    noted = []
    for seconds in (0, 59, 60, 61):
        await tokens.authenticate(hash_token(made.token), NOW + timedelta(seconds=seconds))
        (token,) = await tokens.tokens(organization_id)
        noted.append(token.last_used_at)
    minute = timedelta(minutes=1)
    assert noted == [NOW, NOW, NOW + minute, NOW + minute]


async def test_many_requests_with_one_token_at_once_all_pass(
    tokens: ApiTokens, organization_id: OrganizationId
) -> None:
    made = await tokens.add(Role.VIEWER, organization_id, NOW)
    principals = await asyncio.gather(*(tokens.authenticate(hash_token(made.token), NOW) for _ in range(20)))
    assert None not in principals


async def test_the_access_log_is_read_backwards_page_by_page(pool: Database) -> None:
    log = AccessLog(pool)
    for number in range(5):
        await log.write(Access(NOW + timedelta(seconds=number), "token:1", "read_event", f"event:{number}"))
    first = await log.latest(limit=3)
    rest = await log.latest(before_id=first[-1][0], limit=3)
    assert [access.subject for _, access in first + rest] == [f"event:{number}" for number in (4, 3, 2, 1, 0)]


async def test_refusals_of_an_hour_add_up(
    pool: Database, counts: RefusalCounts, organization_id: OrganizationId
) -> None:
    connections = Connections(pool, Keyring([b"k" * 32]), load_vendors())
    await connections.add(NewConnection(organization_id, "intakeq", "key-1"), NOW)
    key = RefusalKey(NOW, "intakeq", "unknown_token")
    await counts.add({key: 2, RefusalKey(NOW, "intakeq", "wrong_signature"): 1}, NOW)
    await counts.add({key: 3}, NOW + timedelta(minutes=5))
    (most, least) = await counts.since(NOW)
    assert (most.vendor, most.reason, most.count) == ("intakeq", "unknown_token", 5)
    assert most.last_at == NOW + timedelta(minutes=5)
    assert (least.reason, least.count) == ("wrong_signature", 1)


async def test_names_that_callers_invent_do_not_make_the_table_grow(counts: RefusalCounts) -> None:
    invented = ["a", "b\0", "\ud800", "unknown", "x" * 10_000, "'; --", *map(str, range(500))]
    await counts.add({RefusalKey(NOW, vendor, "unknown_token"): 1 for vendor in invented}, NOW)
    (row,) = await counts.since(NOW)
    assert (row.vendor, row.count) == ("unknown", len(invented))


async def test_counting_nothing_does_nothing(counts: RefusalCounts) -> None:
    await counts.add({}, NOW)
    assert await counts.since(NOW - 24 * HOUR) == []


async def test_old_counts_are_pruned(counts: RefusalCounts) -> None:
    await counts.add({RefusalKey(NOW - HOUR, "a", "r"): 1, RefusalKey(NOW, "a", "r"): 1}, NOW)
    await counts.prune(NOW)
    assert [row.hour for row in await counts.since(NOW - 24 * HOUR)] == [NOW]


async def test_old_accesses_are_pruned(pool: Database) -> None:
    log = AccessLog(pool)
    for at in (NOW - HOUR, NOW):
        await log.write(Access(at, "cli", "show_event_body", "event:1"))
    await log.prune(NOW)
    assert [access.at for _, access in await log.latest()] == [NOW]
