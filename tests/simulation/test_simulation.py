"""Hundreds of seeds: whatever befalls webhooks and processes, nothing is lost, and a full read makes the copy equal."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

from simulation.stage import Stage

_SEEDS = range(1, 4_001) if os.environ.get("EVENTSYNC_PROVE") else range(1, 301)
_SEEDS_A_PART = 100


def seeds_to_play() -> Iterable[range]:
    """The seeds in parts, each of which is a test of its own; EVENTSYNC_SIMULATE names one seed or a range `1-900`."""
    first, _, last = os.environ.get("EVENTSYNC_SIMULATE", "").partition("-")
    seeds = range(int(first), int(last or first) + 1) if first else _SEEDS
    return [seeds[at : at + _SEEDS_A_PART] for at in range(0, len(seeds), _SEEDS_A_PART)]


@pytest.mark.timeout(600)  # ten times what it takes, since the machine may be busy with other things
@pytest.mark.parametrize("seeds", seeds_to_play(), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
async def test_nothing_is_lost_and_after_a_full_read_the_copy_equals_the_practice(stage: Stage, seeds: range) -> None:
    for seed in seeds:
        await stage.play(seed)


async def test_the_same_seed_gives_the_same_history_and_the_same_rows(stage: Stage) -> None:
    first = await stage.play(7)
    first_rows = await stage.rows()
    await stage.play(8)
    again = await stage.play(7)
    assert again.journal == first.journal
    assert await stage.rows() == first_rows
