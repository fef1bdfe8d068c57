"""The commands: `eventsync --help` is where a stranger begins."""

from __future__ import annotations

import click

from eventsync import __version__
from eventsync.cli.errors import EventsyncGroup
from eventsync.cli.output import examples


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
        "Run": {
            "up": "eventsync.cli.up:up_command",
            "run": "eventsync.cli.run:run_command",
            "sandbox": "eventsync.sandbox:sandbox_command",
        },
        "Set up": {
            "migrate": "eventsync.cli.database:migrate_command",
            "check": "eventsync.cli.check:check_command",
            "database-url": "eventsync.cli.database:database_url_command",
        },
        "Who and what is connected": {
            "orgs": "eventsync.cli.orgs:orgs_group",
            "tokens": "eventsync.cli.tokens:tokens_group",
            "connections": "eventsync.cli.connections:connections_group",
            "affiliations": "eventsync.cli.affiliations:affiliations_group",
            "providers": "eventsync.cli.providers:providers_group",
        },
        "Keep the copy true": {
            "backfill": "eventsync.cli.backfill:backfill_command",
            "sync": "eventsync.cli.sync:sync_group",
        },
        "Tell other systems": {
            "ecosystem": "eventsync.cli.ecosystem:ecosystem_group",
        },
        "Look and mend": {
            "events": "eventsync.cli.events:events_group",
            "explain": "eventsync.cli.explain:explain_command",
            "drift": "eventsync.cli.drift:drift_command",
            "budget": "eventsync.cli.budget:budget_command",
            "freshness": "eventsync.cli.freshness:freshness_command",
            "send-test-event": "eventsync.cli.send_test_event:send_test_event_command",
            "bench": "eventsync.cli.bench:bench_command",
        },
    }
)


def main() -> None:
    """Run the command line."""
    eventsync_command(prog_name="eventsync")
