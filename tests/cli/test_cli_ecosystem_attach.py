"""`eventsync ecosystem attach`: what was installed and what is left to do, as text for people and JSON for programs."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from click.testing import CliRunner

from cli.runs import Cli, Ended
from eventsync.cli.ecosystem_attach import attach_command
from eventsync.cli.errors import EventsyncGroup
from postgres.plenura_tables import RIVAL_TRIGGERS, TABLES, items, triggers


@pytest.fixture
def attach(cli: Cli, settings_env: dict[str, str]) -> Cli:
    """Runs the command with the given words on the test's database."""

    async def run(*words: str) -> Ended:
        group = EventsyncGroup("eventsync", commands={"attach": attach_command})
        result = await asyncio.to_thread(CliRunner().invoke, group, ["attach", *words], env=settings_env)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ended(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
async def app(database: asyncpg.Connection) -> asyncpg.Connection:
    """A connection to a database that has an application's tables, with two practices in them."""
    await database.execute(TABLES)
    await database.execute("INSERT INTO app.practices (name) VALUES ('Test Clinic 1'), ('Test Clinic 2')")
    return database


async def test_tables_are_attached_and_what_is_left_to_queue_is_told_with_its_sql(
    attach: Cli, app: asyncpg.Connection
) -> None:
    words = ("--practices", "app.practices", "--therapists", "app.therapists", "--users", "app.users")
    ended = await attach(*words)
    assert ended.exit_code == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[:3] == [
        "app.practices: fills the queue now",
        "  organizations in it: 2; never queued: 2",
        "  to queue them, run this SQL:",
    ]
    assert lines[4:] == [
        "app.therapists (names from app.users): fills the queue now",
        "  organizations in it: 0; never queued: 0",
    ]
    await app.execute(lines[3])
    assert sorted(item.payload["organization_name"] for item in await items(app)) == ["Test Clinic 1", "Test Clinic 2"]
    assert (await attach(*words)).stdout.splitlines() == [
        "app.practices: fills the queue already, nothing was changed",
        "  organizations in it: 2; never queued: 0",
        "app.therapists (names from app.users): fills the queue already, nothing was changed",
        "  organizations in it: 0; never queued: 0",
    ]


async def test_json_tells_the_same(attach: Cli, app: asyncpg.Connection) -> None:
    await app.execute(RIVAL_TRIGGERS)
    (entry,) = (await attach("--practices", "app.practices", "--replace", "--json")).json
    sql = entry.pop("queue_them")
    assert entry == {
        "entity_type": "practice",
        "table": "app.practices",
        "users": None,
        "is_new": True,
        "dropped": ["Queue practice"],
        "organizations": 2,
        "never_queued": 2,
    }
    await app.execute(sql)
    assert len(await items(app)) == 2


async def test_without_options_the_tables_of_the_search_path_are_taken(attach: Cli, app: asyncpg.Connection) -> None:
    assert [entry["table"] for entry in (await attach("--json")).json] == ["public.practices", "public.therapists"]
    await app.execute("DROP TABLE practices")
    assert [entry["table"] for entry in (await attach("--json")).json] == ["public.therapists"]
    await app.execute("DROP TABLE therapists")
    ended = await attach()
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "name a table with --practices TABLE" in ended.stderr


async def test_triggers_of_others_are_named_and_dropped_only_when_that_is_asked(
    attach: Cli, app: asyncpg.Connection
) -> None:
    await app.execute(RIVAL_TRIGGERS)
    refused = await attach("--practices", "app.practices")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "app.practices: Queue practice" in refused.stderr
    assert "--replace" in refused.stderr
    assert len(await triggers(app)) == 2
    replaced = await attach("--practices", "app.practices", "--replace")
    assert replaced.stdout.splitlines()[1] == "  dropped: Queue practice"


async def test_detaching_takes_eventsyncs_triggers_off_and_says_so(attach: Cli, app: asyncpg.Connection) -> None:
    await attach("--practices", "app.practices")
    ended = await attach("--practices", "app.practices", "--detach")
    assert (ended.exit_code, ended.stdout) == (0, "app.practices: fills the queue no more\n")
    assert await triggers(app) == []
    again = await attach("--practices", "app.practices", "--detach", "--json")
    assert again.json == [{"table": "app.practices", "was_attached": False}]


async def test_what_is_wrong_with_a_table_ends_with_1_and_one_line(attach: Cli, app: asyncpg.Connection) -> None:
    ended = await attach("--therapists", "app.therapists")
    assert (ended.exit_code, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("Error: app.therapists has no columns full_name (or name) and email")


@pytest.mark.parametrize(
    "words",
    [["--users", "app.users"], ["--practices", "app.practices", "--users", "app.users"], ["--detach", "--replace"]],
    ids=" ".join,
)
async def test_options_that_do_not_go_together_are_bad_usage(attach: Cli, words: list[str]) -> None:
    ended = await attach(*words)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[-1].startswith("Error: ")
