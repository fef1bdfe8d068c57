"""The commands: `eventsync --help` is where a stranger begins."""

from __future__ import annotations

import click

from eventsync import __version__
from eventsync.cli.affiliations import affiliations_group
from eventsync.cli.bench import bench_command
from eventsync.cli.budget import budget_command
from eventsync.cli.check import check_command
from eventsync.cli.connections import connections_group
from eventsync.cli.database import database_url_command, migrate_command
from eventsync.cli.errors import EventsyncGroup
from eventsync.cli.events import events_group
from eventsync.cli.explain import explain_command
from eventsync.cli.orgs import orgs_group
from eventsync.cli.output import examples
from eventsync.cli.providers import providers_group
from eventsync.cli.run import run_command
from eventsync.cli.send_test_event import send_test_event_command
from eventsync.cli.tokens import tokens_group
from eventsync.cli.up import up_command
from eventsync.sandbox import sandbox_command


@click.group(
    "eventsync",
    cls=EventsyncGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "eventsync up --sandbox                    # see it work, with a pretend practice",
        "eventsync orgs add 'Clinic North'         # then connect a real account:",
        "eventsync connections add intakeq --org 1",
        "eventsync check                           # is everything as it should be?",
        "eventsync events list --state parked      # what waits for a person, and why",
    ),
)
@click.version_option(__version__, prog_name="eventsync")
def eventsync_command() -> None:
    """Keep a PostgreSQL copy of what a practice's other systems know true within seconds.

    Vendors send webhooks; each is stored before it is answered, then applied to the tables that you query.

    Settings come from the environment and a .env file (EVENTSYNC_DATABASE_URL and others); without any, everything
    lives in the folder .eventsync with a PostgreSQL of its own.

    Commands end with 0 when done, 1 when something failed, 2 for bad usage or configuration.
    """


eventsync_command.add_sections(
    {
        "Run": [up_command, run_command, sandbox_command],
        "Set up": [migrate_command, check_command, database_url_command],
        "Who and what is connected": [orgs_group, tokens_group, connections_group, affiliations_group, providers_group],
        "Look and mend": [events_group, explain_command, budget_command, send_test_event_command, bench_command],
    }
)


def main() -> None:
    """Run the command line."""
    eventsync_command(prog_name="eventsync")
