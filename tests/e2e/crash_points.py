"""The places between two steps of the path where a process may be killed, and what is promised for each.

The README's table is made of this list (`as_markdown`), and every row of it is a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Postgres(StrEnum):
    """How PostgreSQL is while the process is killed."""

    THERE = "there"
    AWAY = "away"  # from before the kill until the process runs again
    BACK = "back"  # it was away while the webhooks came, and has returned before the kill
    HANGS = "hangs"  # it takes statements and does not answer, until the process runs again


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """One place. The process dies the `visit`-th time it gets there; `promise` is what holds all the same."""

    name: str
    killed: str
    promise: str
    visit: int = 2
    over_rabbitmq: bool = False
    is_outbound: bool = False
    postgres: Postgres = Postgres.THERE


CRASH_POINTS: Sequence[CrashPoint] = (
    CrashPoint(
        "ingress_before_the_commit",
        "ingress, before the commit",
        "the sender got no 200; nothing was promised",
    ),
    CrashPoint(
        "ingress_before_the_200",
        "ingress, after the commit, before the 200",
        "the event is applied all the same; sent again, it ends as *unchanged* or *stale*",
    ),
    CrashPoint(
        "ingress_commit_of_unknown_outcome",
        "ingress, with a commit of unknown outcome, in the spool as well",
        "the event's id was fixed before the first try, so that it is stored once",
        visit=1,
        postgres=Postgres.HANGS,
    ),
    CrashPoint(
        "spooled_before_the_200",
        "ingress, after the write to the spool, before the 200",
        "the event waits on the disk and is drained when PostgreSQL is back",
        postgres=Postgres.AWAY,
    ),
    CrashPoint(
        "spooled_before_the_drain",
        "ingress, with events in the spool that are not drained",
        "the next start drains them",
        visit=1,
        postgres=Postgres.BACK,
    ),
    CrashPoint(
        "drained_before_forgotten",
        "ingress, after the drain's commit, before the spool forgets",
        "drained again; an event that is stored already is left alone",
        visit=1,
        postgres=Postgres.BACK,
    ),
    CrashPoint(
        "claimed_before_the_publish",
        "relay, after the claim, before the publish",
        "the claim is gone with its transaction, and the next relay takes the events",
        over_rabbitmq=True,
    ),
    CrashPoint(
        "published_before_the_confirm",
        "relay, after the publish, before its confirm",
        "published again; the second message finds its event ended",
        over_rabbitmq=True,
    ),
    CrashPoint(
        "confirmed_before_the_mark",
        "relay, after the confirm, before the mark",
        "published again; the second message finds its event ended",
        over_rabbitmq=True,
    ),
    CrashPoint(
        "news_confirmed_before_the_commit",
        "relay, after the news for others was confirmed, before it left the outbox",
        "other teams get these ids a second time, with the same version",
        visit=1,
        over_rabbitmq=True,
    ),
    CrashPoint(
        "marked_on_the_in_process_bus",
        "relay, after the mark, the messages only in memory",
        "published again at the start, since that bus keeps nothing",
    ),
    CrashPoint(
        "attempts_counted",
        "consumer, after the attempts were counted, before the write",
        "its events run one by one next time, so that a killer parks alone",
    ),
    CrashPoint(
        "in_the_middle_of_a_batch",
        "consumer, in the middle of a batch's transaction",
        "the batch rolls back, and its events run one by one next time",
        over_rabbitmq=True,
    ),
    CrashPoint(
        "committed_before_the_ack",
        "consumer, after the commit, before the ack",
        "delivered again; the message finds its event ended",
        over_rabbitmq=True,
    ),
    CrashPoint(
        "leased_before_the_read",
        "worker, after the lease, before the read",
        "the lease runs out and the record is read then",
    ),
    CrashPoint(
        "read_before_the_write",
        "worker, after the vendor's answer, before the write",
        "the lease runs out and the record is read again, for one more call of the budget",
    ),
    CrashPoint(
        "item_claimed_before_the_commit",
        "worker, after claiming a registration, before the commit",
        "the claim is gone with its transaction; nothing was sent, and no attempt counts",
        is_outbound=True,
    ),
    CrashPoint(
        "item_claimed_before_the_post",
        "worker, after the claim, before the POST",
        "the lease runs out and the registration is sent then, as the second of three attempts",
        is_outbound=True,
    ),
    CrashPoint(
        "item_answered_before_its_end",
        "worker, after Colectiva's answer, before its end is written",
        "the lease runs out and it is sent again with the same idempotency key: the one POST that a kill can repeat",
        is_outbound=True,
    ),
    CrashPoint(
        "item_ended",
        "worker, after the registration's end was written",
        "nothing is sent again",
        is_outbound=True,
    ),
)


def as_markdown(points: Sequence[CrashPoint] = CRASH_POINTS) -> str:
    """Render the README's table, without the marker comments around it."""
    rows = [f"| {point.killed} | {point.promise} |" for point in points]
    return "\n".join(["| killed (`SIGKILL`) | what happens |", "| --- | --- |", *rows])
