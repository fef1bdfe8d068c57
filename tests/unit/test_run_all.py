"""`make test` leaves no test out, shows each part's output in one piece, and fails where one part fails."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from run_all import Part, Runner, part_alone, parts_at_once
from servers.eventually import eventually

_ROOT = Path(__file__).parents[2]


def python(name: str, code: str) -> Part:
    return Part(name, (sys.executable, "-c", code))


def runs(part: Part, file: str) -> bool:
    """Tell whether the part's pytest is given this file."""
    ignored = tuple(argument.removeprefix("--ignore=") for argument in part.command if argument.startswith("--ignore="))
    named = tuple(argument for argument in part.command if argument.startswith("tests"))
    return file.startswith(named) and not file.startswith(ignored)


def test_every_test_is_in_one_part_and_those_that_speak_sql_in_a_second() -> None:
    files = [str(path.relative_to(_ROOT)) for path in sorted((_ROOT / "tests").rglob("test_*.py"))]
    parts = [*parts_at_once(""), part_alone()]
    assert {file: sum(runs(part, file) for part in parts) for file in files} == dict.fromkeys(files, 1)
    (once_more,) = (part for part in parts_at_once("/old/bin") if part.settings)
    assert once_more.settings == {"EVENTSYNC_TEST_POSTGRES_BIN": "/old/bin"}
    assert {file.split("/")[1] for file in files if runs(once_more, file)} == {"postgres", "stages"}


async def test_a_part_that_fails_stops_no_other_and_fails_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    runner = Runner()
    lines = "import sys\nfor number in range(3): print('line', number, flush=True)\nsys.exit({})"
    await runner.run([python(f"part {code}", lines.format(code)) for code in (0, 3, 0)], at_once=2)
    assert sorted(part.exit_code for part in runner.ended) == [0, 0, 3]
    assert {part.last_line for part in runner.ended} == {"line 2"}
    assert runner.exit_code == 1
    assert capsys.readouterr().out.count("line 0\nline 1\nline 2\n") == 3


async def test_where_every_part_passes_the_whole_does() -> None:
    runner = Runner()
    await runner.run([python("part", "")], at_once=2)
    assert runner.exit_code == 0


async def test_an_interruption_lets_what_runs_clean_up_and_begins_nothing_more(tmp_path: Path) -> None:
    waits = (
        "import pathlib, signal\n"
        "begun = pathlib.Path({!r})\n"
        "try:\n"
        "    begun.touch()\n"
        "    signal.pause()\n"
        "finally:\n"
        "    begun.rename(begun.with_suffix('.cleaned'))\n"
    )
    begun = [tmp_path / "one", tmp_path / "two"]
    parts = [python(place.name, waits.format(str(place))) for place in begun]
    runner = Runner()
    running = asyncio.create_task(runner.run([*parts, python("never", "")], at_once=2))
    await eventually(lambda: all(place.exists() for place in begun))
    runner.interrupt()
    async with asyncio.timeout(10):
        await running
    assert sorted(part.name for part in runner.ended) == ["one", "two"]
    assert all(place.with_suffix(".cleaned").exists() for place in begun)
    assert runner.exit_code == 130
