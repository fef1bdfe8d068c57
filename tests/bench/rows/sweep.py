"""The sweep's comparison: an API's pages met with a hundred thousand rows, of which one in a hundred has changed."""

from __future__ import annotations

from bench.contest import CPU_SECONDS, EVENTS_PER_S, LOST, MEMORY_MB, Contender, Contest, Measure, at_least

CHANGED_EVERY = 100
WRITTEN = Measure("rows_written", "rows written")
WRITTEN_IN_VAIN = Measure("doubled", "in vain")  # rows written that had not changed; no row of ours may be
WAL_MB = Measure("wal_mb", "WAL MB", 1)


def _sweep(name: str, sweep: str) -> Contender:
    return Contender(name, "bench.contenders.sweep", arguments=("--sweep", sweep))


CONTEST = Contest(
    name="sweep",
    about="pages of appointments met with the rows that stand, 1% changed, ten pages a commit; mapped beforehand",
    ours=("eventsync",),
    contenders=(
        _sweep("eventsync", "eventsync"),
        _sweep("upserting every row", "upsert"),
        _sweep("eventsync, merging every row", "merge"),
    ),
    targets=(at_least(4, EVENTS_PER_S, "eventsync", against="upserting every row"),),
    events=100_000,
    measures=(EVENTS_PER_S, WRITTEN, WAL_MB, CPU_SECONDS, MEMORY_MB, LOST, WRITTEN_IN_VAIN),
)
