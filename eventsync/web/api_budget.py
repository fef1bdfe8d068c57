"""The vendors' call limits in the management API: what each connection of the organization spent, and what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from eventsync.crypto import fingerprint
from eventsync.domain.clock import Clock
from eventsync.domain.connections import Connection, ConnectionId
from eventsync.postgres.budget import BudgetReport, PostgresBudget
from eventsync.postgres.tenants import Connections
from eventsync.web.api_calls import Call, Endpoint

OpenBudget = Callable[[Connection], PostgresBudget]


@dataclass(frozen=True, slots=True)
class ConnectionBudget:
    """API calls by purpose in the last minute and day, which slide. `calls_per_day` of null means no daily limit.

    `api_key` is its fingerprint: connections with the same one share an allowance. `closed_until` is set while the
    vendor refuses calls, `refusals` counts its refusals in a row.
    """

    connection_id: ConnectionId
    connection: int
    vendor: str
    api_key: str
    calls_per_minute: int
    calls_per_day: int | None
    spent_last_minute: dict[str, int]
    left_this_minute: int
    spent_last_day: dict[str, int]
    left_today: int | None
    closed_until: datetime | None
    refusals: int


@dataclass(frozen=True, slots=True)
class Budgets:
    """The budget of every connection that is not disabled."""

    items: tuple[ConnectionBudget, ...]


class BudgetApi:
    """The endpoint."""

    def __init__(self, connections: Connections, open_budget: OpenBudget, clock: Clock) -> None:
        self._connections = connections
        self._open_budget = open_budget
        self._clock = clock

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Describe the endpoint."""
        return (Endpoint("GET", "/api/v1/budget", self.report, Budgets, "Show API calls spent and left"),)

    async def report(self, call: Call) -> Budgets:
        """Report on the connections that the organization owns."""
        budgets = []
        for summary in await self._connections.summaries(call.caller.organization_id):
            connection = None if summary.disabled_at else await self._connections.load_connection(summary.id)
            if connection is not None:
                budgets.append(_row(connection, await self._open_budget(connection).report(self._clock())))
        return Budgets(tuple(budgets))


def _row(connection: Connection, report: BudgetReport) -> ConnectionBudget:
    return ConnectionBudget(
        connection_id=connection.id,
        connection=connection.number,
        vendor=connection.vendor,
        api_key=fingerprint(connection.api_key),
        calls_per_minute=connection.calls_per_minute,
        calls_per_day=connection.calls_per_day,
        spent_last_minute=dict(report.spent_last_minute),
        left_this_minute=report.left_this_minute,
        spent_last_day=dict(report.spent_last_day),
        left_today=report.left_today,
        closed_until=report.closed_until,
        refusals=report.refusals,
    )
