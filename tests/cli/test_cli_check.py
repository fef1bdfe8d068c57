"""`eventsync check`, `migrate` and `database-url`: every part is tried, and each that fails says what to do."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cli.runs import Cli
from eventsync.sandbox import SandboxOptions, serve


def states(report: dict[str, Any]) -> dict[str, str]:
    return {part["part"]: part["state"] for part in report["parts"]}


async def test_a_database_is_migrated_once(bare_cli: Cli, empty_database_url: str) -> None:
    env = {"EVENTSYNC_DATABASE_URL": empty_database_url}
    assert "0001_spine" in (await bare_cli("migrate", "--json", env=env)).json["applied"]
    again = await bare_cli("migrate", env=env)
    assert (again.exit_code, again.stdout) == (0, "nothing to do: the schema is up to date\n")


async def test_commands_refuse_a_database_without_schema(
    bare_cli: Cli, empty_database_url: str, settings_env: dict[str, str]
) -> None:
    ended = await bare_cli("orgs", "list", env=settings_env | {"EVENTSYNC_DATABASE_URL": empty_database_url})
    assert ended.exit_code == 2
    assert "run `eventsync migrate`" in ended.stderr


async def test_the_database_url_is_the_settings(cli: Cli, database_url: str) -> None:
    assert (await cli("database-url")).stdout == f"{database_url}\n"


async def test_without_any_setting_a_database_of_its_own_is_made_and_stays(bare_cli: Cli, data_dir: Path) -> None:
    env = {"EVENTSYNC_DATA_DIR": str(data_dir)}
    assert (await bare_cli("orgs", "add", "Clinic North", env=env)).exit_code == 0
    assert "Clinic North" in (await bare_cli("orgs", "list", env=env)).stdout
    url = await bare_cli("database-url", env=env)
    assert url.stdout.startswith("postgresql://")
    assert "not running now" in url.stderr


async def test_a_sound_installation_passes_every_part(cli: Cli, organization: dict[str, Any]) -> None:
    async with serve(SandboxOptions(port=0, rate_per_s=0, clients=1, appointments=0)) as sandbox:
        words = ("--org", "practice-7", "--api-key", sandbox.api_key, "--base-url", sandbox.api_url)
        await cli("connections", "add", "intakeq", *words)
        checked = await cli("check", "--json")
    assert checked.exit_code == 0, checked.stdout
    assert checked.json["ok"] is True
    assert set(states(checked.json).values()) == {"ok"}
    assert states(checked.json)["connection 1 (intakeq)"] == "ok"
    assert (await cli("budget", "--json")).json[0]["spent_last_day"] == {"check": 1}


async def test_a_refused_api_key_fails_with_what_to_do(cli: Cli, organization: dict[str, Any]) -> None:
    async with serve(SandboxOptions(port=0, rate_per_s=0, clients=1, appointments=0)) as sandbox:
        words = ("--org", "practice-7", "--api-key", "another-key", "--base-url", sandbox.api_url)
        await cli("connections", "add", "intakeq", *words)
        checked = await cli("check")
    assert checked.exit_code == 1
    (line,) = [line for line in checked.stdout.splitlines() if line.startswith("connection 1")]
    assert "failed" in line
    assert "api_key" in line


async def test_an_account_of_either_kind_is_checked(cli: Cli, organization: dict[str, Any]) -> None:
    async with (
        serve(SandboxOptions(clients=1, appointments=0)) as intakeq,
        serve(SandboxOptions(vendor="colectiva")) as colectiva,
    ):
        for vendor, sandbox in (("intakeq", intakeq), ("colectiva", colectiva)):
            words = ("--org", "practice-7", "--api-key", sandbox.api_key, "--base-url", sandbox.api_url)
            await cli("connections", "add", vendor, *words)
        checked = await cli("check", "--json")
        assert colectiva.sandbox.vendor.revision == 0  # nothing was registered by it
    assert checked.exit_code == 0, checked.stdout
    assert states(checked.json)["connection 1 (intakeq)"] == "ok"
    assert states(checked.json)["connection 2 (colectiva)"] == "ok"


async def test_a_registry_that_refuses_the_key_fails_with_what_to_do_and_spoils_no_other_check(
    cli: Cli, organization: dict[str, Any]
) -> None:
    async with serve(SandboxOptions(vendor="colectiva")) as sandbox:
        for key in ("another-key", sandbox.api_key):
            words = ("--org", "practice-7", "--api-key", key, "--base-url", sandbox.base_url)
            await cli("connections", "add", "colectiva", *words)
        sandbox.sandbox.act("revoke_permission")
        refused, forbidden = [line for line in (await cli("check")).stdout.splitlines() if "(colectiva)" in line]
        sandbox.sandbox.act("grant_permission")
        checked = await cli("check", "--json")
    assert "connections update 1 --api-key" in refused
    assert "ecosystem:write" in forbidden
    assert states(checked.json)["connection 1 (colectiva)"] == "failed"
    assert states(checked.json)["connection 2 (colectiva)"] == "ok"


async def test_offline_leaves_the_vendors_alone(cli: Cli, connection: dict[str, Any]) -> None:
    checked = await cli("check", "--offline", "--json")
    assert checked.exit_code == 0
    assert states(checked.json)["connection 1 (intakeq)"] == "skipped"
    assert (await cli("budget", "--json")).json[0]["spent_last_day"] == {}


async def test_keys_that_do_not_open_what_is_stored_fail(cli: Cli, connection: dict[str, Any]) -> None:
    other = base64.b64encode(b"o" * 32).decode()
    checked = await cli("check", "--offline", "--json", env={"EVENTSYNC_ENCRYPTION_KEYS": other})
    assert checked.exit_code == 1
    assert states(checked.json)["stored secrets"] == "failed"


async def test_a_database_that_is_away_fails_the_check_and_not_the_command(cli: Cli) -> None:
    env = {"EVENTSYNC_DATABASE_URL": "postgresql://app@127.0.0.1:1/d"}
    checked = await cli("check", "--json", env=env)
    assert checked.exit_code == 1
    assert states(checked.json)["database"] == "failed"


async def test_a_schema_that_is_missing_fails_and_says_to_migrate(
    bare_cli: Cli, empty_database_url: str, settings_env: dict[str, str]
) -> None:
    checked = await bare_cli("check", env=settings_env | {"EVENTSYNC_DATABASE_URL": empty_database_url})
    assert checked.exit_code == 1
    assert "run `eventsync migrate`" in checked.stdout


async def test_partitions_that_end_soon_fail(cli: Cli, database: asyncpg.Connection) -> None:
    for parent in ("events", "event_history"):
        children = await database.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::text::regclass", parent
        )
        for child in children:
            await database.execute(f"DROP TABLE {child['name']}")  # a name from the catalogue
    checked = await cli("check", "--json")
    assert checked.exit_code == 1
    assert states(checked.json)["partitions"] == "failed"


async def test_a_broker_that_is_away_fails(cli: Cli) -> None:
    checked = await cli("check", "--json", env={"EVENTSYNC_AMQP_URL": "amqp://guest:hidden@127.0.0.1:1/"})
    assert checked.exit_code == 1
    assert states(checked.json)["broker"] == "failed"
    assert "hidden" not in checked.stdout + checked.stderr


@pytest.mark.rabbitmq
async def test_a_broker_that_answers_passes(cli: Cli, amqp_url: str) -> None:
    checked = await cli("check", "--json", env={"EVENTSYNC_AMQP_URL": amqp_url})
    assert states(checked.json)["broker"] == "ok"
