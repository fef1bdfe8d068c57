"""How often a process that runs for weeks looks for garbage in cycles: seldom, and never among what it started with."""

from __future__ import annotations

import gc

_ALLOCATIONS, _YOUNG_ROUNDS, _MIDDLE_ROUNDS = 10_000, 20, 50


def collect_seldom() -> None:
    """Leave modules and classes out of the search for good, and search the rest after 10,000 new objects.

    A batch of events makes some ten thousand short-lived objects, which reference counting frees; Python's own
    threshold of 700 would walk through them again and again, for a tenth of a consumer's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, _YOUNG_ROUNDS, _MIDDLE_ROUNDS)
