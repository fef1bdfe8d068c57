"""Turns what went wrong into one clear line and an exit code: 1 failed, 2 bad usage or configuration."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
import structlog

from eventsync.cli.lazy import LazyCommands
from eventsync.domain.errors import EventsyncError, Misconfigured


class EventsyncGroup(click.Group):
    """The root of all commands: an error that eventsync raises on purpose never shows a traceback."""

    sections: Mapping[str, Sequence[str]] = {}
    """The commands' names by what a person wants to do, in the order of the help."""

    def add_sections(self, sections: Mapping[str, Mapping[str, str]]) -> None:
        """Add commands under headings: by name, the `module:attribute` of each, imported when it is asked for."""
        self.sections = {heading: tuple(places) for heading, places in sections.items()}
        self.commands = LazyCommands({name: place for places in sections.values() for name, place in places.items()})

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002  # click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the commands section by section, each with its whole first sentence."""
        for heading, names in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(200)) for name in names])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises click.ClickException in place of EventsyncError, alone or in a group."""
        _log_errors_only()
        try:
            return super().invoke(ctx)
        except EventsyncError as error:
            raise _told(error) from None
        except ExceptionGroup as group:
            ours, others = group.split(EventsyncError)
            if ours is None or others is not None:
                raise
            raise _told(_first(ours)) from None


def _log_errors_only() -> None:
    """Commands say themselves what they do; those that run for long set up their own logging."""
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
    )


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


class _ConfigurationError(click.ClickException):
    exit_code = 2


def _told(error: Exception) -> click.ClickException:
    return (_ConfigurationError if isinstance(error, Misconfigured) else click.ClickException)(str(error))
