"""Organizations, tokens and connections by command: what they print, and that secrets are printed once."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from cli.runs import Cli
from eventsync.crypto import hash_token


async def test_an_organization_is_added_and_listed(cli: Cli) -> None:
    added = (await cli("orgs", "add", "Clinic North", "--external-id", "north", "--json")).json
    assert added["name"] == "Clinic North"
    assert (await cli("orgs", "list", "--json")).json == [added]
    assert "Clinic North" in (await cli("orgs", "list")).stdout


async def test_a_second_organization_with_the_same_external_id_ends_with_1(cli: Cli) -> None:
    await cli("orgs", "add", "Clinic North", "--external-id", "north")
    again = await cli("orgs", "add", "Clinic North", "--external-id", "north")
    assert (again.exit_code, again.stdout) == (1, "")
    assert "external id" in again.stderr


async def test_an_empty_list_is_an_empty_array_for_programs_and_a_hint_for_people(cli: Cli) -> None:
    assert (await cli("orgs", "list", "--json")).json == []
    listed = await cli("orgs", "list")
    assert (listed.exit_code, listed.stdout) == (0, "")
    assert "eventsync orgs add" in listed.stderr


async def test_tables_for_programs_hold_neither_colours_nor_wrapped_lines(cli: Cli) -> None:
    await cli("orgs", "add", "Practice " * 40)
    lines = (await cli("orgs", "list")).stdout.splitlines()
    assert len(lines) == 2
    assert "\x1b" not in "".join(lines)


async def test_characters_that_steer_a_terminal_are_not_printed(cli: Cli) -> None:
    await cli("orgs", "add", "Clinic \x1b[31m North")
    assert "\x1b" not in (await cli("orgs", "list")).stdout


async def test_a_token_is_shown_once_and_kept_as_its_hash(
    cli: Cli, organization: dict[str, Any], database: asyncpg.Connection
) -> None:
    added = (await cli("tokens", "add", "--role", "operator", "--org", "practice-7", "--name", "script", "--json")).json
    assert added["organization_id"] == organization["id"]
    assert await database.fetchval("SELECT token_hash FROM api_tokens") == hash_token(added["token"])
    for words in (("tokens", "list"), ("tokens", "list", "--json")):
        listed = await cli(*words)
        assert added["id"] in listed.stdout
        assert added["token"] not in listed.stdout + listed.stderr


async def test_a_revoked_token_is_listed_as_such_and_cannot_be_revoked_again(cli: Cli) -> None:
    token_id = (await cli("tokens", "add", "--role", "admin", "--json")).json["id"]
    assert (await cli("tokens", "revoke", token_id, "--json")).json == {"id": token_id, "revoked": True}
    assert (await cli("tokens", "list", "--json")).json[0]["revoked_at"] is not None
    again = await cli("tokens", "revoke", token_id)
    assert again.exit_code == 1


async def test_tokens_are_listed_by_organization(cli: Cli, organization: dict[str, Any]) -> None:
    await cli("tokens", "add", "--role", "admin")
    mine = (await cli("tokens", "add", "--role", "viewer", "--org", str(organization["number"]), "--json")).json
    assert [token["id"] for token in (await cli("tokens", "list", "--org", "practice-7", "--json")).json] == [
        mine["id"]
    ]


async def test_a_connection_prints_its_webhook_url_and_what_it_replaces_at_the_vendor(
    cli: Cli, organization: dict[str, Any]
) -> None:
    env = {"EVENTSYNC_PUBLIC_URL": "https://hooks.example.test/"}
    added = await cli("connections", "add", "intakeq", "--org", "practice-7", "--api-key", "secret-key-1", env=env)
    assert added.exit_code == 0
    assert "https://hooks.example.test/api/webhooks/intakeq/" in added.stdout
    assert "replaces whatever receives that kind today" in added.stderr
    assert "secret-key-1" not in added.stdout + added.stderr


async def test_a_connection_keeps_every_option(cli: Cli, organization: dict[str, Any]) -> None:
    words = [
        *("--api-key", "-", "--base-url", "http://127.0.0.1:8090/api/v1", "--practice-id", "65f0c0ffee65f0c0ffee0003"),
        *("--timezone", "Europe/Berlin", "--hmac-secret", "s1", "--hmac-header", "X-Signature"),
        *("--hmac-encoding", "base64", "--hmac-prefix", "sha256=", "--allow-network", "203.0.113.0/24"),
        *("--set", "calls_per_day=unlimited", "--set", "calls_per_minute=20"),
    ]
    added = await cli("connections", "add", "intakeq", "--org", "practice-7", *words, "--json", given="secret-key-1\n")
    assert added.exit_code == 0, added.stderr
    shown = (await cli("connections", "show", "1", "--json")).json
    assert {name: added.json[name] for name in shown} == shown
    assert shown["base_url"] == "http://127.0.0.1:8090/api/v1"
    assert shown["settings"] == {"calls_per_day": "unlimited", "calls_per_minute": "20"}
    assert shown["allowed_networks"] == ["203.0.113.0/24"]
    assert (shown["timezone"], shown["requires_signature"]) == ("Europe/Berlin", True)


@pytest.mark.parametrize(
    "words",
    [
        ("add", "intakeqq", "--org", "practice-7", "--api-key", "k"),
        ("add", "intakeq", "--org", "practice-7", "--api-key", "k", "--timezone", "Nowhere/Town"),
        ("add", "intakeq", "--org", "practice-7", "--api-key", "k", "--base-url", "ftp://h"),
        ("add", "intakeq", "--org", "practice-7", "--api-key", "k", "--allow-network", "everyone"),
        ("add", "intakeq", "--org", "practice-7", "--api-key", "k", "--set", "colour=blue"),
    ],
    ids=" ".join,
)
async def test_a_wrong_value_of_a_connection_ends_with_2_and_stores_nothing(
    cli: Cli, organization: dict[str, Any], words: tuple[str, ...]
) -> None:
    ended = await cli("connections", *words)
    assert ended.exit_code == 2
    assert ended.stderr.startswith("Error: ")
    assert (await cli("connections", "list", "--json")).json == []


async def test_the_api_key_may_come_from_the_environment(cli: Cli, organization: dict[str, Any]) -> None:
    env = {"EVENTSYNC_API_KEY": "secret-key-1"}
    assert (await cli("connections", "add", "intakeq", "--org", "practice-7", env=env)).exit_code == 0


async def test_a_renewed_api_key_keeps_the_connection_and_its_webhook_url(
    cli: Cli, connection: dict[str, Any], organization: dict[str, Any]
) -> None:
    (before,) = (await cli("budget", "--json")).json
    updated = await cli("connections", "update", "1", "--api-key", "-", "--json", given="secret-key-2\n")
    assert updated.exit_code == 0, updated.stderr
    assert updated.json["id"] == connection["id"]
    (after,) = (await cli("budget", "--json")).json
    assert after["api_key"] != before["api_key"]
    assert (await cli("connections", "reveal", "1", "--json")).json[0]["webhook_url"] == connection["webhook_url"]


async def test_an_update_changes_what_is_named_and_leaves_the_rest(cli: Cli, connection: dict[str, Any]) -> None:
    words = ("connections", "update", "1", "--json")
    await cli(*words, "--practice-id", "65f0c0ffee65f0c0ffee0003", "--set", "calls_per_day=2000")
    await cli(*words, "--timezone", "Europe/Berlin", "--set", "calls_per_minute=20")
    shown = (await cli("connections", "show", "1", "--json")).json
    assert (shown["practice_id"], shown["timezone"]) == ("65f0c0ffee65f0c0ffee0003", "Europe/Berlin")
    assert shown["settings"] == {"calls_per_day": "2000", "calls_per_minute": "20"}
    assert shown["base_url"] == connection["base_url"]
    assert (await cli(*words, "--practice-id", "")).json["practice_id"] is None


@pytest.mark.parametrize(
    "words",
    [(), ("--timezone", "Nowhere/Town"), ("--set", "colour=blue"), ("--api-key", " "), ("--api-key", "a\nkey")],
    ids=ascii,
)
async def test_an_update_with_nothing_or_wrong_values_ends_with_2_and_changes_nothing(
    cli: Cli, connection: dict[str, Any], words: tuple[str, ...]
) -> None:
    before = (await cli("connections", "show", "1")).stdout
    assert (await cli("connections", "update", "1", *words)).exit_code == 2
    assert (await cli("connections", "show", "1")).stdout == before


async def test_secrets_of_a_connection_are_shown_by_no_command_but_reveal(cli: Cli, connection: dict[str, Any]) -> None:
    token = connection["webhook_url"].rpartition("/")[2]
    for words in (("list",), ("list", "--json"), ("show", "1"), ("show", "1", "--json")):
        shown = await cli("connections", *words)
        assert connection["organization_id"] in shown.stdout
        assert token not in shown.stdout
        assert "secret-key-1" not in shown.stdout


async def test_revealing_a_webhook_url_is_written_to_the_access_log(
    cli: Cli, connection: dict[str, Any], database: asyncpg.Connection
) -> None:
    revealed = (await cli("connections", "reveal", "1", "--json")).json
    assert [row["webhook_url"] for row in revealed] == [connection["webhook_url"]]
    logged = await database.fetchrow("SELECT actor, subject FROM access_log")
    assert logged["subject"] == f"connection:{connection['id']}"
    assert logged["actor"].startswith("cli:")


async def test_a_rotated_token_overlaps_with_the_one_before(cli: Cli, connection: dict[str, Any]) -> None:
    rotated = (await cli("connections", "rotate-webhook-token", "1", "--json")).json
    assert rotated["webhook_url"] != connection["webhook_url"]
    revealed = (await cli("connections", "reveal", "1", "--json")).json
    assert [row["webhook_url"] for row in revealed] == [rotated["webhook_url"], connection["webhook_url"]]
    assert [row["expires_at"] is None for row in revealed] == [True, False]


async def test_a_leaked_url_ends_at_once_without_overlap(cli: Cli, connection: dict[str, Any]) -> None:
    rotated = (await cli("connections", "rotate-webhook-token", "1", "--overlap-hours", "0", "--json")).json
    revealed = (await cli("connections", "reveal", "1", "--json")).json
    assert [row["webhook_url"] for row in revealed] == [rotated["webhook_url"]]


async def test_a_disabled_connection_is_listed_as_such(cli: Cli, connection: dict[str, Any]) -> None:
    assert (await cli("connections", "disable", connection["id"], "--json")).json["disabled_at"] is not None
    assert (await cli("connections", "list", "--json")).json[0]["disabled_at"] is not None
    assert (await cli("connections", "disable", "1")).exit_code == 1


@pytest.mark.parametrize("words", [("show", "99"), ("reveal", "99"), ("disable", "nonsense"), ("list", "--org", "no")])
async def test_what_is_not_there_ends_with_1_and_says_where_to_look(cli: Cli, words: tuple[str, ...]) -> None:
    ended = await cli("connections", *words)
    assert ended.exit_code == 1
    assert "see `eventsync " in ended.stderr


async def test_the_budget_tells_what_is_left_for_each_connection(cli: Cli, connection: dict[str, Any]) -> None:
    (row,) = (await cli("budget", "--json")).json
    assert (row["connection"], row["left_this_minute"], row["left_today"]) == (1, 10, 500)
    assert row["spent_last_day"] == {}
    assert "secret-key-1" not in (await cli("budget")).stdout
