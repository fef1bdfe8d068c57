"""What reading a practice costs, for people: the rows of the README's table, for practices of three sizes. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from eventsync.domain.day_plan import plan_of_day
from eventsync.domain.reads import PracticeSize
from eventsync.domain.records import RecordKind
from eventsync.domain.slicing import DEFAULT_RULES, ReadingRules

_SIZES = ((200, 1_000), (2_000, 6_000), (10_000, 30_000))
_CALLS_PER_DAY = 500
_RUNS_CALLS_PER_MINUTE = 8  # of ten: what a run may fill of a minute
# Of a typical practice: each appointment is booked and, every other time, moved or edited; one client in a hundred
# changes on a day; one appointment in fifty is deleted.
_CHANGES_PER_APPOINTMENT, _CLIENTS_CHANGED_A_DAY, _APPOINTMENTS_DELETED = 1.5, 0.01, 0.02
_ANY_DAY = date(2026, 3, 2)


@dataclass(frozen=True, slots=True)
class CostRow:
    """Calls that a practice of so many clients and appointments in the window costs; see day_plan.CallPlan."""

    clients: int
    appointments: int
    full_run: int
    full_run_minutes: int
    sweep: int
    sweeps_per_day: int
    day: int
    fraction_of_day: float
    days_to_verify_everything: int | None


def cost_table(
    sizes: Sequence[tuple[int, int]] = _SIZES, *, calls_per_day: int = _CALLS_PER_DAY
) -> tuple[CostRow, ...]:
    """Tell what practices of `sizes` (clients, appointments in the window) cost, with 20 manual refreshes a day."""
    return tuple(_row(clients, appointments, calls_per_day) for clients, appointments in sizes)


def cost_markdown(rows: Sequence[CostRow]) -> str:
    """Write `rows` as a Markdown table."""
    titles = ("clients", "appointments in ±90 days", "full run", "sweep", "sweeps a day", "calls a day", "all verified")
    lines = [titles, ("---:",) * len(titles), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def typical_practice(
    clients: int, appointments: int, today: date = _ANY_DAY, rules: ReadingRules = DEFAULT_RULES
) -> PracticeSize:
    """Make up a practice whose appointments lie evenly in the window, and change as those of most practices do."""
    days = [today + timedelta(days=number) for number in range(-rules.days_back, rules.days_ahead + 1)]
    per_day = {
        day: appointments * (number + 1) // len(days) - appointments * number // len(days)
        for number, day in enumerate(days)
    }
    a_day = appointments / len(days)
    told_days = rules.deletions_told_for / timedelta(days=1)
    return PracticeSize(
        clients=clients,
        appointments_by_day=per_day,
        changes_per_day={
            RecordKind.APPOINTMENT: a_day * _CHANGES_PER_APPOINTMENT,
            RecordKind.PATIENT: clients * _CLIENTS_CHANGED_A_DAY,
        },
        deleted_lately={RecordKind.APPOINTMENT: round(a_day * told_days * _APPOINTMENTS_DELETED)},
    )


def _row(clients: int, appointments: int, calls_per_day: int) -> CostRow:
    plan = plan_of_day(typical_practice(clients, appointments), calls_per_day, _ANY_DAY)
    return CostRow(
        clients=clients,
        appointments=appointments,
        full_run=plan.full_run,
        full_run_minutes=math.ceil(plan.full_run / _RUNS_CALLS_PER_MINUTE),
        sweep=plan.sweep,
        sweeps_per_day=plan.sweeps_per_day,
        day=plan.total,
        fraction_of_day=plan.total / calls_per_day,
        days_to_verify_everything=plan.days_to_verify_everything,
    )


def _cells(row: CostRow) -> tuple[str, ...]:
    days = row.days_to_verify_everything
    return (
        f"{row.clients:,}",
        f"{row.appointments:,}",
        f"{row.full_run} calls, {row.full_run_minutes} min",
        f"{row.sweep} calls",
        f"{row.sweeps_per_day}",
        f"{row.day} ({row.fraction_of_day:.1%})",
        "never" if days is None else "every day" if days == 1 else f"every {days} days",
    )
