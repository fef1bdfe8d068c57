"""`eventsync ecosystem sync`: the outbound queue by hand, against a pretend Colectiva."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cli.colectiva_queue import SYNC, Colectiva, connect, organization
from cli.runs import Cli
from eventsync.sandbox import ApiAnswer, RunningSandbox

ORGANIZATION = r"plenura_[0-9a-f]{32}"


def read_to_end(terminal: int) -> str:
    """Read what is shown on a terminal until nobody holds its other end."""
    shown = b""
    try:
        while chunk := os.read(terminal, 65_536):
            shown += chunk
    except OSError:  # how Linux tells that the other end is closed
        pass
    finally:
        os.close(terminal)
    return shown.decode()


async def test_what_is_due_is_shown_then_sent_and_told(cli: Cli, colectiva: Colectiva) -> None:
    for number in (1, 2):
        await colectiva.put(number, subscription_tier="pro")
    ended = await cli(*SYNC)
    assert ended.exit_code == 0, ended.stderr
    title, first, second, sent, also_sent, summary = ended.stdout.splitlines()
    assert title.split()[:5] == ["organization", "action", "name", "plan", "active"]
    assert first.split() == [organization(1), "register", "Test", "Practice", "1", "pro", "yes", "0", "0", "now"]
    assert second.startswith(organization(2))
    assert (
        sent == f"{organization(1)}  register    sent, there it is {colectiva.vendor.books.remote_id(organization(1))}"
    )
    assert also_sent.startswith(organization(2))
    assert summary == "2 accepted"
    assert colectiva.vendor.organizations.keys() == {organization(1), organization(2)}
    assert await colectiva.rows() == [("register", "success", 1)] * 2


async def test_json_tells_all_in_one_document(cli: Cli, colectiva: Colectiva) -> None:
    item_id = await colectiva.put(1)
    told = (await cli(*SYNC, "--json")).json
    (would_send,), (result,) = told["would_send"], told["results"]
    assert would_send["id"] == result["id"] == str(item_id)
    assert (result["result"], result["http_status"], result["attempt"]) == ("accepted", 201, 1)
    assert result["remote_org_id"] == colectiva.vendor.books.remote_id(organization(1))
    assert told["summary"]["accepted"] == 1
    assert (told["summary"]["waiting"], told["summary"]["stopped_because"]) == (0, None)


async def test_nothing_due_is_said_and_is_no_failure(cli: Cli, colectiva: Colectiva) -> None:
    ended = await cli(*SYNC)
    assert (ended.exit_code, ended.stdout) == (0, "nothing was due\n")
    assert "nothing waits" in ended.stderr
    assert colectiva.posts == []


async def test_no_more_than_the_limit_is_sent_and_ten_unless_told(cli: Cli, colectiva: Colectiva) -> None:
    for number in range(1, 14):
        await colectiva.put(number)
    first = await cli(*SYNC, "--limit", "2")
    assert first.stdout.splitlines()[-1] == "2 accepted; still waiting: 11"
    await cli(*SYNC)
    assert [post.app_org_id for post in colectiva.posts] == [organization(number) for number in range(1, 13)]


async def test_all_goes_on_until_nothing_is_due_with_a_bar_and_its_rate_on_a_terminal(
    cli: Cli, colectiva: Colectiva
) -> None:
    for number in range(1, 26):
        await colectiva.put(number)
    ended = await cli(*SYNC, "--all", env={"FORCE_COLOR": "1", "TERM": "xterm"})
    assert ended.exit_code == 0, ended.stderr
    assert len(colectiva.vendor.organizations) == 25
    assert "of 25 items" in ended.stderr
    assert "/s" in ended.stderr
    assert "… and 5 more" in ended.stdout
    assert "items" not in (await cli(*SYNC, "--all")).stderr.replace("nothing waits to be sent", "")


async def test_on_a_terminal_the_bar_makes_room_for_each_result(
    colectiva: Colectiva, settings_env: dict[str, str]
) -> None:
    for number in range(1, 6):
        await colectiva.put(number)
    terminal, end = pty.openpty()
    env = settings_env | {"TERM": "xterm", "COLUMNS": "150"}
    sending = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "eventsync", *SYNC, "--all", env=env, stdout=end, stderr=end
    )
    os.close(end)
    async with asyncio.timeout(60):
        shown = await asyncio.to_thread(read_to_end, terminal)
        await sending.wait()
    lines = [line for line in re.split(r"[\r\n]+", shown) if "sent, there it is" in line]
    assert len(lines) == 5
    assert all(re.match(rf"(\x1b\[\d*[A-Za-z])*{ORGANIZATION}", line) for line in lines), lines
    assert "of 5 items" in shown


async def test_updates_that_wait_are_sent_as_the_last_of_them(cli: Cli, colectiva: Colectiva) -> None:
    for plan in ("free", "pro", "max"):
        await colectiva.put(1, "update", subscription_tier=plan)
    ended = await cli(*SYNC)
    assert "(2 before it superseded)" in ended.stdout
    assert len(colectiva.posts) == 1
    assert colectiva.vendor.organizations[organization(1)].registration.plan == "max"


async def test_a_refusal_is_told_in_colectivas_words_which_cannot_steer_the_terminal(
    cli: Cli, colectiva: Colectiva
) -> None:
    await colectiva.put(1, email=None)
    item_id = await colectiva.put(2, organization_name="Test\x1b[31mPractice", email=None)
    ended = await cli(*SYNC)
    assert ended.exit_code == 1
    lines = [line for line in ended.stdout.splitlines() if "refused it" in line]
    assert len(lines) == 2
    assert "owner_email" in lines[0]
    assert lines[1].endswith(f"(item {item_id} has failed)")
    assert "\x1b" not in ended.stdout
    assert ended.stdout.splitlines()[-1] == "2 refused; failed in all, for a person to look at: 2"


async def test_a_failure_is_tried_again_later_and_until_then_told_but_not_sent(cli: Cli, colectiva: Colectiva) -> None:
    await colectiva.put(1)
    colectiva.answer(ApiAnswer.STATUS, status=500)
    ended = await cli(*SYNC)
    assert ended.exit_code == 1
    assert "(tried again in " in ended.stdout
    assert "still waiting: 1, the next attempt is in " in ended.stdout.splitlines()[-1]
    again = await cli(*SYNC, "--all")
    assert again.exit_code == 0, again.stderr
    waiting = again.stdout.splitlines()[1].split()
    assert waiting[7] == "1"  # attempts so far
    assert waiting[9] == "in"
    assert len(colectiva.posts) == 1


async def test_the_last_of_three_attempts_is_told_as_such(cli: Cli, colectiva: Colectiva) -> None:
    item_id = await colectiva.put(1)
    await colectiva.database.execute("UPDATE ecosystem_sync_queue SET attempts = 2")
    colectiva.answer(ApiAnswer.STATUS, status=500)
    ended = await cli(*SYNC)
    assert ended.exit_code == 1
    assert f"(it was the last attempt: item {item_id} has failed)" in ended.stdout
    assert await colectiva.rows() == [("register", "failed", 3)]


async def test_an_item_that_a_person_puts_back_meanwhile_is_told_as_such_and_sent_again(
    cli: Cli, colectiva: Colectiva, settings_env: dict[str, str]
) -> None:
    item_id = await colectiva.put(1)
    held = colectiva.hold_next()
    async with process(settings_env, "--limit", "1") as sending:
        await held.reached.wait()
        await colectiva.database.execute(
            "UPDATE ecosystem_sync_queue SET status = 'pending', attempts = 0, error_message = NULL WHERE id = $1",
            item_id,
        )
        held.goes_on.set()
        said, _ = await sending.communicate()
    assert "put back by somebody meanwhile" in said.decode()
    assert await colectiva.rows() == [("register", "pending", 0)]
    assert (await cli(*SYNC)).exit_code == 0
    assert await colectiva.rows() == [("register", "success", 1)]


async def test_an_item_behind_another_waits_for_it(cli: Cli, colectiva: Colectiva) -> None:
    await colectiva.put(1)
    await colectiva.put(1, "update")
    colectiva.answer(ApiAnswer.STATUS, status=500)
    told = (await cli(*SYNC, "--json")).json
    assert [row["behind"] for row in told["would_send"]] == [1]
    assert [row["result"] for row in told["results"]] == ["failed"]
    assert told["summary"]["waiting"] == 2


async def test_a_refused_account_pauses_the_queue_and_says_what_to_do(cli: Cli, colectiva: Colectiva) -> None:
    for number in (1, 2):
        await colectiva.put(number)
    colectiva.running.sandbox.set_api_key("another-key")
    ended = await cli(*SYNC, "--all")
    assert ended.exit_code == 1
    assert "connections update 1 --api-key -" in ended.stderr
    assert len(colectiva.posts) == 1
    still = await cli(*SYNC)
    assert still.exit_code == 1
    assert "The queue is paused" in still.stderr
    assert still.stdout.splitlines()[-1] == "nothing was sent; still waiting: 2"
    assert len(colectiva.posts) == 1
    await cli("connections", "update", "1", "--api-key", "another-key")
    mended = await cli(*SYNC)
    assert mended.exit_code == 0, mended.stderr
    assert await colectiva.rows() == [("register", "success", 1)] * 2


async def test_a_limited_run_stops_where_colectiva_asks_to_wait_and_one_of_all_waits(
    cli: Cli, colectiva: Colectiva
) -> None:
    for number in range(1, 4):
        await colectiva.put(number)
    colectiva.answer(ApiAnswer.STATUS, status=429, retry_after_s=1)
    limited = await cli(*SYNC)
    assert limited.exit_code == 1
    assert "nothing may be sent for 1 s" in limited.stderr
    assert len(colectiva.posts) == 1
    colectiva.answer(ApiAnswer.STATUS, status=429, retry_after_s=1)
    ended = await cli(*SYNC, "--all")
    assert ended.exit_code == 0, ended.stderr
    assert len(colectiva.vendor.organizations) == 3
    assert ended.stdout.splitlines()[-1].startswith("3 accepted, ")


async def test_a_wait_that_is_too_long_ends_it_and_says_so(cli: Cli, colectiva: Colectiva) -> None:
    for number in (1, 2):
        await colectiva.put(number)
    colectiva.answer(ApiAnswer.STATUS, status=429, retry_after_s=600)
    ended = await cli(*SYNC, "--all")
    assert ended.exit_code == 1
    assert "nothing may be sent for 10 min" in ended.stderr
    assert len(colectiva.posts) == 1


@pytest.mark.parametrize("words", [("--limit", "0"), ("--limit", "5", "--all"), ("--limit", "many")], ids=" ".join)
async def test_bad_usage_ends_with_2(bare_cli: Cli, words: tuple[str, ...]) -> None:
    ended = await bare_cli(*SYNC, *words)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[-1].startswith("Error: ")


@asynccontextmanager
async def process(env: dict[str, str], *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the command as a process of its own."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "eventsync", *SYNC, *words, env=env,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            yield started
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


async def test_ctrl_c_ends_it_after_the_attempt_under_way(colectiva: Colectiva, settings_env: dict[str, str]) -> None:
    for number in (1, 2):
        await colectiva.put(number)
    held = colectiva.hold_next()
    async with process(settings_env, "--all") as sending:
        assert sending.stderr is not None
        await held.reached.wait()
        sending.send_signal(signal.SIGINT)
        assert b"Waiting for the answer" in await sending.stderr.readline()
        held.goes_on.set()
        said, _ = await sending.communicate()
    assert sending.returncode == 1
    assert said.decode().splitlines()[-1] == "1 accepted; still waiting: 1"
    assert await colectiva.rows() == [("register", "success", 1), ("register", "pending", 0)]


async def test_it_shares_the_work_with_another_that_sends_and_nothing_goes_out_twice(
    cli: Cli, colectiva: Colectiva, settings_env: dict[str, str]
) -> None:
    for number in range(1, 11):
        await colectiva.put(number)
    held = colectiva.hold_next()
    async with process(settings_env, "--all", "--json") as other:
        await held.reached.wait()
        here = await cli(*SYNC, "--all", "--json")
        held.goes_on.set()
        said, _ = await other.communicate()
    assert (here.exit_code, other.returncode) == (0, 0)
    assert (here.json["summary"]["accepted"], json.loads(said)["summary"]["accepted"]) == (9, 1)
    assert len(colectiva.posts) == len(colectiva.vendor.organizations) == 10


async def test_a_registry_beside_the_only_practice_makes_nothing_ambiguous(
    cli: Cli, connection: dict[str, Any], server: RunningSandbox
) -> None:
    await connect(cli, server)
    words = ("providers", "map", "65f0c0ffee65f0c0ffee0002", "Pat Doe", "--json")
    named = await cli(*words)
    assert named.exit_code == 0, named.stderr
    assert named.json["connection_id"] == connection["id"]
    for wrong in (words, ("send-test-event",)):
        ended = await cli(*wrong, "--connection", "2")
        assert (ended.exit_code, ended.stdout) == (1, "")
        assert "connection 2 is to colectiva, of which no records are copied" in ended.stderr
