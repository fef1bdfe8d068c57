"""How commands print: tables for people, JSON for programs; nothing but plain text where no terminal listens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import click
import orjson
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]
"""One thing to print, by the names that its JSON has."""

_COPIED = frozenset({"id", "event id"})  # what a person copies into the next command stays in one piece

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def examples(*lines: str) -> str:
    """Write a command's examples for the end of its help; the mark keeps click from wrapping them."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def show_rows(rows: Sequence[Row], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Print `rows` as a JSON array, or the named columns as a table; `empty` tells a person that there are none."""
    if as_json:
        show_json(list(rows))
    elif rows:
        show_table(columns, [[row[column] for column in columns] for row in rows])
    else:
        click.echo(empty, err=True)


def show_record(record: Row, *, as_json: bool) -> None:
    """Print one thing as a JSON object, or one line a member."""
    if as_json:
        show_json(record)
        return
    width = max(map(len, record))
    for name, value in record.items():
        click.echo(f"{name.replace('_', ' '):<{width}}  {cell(value)}")


def show_json(value: object) -> None:
    """Print `value` as indented JSON."""
    click.echo(orjson.dumps(value, default=_json_value, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode())


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: within the width of the terminal or, where a program reads it, one line a row, never wrapped."""
    titles, lines = [column.replace("_", " ") for column in columns], [[cell(value) for value in row] for row in rows]
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        _echo_table([titles, *lines])
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=title in _COPIED)
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)


def _echo_table(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def cell(value: object) -> str:
    """Write a value for a person; characters that could steer the terminal are shown as what they are not."""
    match value:
        case None | () | [] | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return when(value)
        case Mapping():
            return " ".join(f"{name}={cell(item)}" for name, item in value.items()) or "-"
        case list() | tuple():
            return ", ".join(map(cell, value))
        case _:
            return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def first_few(names: Sequence[str], at_most: int) -> str:
    """Name the first of many; JSON gives all."""
    more = len(names) - at_most
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:at_most])} and {more} more"


def when(moment: datetime) -> str:
    """Write a time in UTC, to the millisecond."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def _json_value(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, date):
        return value.isoformat()
    return str(value)  # UUIDs of the driver's own subclass, decimals
