"""`eventsync ecosystem sync --dry-run` writes nothing, and like the command itself needs a connection or its key."""

from __future__ import annotations

import asyncpg
import pytest

from cli.colectiva_queue import API_KEY, SYNC, Colectiva, organization
from cli.runs import Cli
from eventsync.sandbox import RunningSandbox


async def test_a_dry_run_shows_what_would_be_sent_and_sends_and_writes_nothing(cli: Cli, colectiva: Colectiva) -> None:
    await colectiva.put(1, tax_id="XAXX010101000")
    await colectiva.put(2, "deactivate")
    before = await colectiva.everything()
    shown = await cli(*SYNC, "--dry-run")
    rows = (await cli(*SYNC, "--dry-run", "--json")).json
    assert shown.exit_code == 0, shown.stderr
    assert [line.split()[1] for line in shown.stdout.splitlines()] == ["action", "register", "deactivate"]
    assert rows[0]["body"] == {
        "name": "Test Practice 1",
        "rfc": "XAXX010101000",
        "type": "business",
        "app_org_id": organization(1),
        "owner_email": "practice1@example.test",
        "billing": {"plan": "free", "status": "active"},
    }
    assert [row["active"] for row in rows] == [True, False]
    assert await colectiva.everything() == before
    assert colectiva.posts == []


@pytest.mark.parametrize("words", [(), ("--dry-run",)], ids=["sync", "dry run"])
async def test_without_a_connection_and_a_key_it_says_how_to_get_one(cli: Cli, words: tuple[str, ...]) -> None:
    ended = await cli(*SYNC, *words)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "connections add colectiva" in ended.stderr
    assert "COLECTIVA_API_KEY" in ended.stderr


async def test_the_settings_make_a_connection_once_and_none_for_a_dry_run(
    cli: Cli, server: RunningSandbox, database: asyncpg.Connection
) -> None:
    colectiva = Colectiva(server, database)
    await colectiva.put(1)
    settings = {"COLECTIVA_URL": server.base_url, "COLECTIVA_API_KEY": API_KEY}
    shown = await cli(*SYNC, "--dry-run", "--json", env=settings)
    assert shown.exit_code == 0, shown.stderr
    assert [row["body"]["app_org_id"] for row in shown.json] == [organization(1)]
    assert (await cli("connections", "list", "--json")).json == []
    sent = await cli(*SYNC, env=settings)
    assert sent.exit_code == 0, sent.stderr
    (made,) = (await cli("connections", "list", "--json")).json
    assert made["vendor"] == "colectiva"
    await cli("connections", "disable", "1")
    for words in ((), ("--dry-run",)):
        assert (await cli(*SYNC, *words, env=settings)).exit_code == 2, words
