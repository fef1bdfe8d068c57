"""`eventsync bench` refuses at once what could only fail after minutes."""

from __future__ import annotations

import pytest

from cli.runs import Cli


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--events", "0"], "--events"),
        (["--events", "many"], "--events"),
        (["--connections", "0"], "--connections"),
        (["--rounds", "-1"], "--rounds"),
        (["--rate", "0"], "--rate"),
        (["--rate", "nan"], "--rate"),
        (["--rate", "inf"], "--rate"),
        (["--bus", "rabbitmq"], "--amqp-url"),
        (["--bus", "both"], "--amqp-url"),
        (["--bus", "memory", "--amqp-url", "amqp://localhost/bench"], "--amqp-url"),
        (["--amqp-url", "http://localhost/bench"], "amqp://"),
        (["--json", "missing/report.json"], "does not exist"),
        (["--chart", "missing/chart.svg"], "does not exist"),
        (["--temp-dir", "missing"], "--temp-dir"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_started(
    bare_cli: Cli, arguments: list[str], said: str
) -> None:
    ended = await bare_cli("bench", *arguments)
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert said in ended.stderr
