"""Organizations, connections and webhook tokens: sealed at rest, told apart by tenant, judged before they are kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from eventsync.crypto import Keyring, hash_token
from eventsync.domain.connections import ConnectionId, HmacCheck, OrganizationId, SignatureEncoding
from eventsync.domain.errors import Misconfigured, Rejected
from eventsync.postgres.access import AccessLog
from eventsync.postgres.database import Database
from eventsync.postgres.tenants import AddedConnection, Connections, NewConnection, Organization, Organizations
from eventsync.postgres.webhook_tokens import WebhookTokens
from eventsync.vendors import load_vendors

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
KEYRING = Keyring([b"k" * 32])
OTHER_KEYRING = Keyring([b"o" * 32])
SIGNED = HmacCheck("X-Signature", ("secret-1", "secret-2"), SignatureEncoding.BASE64, "sha256=")


@pytest.fixture
def organizations(pool: Database) -> Organizations:
    return Organizations(pool)


@pytest.fixture
def connections(pool: Database) -> Connections:
    return Connections(pool, KEYRING, load_vendors())


@pytest.fixture
def tokens(pool: Database) -> WebhookTokens:
    return WebhookTokens(pool, KEYRING)


@pytest.fixture
async def organization(organizations: Organizations) -> Organization:
    return await organizations.add("Test Practice", "practice-7", NOW)


def new_connection(organization: Organization, **changes: object) -> NewConnection:
    given: dict[str, object] = {"organization_id": organization.id, "vendor": "intakeq", "api_key": "key-1"}
    return NewConnection(**given | changes)  # type: ignore[arg-type]  # a test names the fields that it means


@pytest.fixture
async def added(connections: Connections, organization: Organization) -> AddedConnection:
    return await connections.add(new_connection(organization), NOW)


async def test_an_organization_is_found_by_its_uuid_its_external_id_and_its_number(
    organizations: Organizations, organization: Organization
) -> None:
    await organizations.add("Another Practice", None, NOW)
    for reference in (str(organization.id), "practice-7", str(organization.number)):
        assert await organizations.find(reference) == organization


@pytest.mark.parametrize("reference", ["", "nobody", "0", "99999999999", str(uuid4()), "a\0b", "\ud800", "-1", "1.0"])
async def test_a_reference_that_names_no_organization_finds_none(
    organizations: Organizations, organization: Organization, reference: str
) -> None:
    assert await organizations.find(reference) is None


async def test_an_external_id_that_looks_like_a_number_goes_before_the_number(
    organizations: Organizations, organization: Organization
) -> None:
    named_so = await organizations.add("Another Practice", str(organization.number), NOW)
    assert await organizations.find(str(organization.number)) == named_so


async def test_two_organizations_cannot_have_one_external_id(
    organizations: Organizations, organization: Organization
) -> None:
    with pytest.raises(Rejected, match="another organization"):
        await organizations.add("Another Practice", "practice-7", NOW)
    assert await organizations.all() == [organization]


async def test_a_connection_opens_to_what_was_given_and_takes_the_rest_from_its_vendor(
    connections: Connections, organization: Organization
) -> None:
    added = await connections.add(new_connection(organization, practice_id="p-1", timezone="Europe/Berlin"), NOW)
    connection = await connections.load_connection(added.id)
    assert connection is not None
    assert (connection.api_key, connection.practice_id, connection.timezone) == ("key-1", "p-1", "Europe/Berlin")
    assert connection.base_url == load_vendors()["intakeq"].default_base_url
    assert (connection.calls_per_minute, connection.calls_per_day) == (10, 500)
    assert await connections.load_connections() == [connection]


@pytest.mark.parametrize(
    ("settings", "limits"),
    [
        ({"calls_per_minute": "60", "calls_per_day": "unlimited"}, (60, None)),
        ({"calls_per_day": "2000"}, (10, 2000)),
    ],
)
async def test_a_connections_own_limits_go_before_the_vendors(
    connections: Connections, organization: Organization, settings: dict[str, str], limits: tuple[int, int | None]
) -> None:
    added = await connections.add(new_connection(organization, settings=settings), NOW)
    connection = await connections.load_connection(added.id)
    assert connection is not None
    assert (connection.calls_per_minute, connection.calls_per_day) == limits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vendor": "nobody"}, "no such vendor"),
        ({"timezone": "Mars/Olympus"}, "no such time zone"),
        ({"timezone": "Europe"}, "no such time zone"),
        ({"timezone": "../../etc/passwd"}, "no such time zone"),
        ({"timezone": ""}, "no such time zone"),
        ({"base_url": "ftp://example.test"}, "base URL"),
        ({"base_url": "https://user:secret@example.test"}, "base URL"),
        ({"base_url": "https://example.test/api?key=1"}, "base URL"),
        ({"base_url": "https://[::1"}, "base URL"),
        ({"base_url": "https://example.test:99999"}, "base URL"),
        ({"allowed_networks": ("203.0.113.1/24",)}, "allowed network"),
        ({"allowed_networks": ("everyone",)}, "allowed network"),
        ({"settings": {"calls_per_hour": "5"}}, "no such setting"),
        ({"settings": {"calls_per_minute": "0"}}, "calls_per_minute is not"),
        ({"settings": {"calls_per_minute": "unlimited"}}, "calls_per_minute is not"),
        ({"settings": {"calls_per_day": "-5"}}, "calls_per_day is not"),
        ({"settings": {"calls_per_day": "1e9"}}, "calls_per_day is not"),
        ({"api_key": "key\r\nX-Other: 1"}, "API key"),
        ({"hmac": HmacCheck("X-Signature", ())}, "no secret"),
        ({"hmac": HmacCheck("X-Signature", ("secret-1", ""))}, "is empty"),
        ({"hmac": HmacCheck("", ("secret-1",))}, "--hmac-header"),
        ({"hmac": HmacCheck("X-Signature: ", ("secret-1",))}, "no header has such a name"),
        ({"hmac": HmacCheck("X-Signature", ("secret-1",), prefix="\udcff")}, "UTF-8"),
    ],
)
async def test_what_cannot_be_is_refused_and_nothing_is_kept(
    connections: Connections, organization: Organization, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(Misconfigured, match=message):
        await connections.add(new_connection(organization, **changes), NOW)
    assert await connections.summaries(None) == []


async def test_a_base_url_loses_its_last_slash_and_networks_are_written_alike(
    connections: Connections, organization: Organization
) -> None:
    wanted = new_connection(organization, base_url=" http://127.0.0.1:8000/v1/ ", allowed_networks=(" 203.0.113.5",))
    added = await connections.add(wanted, NOW)
    summary = await connections.find(str(added.id), None)
    assert summary is not None
    assert (summary.base_url, summary.allowed_networks) == ("http://127.0.0.1:8000/v1", ("203.0.113.5/32",))


async def test_no_secret_of_a_connection_stands_readable_in_the_database(
    pool: Database, connections: Connections, organization: Organization
) -> None:
    added = await connections.add(new_connection(organization, hmac=SIGNED), NOW)
    async with pool.session() as session:
        rows = await session.fetch(
            "SELECT row_to_json(c)::text AS text,"
            " c.api_key_sealed || c.hmac_sealed || t.token_sealed || t.token_hash AS raw"
            " FROM connections c JOIN webhook_tokens t ON t.connection_id = c.id"
        )
    for secret in ("key-1", "secret-1", added.webhook_token):
        assert secret not in rows[0]["text"]
        assert secret.encode() not in rows[0]["raw"]


async def test_no_secret_stands_in_what_is_printed_of_a_connection(
    connections: Connections, organization: Organization
) -> None:
    wanted = new_connection(organization, hmac=SIGNED)
    added = await connections.add(wanted, NOW)
    connection = await connections.load_connection(added.id)
    printed = repr([wanted, added, connection, await connections.summaries(None)])
    assert not any(secret in printed for secret in ("key-1", "secret-1", added.webhook_token))


async def test_an_organization_sees_and_ends_its_own_connections_only(
    organizations: Organizations, connections: Connections, organization: Organization, added: AddedConnection
) -> None:
    other = await organizations.add("Another Practice", None, NOW)
    theirs = await connections.add(new_connection(other), NOW)
    assert [entry.id for entry in await connections.summaries(organization.id)] == [added.id]
    assert {entry.id for entry in await connections.summaries(None)} == {added.id, theirs.id}
    assert await connections.find(str(theirs.id), organization.id) is None
    with pytest.raises(Rejected, match="no such connection"):
        await connections.disable(theirs.id, organization.id, NOW)
    found = await connections.find(str(theirs.id), other.id)
    assert found is not None
    assert found.disabled_at is None


async def test_a_connection_is_found_by_its_number(connections: Connections, added: AddedConnection) -> None:
    by_id = await connections.find(str(added.id), None)
    assert by_id is not None
    assert await connections.find(str(by_id.number), None) == by_id


async def test_credentials_sealed_with_a_key_that_is_missing_say_what_to_do(
    pool: Database, added: AddedConnection
) -> None:
    with pytest.raises(Misconfigured, match="EVENTSYNC_ENCRYPTION_KEYS"):
        await Connections(pool, OTHER_KEYRING, load_vendors()).load_connection(added.id)


async def test_a_connection_that_does_not_exist_loads_as_none(connections: Connections) -> None:
    assert await connections.load_connection(ConnectionId(uuid4())) is None


async def test_the_door_learns_of_a_new_connection_and_forgets_a_disabled_one(
    connections: Connections, tokens: WebhookTokens, organization: Organization
) -> None:
    added = await connections.add(new_connection(organization, hmac=SIGNED, allowed_networks=("203.0.113.0/24",)), NOW)
    (verifier,) = await tokens.load_verifiers(NOW)
    assert verifier.token_hash == hash_token(added.webhook_token)
    assert (verifier.connection_id, verifier.vendor, verifier.hmac) == (added.id, "intakeq", SIGNED)
    assert (verifier.allowed_networks, verifier.expires_at) == (("203.0.113.0/24",), None)
    assert await tokens.find_verifier(verifier.token_hash, NOW) == verifier
    await connections.disable(added.id, organization.id, NOW)
    assert await tokens.load_verifiers(NOW) == []
    assert await tokens.find_verifier(verifier.token_hash, NOW) is None
    assert await connections.load_connections() == []


async def test_an_unknown_token_has_no_verifier(tokens: WebhookTokens, added: AddedConnection) -> None:
    assert await tokens.find_verifier(hash_token("another"), NOW) is None


async def test_both_tokens_work_while_one_is_rotated_and_only_the_new_one_after(
    tokens: WebhookTokens, organization: Organization, added: AddedConnection
) -> None:
    renewed = await tokens.rotate(added.id, organization.id, NOW, timedelta(hours=1))
    old, new = hash_token(added.webhook_token), hash_token(renewed)
    assert {entry.token_hash for entry in await tokens.load_verifiers(NOW)} == {old, new}
    after = NOW + timedelta(hours=1)
    assert [entry.token_hash for entry in await tokens.load_verifiers(after)] == [new]
    assert await tokens.find_verifier(old, after) is None


async def test_a_second_rotation_never_prolongs_the_first_token(
    tokens: WebhookTokens, organization: Organization, added: AddedConnection
) -> None:
    await tokens.rotate(added.id, organization.id, NOW, timedelta(hours=1))
    await tokens.rotate(added.id, organization.id, NOW + timedelta(minutes=30), timedelta(days=7))
    assert await tokens.find_verifier(hash_token(added.webhook_token), NOW + timedelta(hours=1)) is None


async def test_a_rotation_removes_the_tokens_that_have_expired(
    pool: Database, tokens: WebhookTokens, organization: Organization, added: AddedConnection
) -> None:
    await tokens.rotate(added.id, organization.id, NOW, timedelta(hours=1))
    await tokens.rotate(added.id, organization.id, NOW + timedelta(hours=2), timedelta(hours=1))
    async with pool.session() as session:
        assert await session.fetchval("SELECT count(*) FROM webhook_tokens") == 2


async def test_revealing_shows_every_living_token_and_says_so_in_the_access_log(
    pool: Database, tokens: WebhookTokens, organization: Organization, added: AddedConnection
) -> None:
    renewed = await tokens.rotate(added.id, organization.id, NOW + timedelta(minutes=1), timedelta(hours=1))
    shown = await tokens.reveal(added.id, organization.id, "token:1", NOW + timedelta(minutes=2))
    assert [entry.token for entry in shown] == [renewed, added.webhook_token]
    ((_, access),) = await AccessLog(pool).latest()
    assert (access.actor, access.action) == ("token:1", "reveal_webhook_token")
    assert access.subject == f"connection:{added.id}"


async def test_another_organization_can_neither_see_nor_rotate_a_token(
    pool: Database, tokens: WebhookTokens, added: AddedConnection
) -> None:
    stranger = OrganizationId(uuid4())
    with pytest.raises(Rejected, match="no such connection"):
        await tokens.reveal(added.id, stranger, "token:1", NOW)
    with pytest.raises(Rejected, match="no such connection"):
        await tokens.rotate(added.id, stranger, NOW, timedelta(hours=1))
    assert await AccessLog(pool).latest() == []
    assert len(await tokens.load_verifiers(NOW)) == 1


async def test_one_connection_whose_secrets_do_not_open_leaves_the_others_at_the_door(
    pool: Database,
    connections: Connections,
    tokens: WebhookTokens,
    organization: Organization,
    added: AddedConnection,
) -> None:
    foreign = Connections(pool, OTHER_KEYRING, load_vendors())
    closed = await foreign.add(new_connection(organization, hmac=SIGNED), NOW)
    assert [entry.connection_id for entry in await tokens.load_verifiers(NOW)] == [added.id]
    with pytest.raises(Misconfigured, match="EVENTSYNC_ENCRYPTION_KEYS"):
        await tokens.find_verifier(hash_token(closed.webhook_token), NOW)
