"""Decides, at the end of a run, which of the records that its complete lists lacked are gone.

A list alone proves nothing: rows slip between pages, and appointments are moved while they are listed. So a record is
gone where two runs' complete lists lacked it and no list of changes shows that it was moved, or where one did and the
vendor knows no record of its id. And where a list lacks far more than practices delete, nothing is concluded at all
until a person says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from eventsync.domain.call_plan import OVERLAP
from eventsync.domain.changes import Absence, EntityRef
from eventsync.domain.errors import Rejected, Transient
from eventsync.domain.reads import Covers, PlannedRead
from eventsync.domain.records import RecordKind
from eventsync.domain.windows import Proved, joined
from eventsync.postgres.absences import MARGIN_S, Absences, Missing, Shortfall
from eventsync.postgres.coverage import ALWAYS_FROM, ALWAYS_TO, Coverage
from eventsync.postgres.database import DatabaseAway
from eventsync.postgres.record_rows import milliseconds
from eventsync.stages.reading import ListReader, RunReads

MOST_LOOKS = 20  # single reads a run; what is left waits for the next run's lists, which cost nothing more
_LEAST_BRAKED = 20
_MOST_MISSING_SHARE = 0.1
_MOST_BELIEVED_SHARE = 0.5


class SecondLook:
    """Settles what one run's lists lacked."""

    def __init__(
        self, absences: Absences, coverage: Coverage, reader: ListReader, run: RunReads, *, allow_mass_delete: bool
    ) -> None:
        self._absences = absences
        self._coverage = coverage
        self._reader = reader
        self._run = run
        self._allow_mass_delete = allow_mass_delete
        self._looks_left = MOST_LOOKS

    async def settle(self) -> list[str]:
        """Conclude what can be concluded, and answer warnings for people; a braked list is an error of the run.

        Raises what a single read raises.
        """
        warnings = []
        connection_id, listed = self._run.connection.id, self._run.tally.listed
        for kind, ids in listed.items():
            await self._absences.forget(connection_id, kind, ids)
        await self._absences.forget_refuted(connection_id)
        if not self._run.tally.rejected_without_id:
            for shortfall in await self._shortfalls():
                warnings += await self._settle(shortfall)
        return warnings

    async def _shortfalls(self) -> list[Shortfall]:
        run = self._run
        known = {kind: ids | run.tally.rejected for kind, ids in run.tally.listed.items()}
        appointments = known.get(RecordKind.APPOINTMENT, set())
        found = [
            await self._absences.missing_appointments(run.connection.id, window, appointments)
            for window in joined(run.windows)
        ]
        if RecordKind.PATIENT in run.walked:
            window = Proved(ALWAYS_FROM, ALWAYS_TO, run.walked[RecordKind.PATIENT])
            clients = known.get(RecordKind.PATIENT, set())
            found.append(await self._absences.missing_clients(run.connection.id, window, clients))
        return found

    async def _settle(self, shortfall: Shortfall) -> list[str]:
        if not shortfall.missing:
            return []
        most = max(_LEAST_BRAKED, int(shortfall.held * _MOST_MISSING_SHARE))
        if len(shortfall.missing) > most and not self._allow_mass_delete:
            self._run.tally.error(_braked(shortfall))
            return []
        twice = self._missed_twice(shortfall)
        await self._conclude(shortfall, await self._unmoved(shortfall, twice))
        once = [entry for entry in shortfall.missing if entry not in twice]
        ids = [entry.external_id for entry in once]
        await self._absences.remember(self._run.connection.id, shortfall.kind, ids, shortfall.window.began_at)
        waiting = await self._look(shortfall, once)
        return [_waiting(shortfall.kind, waiting)] if waiting else []

    def _missed_twice(self, shortfall: Shortfall) -> list[Missing]:
        """Choose those that an earlier run's list lacked as well, of which these two lists may decide.

        Where a list lacks half of the little that is held it is no witness: of each record the vendor itself is asked.
        """
        if len(shortfall.missing) > shortfall.held * _MOST_BELIEVED_SHARE and not self._allow_mass_delete:
            return []
        began_before = self._run.lease.run.started_at
        return [entry for entry in shortfall.missing if _was_missed_before(entry, began_before)]

    async def _unmoved(self, shortfall: Shortfall, missing: Sequence[Missing]) -> list[Missing]:
        """Leave out what was moved out of the window: the list of changes tells, as far as it is followed at all.

        Where it was not followed since they were first missed, it is read now.
        """
        kind, run = shortfall.kind, self._run
        missed_at = max((entry.first_missed_at for entry in missing if entry.first_missed_at is not None), default=None)
        followed = (await self._coverage.changes_followed(run.connection.id)).get(kind)
        if missed_at is not None and followed is not None and followed.covered_until < missed_at:
            since = followed.covered_until - OVERLAP
            await self._reader.read(PlannedRead(kind=kind, covers=Covers.CHANGES, since=since))
        told = run.tally.listed.get(kind, set())
        moved = [entry.external_id for entry in missing if entry.external_id in told]
        await self._absences.forget(run.connection.id, kind, moved)
        return [entry for entry in missing if entry.external_id not in told]

    async def _conclude(self, shortfall: Shortfall, missing: Sequence[Missing]) -> None:
        """Two runs' lists have lacked these."""
        window, connection_id = shortfall.window, self._run.connection.id
        absences = [
            Absence(
                EntityRef(connection_id, shortfall.kind, entry.external_id),
                milliseconds(window.began_at),
                window.start,
                window.end,
                int(MARGIN_S * 1000),
            )
            for entry in missing
        ]
        if absences:
            await self._reader.write(absences, window.began_at)
            gone = [entry.external_id for entry in missing]
            await self._absences.forget(connection_id, shortfall.kind, gone)

    async def _look(self, shortfall: Shortfall, missing: Sequence[Missing]) -> int:
        """Ask the vendor for each by its id, as long as there are looks left. Answers how many still wait."""
        connection_id = self._run.connection.id
        waiting = 0
        for entry in missing:
            if self._looks_left == 0:
                waiting += 1
                continue
            self._looks_left -= 1
            try:
                await self._reader.look(EntityRef(connection_id, shortfall.kind, entry.external_id))
            except DatabaseAway:
                raise
            except Transient:  # no calls are left, or the vendor is not well: the next run looks again
                self._looks_left = 0
                waiting += 1
            except Rejected:  # this one cannot be asked for: the next run's lists decide
                waiting += 1
            else:
                await self._absences.forget(connection_id, shortfall.kind, [entry.external_id])
        return waiting


def _was_missed_before(entry: Missing, run_began_at: datetime) -> bool:
    return entry.first_missed_at is not None and entry.first_missed_at < run_began_at


def _braked(shortfall: Shortfall) -> str:
    return (
        f"{len(shortfall.missing)} of {shortfall.held} {shortfall.kind.value}s were not listed any more; nothing was"
        " deleted, since that many hardly go at once: check the practice and its API, and if they are really gone run"
        " `eventsync sync intakeq --mode full --allow-mass-delete`"
    )


def _waiting(kind: RecordKind, count: int) -> str:
    return f"{count} {kind.value}s were not listed any more: the next full run decides whether they are gone"
