"""What a stranger sees: every command explains itself, and bad usage or settings end with 2 and a clear line."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from cli.runs import Cli
from eventsync import __version__
from eventsync.cli import eventsync_command


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Walk all commands and groups below `group`, by their words."""
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


EVERY_COMMAND = sorted(commands(eventsync_command))


@pytest.mark.parametrize("words", EVERY_COMMAND, ids=" ".join)
async def test_every_commands_help_explains_it_with_an_example(bare_cli: Cli, words: tuple[str, ...]) -> None:
    shown = await bare_cli(*words, "--help")
    assert shown.exit_code == 0
    assert "Usage: eventsync " + " ".join(words) in shown.stdout.replace("Usage: eventsync-command", "Usage: eventsync")
    assert "Examples:" in shown.stdout
    assert "eventsync " + " ".join(words) in shown.stdout.partition("Examples:")[2]


async def test_the_first_help_names_every_command_and_how_to_begin(bare_cli: Cli) -> None:
    shown = await bare_cli("--help")
    assert "eventsync up --sandbox" in shown.stdout
    for name in eventsync_command.commands:
        assert f"\n  {name} " in shown.stdout, f"{name} stands in no section of the help"


async def test_the_version_is_told(bare_cli: Cli) -> None:
    assert (await bare_cli("--version")).stdout == f"eventsync, version {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("orgs", "add"),
        ("orgs", "add", "  "),
        ("tokens", "add", "--role", "king"),
        ("tokens", "add", "--role", "viewer"),
        ("tokens", "add", "--role", "admin", "--org", "1"),
        ("tokens", "revoke", "not-a-uuid"),
        ("connections", "add", "intakeq", "--org", "1"),
        ("connections", "add", "intakeq", "--org", "1", "--api-key", " "),
        ("connections", "add", "intakeq", "--org", "1", "--api-key", "k", "--hmac-secret", "s"),
        ("connections", "add", "intakeq", "--org", "1", "--api-key", "k", "--set", "calls_per_day"),
        ("connections", "rotate-webhook-token", "1", "--overlap-hours", "-1"),
    ],
    ids=" ".join,
)
async def test_bad_usage_ends_with_2_and_one_line_that_says_why(bare_cli: Cli, words: tuple[str, ...]) -> None:
    ended = await bare_cli(*words)
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert ended.stderr.splitlines()[-1].startswith("Error: ")


async def test_all_problems_of_the_settings_are_told_at_once_without_their_values(bare_cli: Cli) -> None:
    env = {"EVENTSYNC_DATABASE_URL": "mysql://u:hidden@h/d", "EVENTSYNC_PORT": "99999", "EVENTSYNC_AMQP_URL": "hidden"}
    ended = await bare_cli("orgs", "list", env=env)
    assert ended.exit_code == 2
    for name in env:
        assert name in ended.stderr
    assert "hidden" not in ended.stderr


async def test_a_database_of_ones_own_needs_keys_of_ones_own(bare_cli: Cli) -> None:
    ended = await bare_cli("orgs", "list", env={"EVENTSYNC_DATABASE_URL": "postgresql://h/d"})
    assert ended.exit_code == 2
    assert "EVENTSYNC_ENCRYPTION_KEYS is not set" in ended.stderr


async def test_a_database_that_is_away_ends_with_1_and_one_line(cli: Cli) -> None:
    ended = await cli("orgs", "list", env={"EVENTSYNC_DATABASE_URL": "postgresql://app:hidden@127.0.0.1:1/d"})
    assert ended.exit_code == 1
    assert ended.stderr.startswith("Error: PostgreSQL is away")
    assert len(ended.stderr.splitlines()) == 1
