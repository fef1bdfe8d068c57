"""Appointments that a vendor's lists lack, and what the copy makes of them."""

from __future__ import annotations

from dataclasses import replace

import asyncpg

from eventsync.sandbox.intakeq.records import Appointment
from stages.sync_site import SyncSite

LONG_AGO = -11  # days: the vendor's list of deletions tells of ten
LOOKS = "GET /api/v1/appointments/{id}"


def ids(site: SyncSite, count: int) -> list[str]:
    """Name the first appointments to come."""
    rows = sorted(site.practice.appointments.values(), key=lambda a: a.start_ms)
    return [a.id for a in rows if a.start_ms > site.clock.sandbox.now_ms()][:count]


def delete_untold(site: SyncSite, count: int) -> set[str]:
    """Delete appointments so long ago that no list of the vendor's tells of it any more."""
    chosen = ids(site, count)
    site.sandbox.act_unheard("delete_many", ids=chosen, deleted_ms=site.ms(days=LONG_AGO))
    return set(chosen)


def hide(site: SyncSite, appointment_id: str) -> Appointment:
    """Let the vendor know an appointment no more, without a trace; answer it as it was."""
    shown = site.practice.appointments[appointment_id]
    site.practice.put_appointment(replace(shown, deleted_ms=site.ms(days=LONG_AGO)))
    return shown


async def deleted(database: asyncpg.Connection) -> set[str]:
    """Name the appointments that the copy holds as gone."""
    rows = await database.fetch("SELECT external_id FROM appointments WHERE deleted_at IS NOT NULL")
    return {row["external_id"] for row in rows}


async def waiting(database: asyncpg.Connection, kind: str = "appointment") -> set[str]:
    """Name the records that wait for a second look."""
    rows = await database.fetch("SELECT external_id FROM absence_candidates WHERE kind = $1", kind)
    return {row["external_id"] for row in rows}


def looks(site: SyncSite) -> int:
    """Count the single appointments that were asked for."""
    return site.sandbox.stats.api_calls[LOOKS]
