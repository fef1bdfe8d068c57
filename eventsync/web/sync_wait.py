"""Waits for the runs that a call asked for, as long as an answer may take: what they came to, or where to ask on."""

from __future__ import annotations

from collections.abc import Sequence

from eventsync.domain.runs import Run, RunStatus
from eventsync.stages.asking import EndWatch
from eventsync.web.api_calls import Answer
from eventsync.web.api_errors import ApiError
from eventsync.web.sync_answers import is_success, status_of, under_way

ANSWER_WITHIN_S = 25.0
"""Below the 30 s after which the API's frame, and most callers' proxies, give up."""

ASKING_ERRORS = {
    404: "There is nothing to sync: no such connection, patient or organization.",
    409: "Someone cancelled the sync.",
    500: "The sync failed (`sync_failed`; `syncLogId` names it), or a fault of eventsync's own.",
}
"""What an endpoint that asks for a sync may answer beside what every endpoint does."""


class SyncWait:
    """Waits for runs within the time of one answer."""

    def __init__(self, ends: EndWatch, answer_within_s: float = ANSWER_WITHIN_S) -> None:
        self._ends = ends
        self._answer_within_s = answer_within_s

    async def ended(self, runs: Sequence[Run]) -> list[Run] | Answer:
        """Answer the runs once they have ended, in part at least well; or the answer 202 while one goes on.

        Raises ApiError where there are none, and where all of them failed or were cancelled.
        """
        if not runs:
            raise ApiError(
                404,
                "no_connection",
                "there is no living IntakeQ connection to sync: see `eventsync connections list`,"
                " and add one with `eventsync connections add intakeq`",
            )
        seen = await self._ends.wait(runs, self._answer_within_s)
        if any(run.status.is_active for run in seen):
            return Answer(202, under_way(seen))
        status = status_of(seen)
        if not is_success(status):
            raise _failure(seen, status)
        return seen


def _failure(runs: Sequence[Run], status: RunStatus) -> ApiError:
    members = {"syncLogId": str(runs[0].id)}
    if status is RunStatus.CANCELLED:
        return ApiError(409, "sync_cancelled", "the sync was cancelled: ask for it again", members=members)
    reasons = dict.fromkeys(run.error_message for run in runs if run.error_message)
    text = " ".join(reason for reason in reasons if reason) or "the sync failed: the log of the worker says why"
    return ApiError(500, "sync_failed", text, members=members)
