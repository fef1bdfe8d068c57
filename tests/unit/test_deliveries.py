"""The words of the outbound path: how long an item waits for its next attempt, and what is never shown of it."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.deliveries import MAX_ATTEMPTS, Action, ItemId, OutboundItem, retry_wait


class Dice(Random):
    """Throws the same number always: 0.0 is the least, 1.0 the most."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def random(self) -> float:
        return self._share


def test_there_are_three_attempts() -> None:
    assert MAX_ATTEMPTS == 3


@pytest.mark.parametrize(("attempts", "least_s", "most_s"), [(1, 15.0, 45.0), (2, 60.0, 180.0)])
def test_the_wait_is_spread_around_its_length(attempts: int, least_s: float, most_s: float) -> None:
    assert retry_wait(attempts, Dice(0.0)).total_seconds() == least_s
    assert retry_wait(attempts, Dice(1.0)).total_seconds() == most_s
    waits_s = {retry_wait(attempts, Random(seed)).total_seconds() for seed in range(200)}
    assert len(waits_s) == 200
    assert least_s <= min(waits_s) < least_s * 1.2
    assert most_s * 0.9 < max(waits_s) <= most_s


@given(st.integers(1, MAX_ATTEMPTS), st.integers(), st.floats(0, 1e6) | st.none())
def test_the_wait_is_never_shorter_than_was_asked(attempts: int, seed: int, retry_after_s: float | None) -> None:
    wait_s = retry_wait(attempts, Random(seed), retry_after_s).total_seconds()
    assert wait_s >= (retry_after_s or 0.0) - 1e-6
    assert wait_s == pytest.approx(max(retry_after_s or 0.0, retry_wait(attempts, Random(seed)).total_seconds()))


@given(st.integers(), st.integers())
def test_each_wait_is_longer_than_the_one_before(seed: int, other_seed: int) -> None:
    seeds = (seed, other_seed, seed)
    waits = [retry_wait(attempts, Random(seeds[attempts - 1])) for attempts in range(1, MAX_ATTEMPTS + 1)]
    assert all(before < after for before, after in pairwise(waits))


def test_an_item_is_shown_without_its_payload() -> None:
    item = OutboundItem(
        ItemId(uuid4()), "practice", "plenura_1", Action.UPDATE, {"email": "client@example.test"}, uuid4()
    )
    assert "example.test" not in repr(item)
