"""Drift in the management API: what sweeps found wrong, and why no webhook had told. The owner's and the admins'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from eventsync.crypto import Keyring
from eventsync.domain.clock import Clock
from eventsync.domain.drift import DriftCursor, DriftSummary, DriftVerdict, ReportedDrift
from eventsync.domain.records import RecordKind
from eventsync.postgres.drift import DriftFilter, DriftReport
from eventsync.web.api_calls import Call, Endpoint
from eventsync.web.api_paging import Cursors
from eventsync.web.api_parameters import PAGING, choice_parameter, text_parameter, time_parameter, uuid_parameter

_FILTERS = (
    uuid_parameter("connection_id", "Only this connection's."),
    uuid_parameter("run_id", "Only what this run of a sync found."),
    choice_parameter("kind", "Only records of this kind.", RecordKind),
    text_parameter("external_id", "Only records with this id of the vendor's.", "65f0c0ffee65f0c0ffee0001"),
    choice_parameter("verdict", "Only those of whose webhook this became.", DriftVerdict),
    time_parameter("since", "Found at or after."),
    time_parameter("until", "Found before."),
)


@dataclass(frozen=True, slots=True)
class DriftPage:
    """A page of findings, the latest first. `next_cursor` is null on the last page."""

    items: tuple[ReportedDrift, ...]
    next_cursor: str | None


class DriftApi:
    """The endpoints."""

    def __init__(self, report: DriftReport, keyring: Keyring, clock: Clock) -> None:
        self._report = report
        self._cursors = Cursors(keyring, "drift", _position)
        self._clock = clock

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Describe the endpoints."""
        return (
            Endpoint(
                "GET", "/api/v1/drift", self.findings, DriftPage, "List what sweeps found wrong", (*_FILTERS, *PAGING)
            ),
            Endpoint(
                "GET", "/api/v1/drift/summary", self.summary, DriftSummary, "Count what sweeps found wrong", _FILTERS
            ),
        )

    async def findings(self, call: Call) -> DriftPage:
        """List a page of what was found wrong with the organization's own records, by the names of fields only.

        A verdict is made at the moment one asks, since a webhook may still come.
        """
        after = self._cursors.after(call)
        found = await self._report.findings(_filter(call), self._clock(), after=after, limit=call["limit"] + 1)
        return DriftPage(*self._cursors.page(call, found))

    async def summary(self, call: Call) -> DriftSummary:
        """Count the same findings by expected event and verdict."""
        return await self._report.summary(_filter(call), self._clock())


def _filter(call: Call) -> DriftFilter:
    wanted = {each.name: call[each.name] for each in _FILTERS}
    return DriftFilter(organization_id=call.caller.organization_id, **wanted)


def _position(texts: Sequence[str]) -> DriftCursor:
    found_at, finding_id = texts
    return DriftCursor(datetime.fromisoformat(found_at), int(finding_id))
