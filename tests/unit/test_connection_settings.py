"""What a person may set of a connection's syncs: each value checked, with what to give instead."""

from __future__ import annotations

import pytest

from eventsync.domain.errors import Misconfigured
from eventsync.postgres.connection_settings import settings_checked


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("daily_schedule", "30 2 * * MON-FRI"),
        ("daily_schedule", "off"),
        ("sweeps", "on"),
        ("sweeps", "off"),
        ("days_back", "1"),
        ("days_ahead", "730"),
    ],
)
def test_a_setting_of_the_syncs_is_kept_as_it_was_given(name: str, value: str) -> None:
    assert settings_checked({name: value}) == {name: value}


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("daily_schedule", "3:00", r'daily_schedule: .* "0 3 \* \* \*" .* or "off"'),
        ("daily_schedule", "* 3 * * *", "daily_schedule: .* once an hour"),
        ("daily_schedule", "", "daily_schedule"),
        ("sweeps", "yes", "sweeps is neither on nor off"),
        ("days_back", "0", "days_back is not a whole number from 1 to 730"),
        ("days_ahead", "731", "days_ahead is not a whole number from 1 to 730"),
        ("days_ahead", "ninety", "days_ahead"),
        ("daily", "off", "there are .*daily_schedule.*sweeps"),
    ],
)
def test_a_wrong_setting_of_the_syncs_is_refused_with_what_to_give(name: str, value: str, advice: str) -> None:
    with pytest.raises(Misconfigured, match=advice):
        settings_checked({name: value})
