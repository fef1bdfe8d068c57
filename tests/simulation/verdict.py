"""What must hold: nothing accepted is lost, nothing takes effect twice, and in the end the copy equals the practice."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson

from e2e.sandbox_truth import appointment_rows, expected_appointments
from eventsync.crypto import Keyring
from eventsync.domain.events import EventId
from eventsync.sandbox import Fact
from simulation.ledger import Told
from simulation.practice import CLIENT, id_of
from simulation.run import Run
from simulation.world import CONNECTION_ID

_DELETED_LISTED_MS = 10 * 86_400_000
_MAY_PARK_INTACT = frozenset({"kills_the_consumer", "kills_the_worker", "vendor_unreachable", "dead_letter"})
_MAY_PARK_SPOILT = _MAY_PARK_INTACT | {"not_json", "practice_mismatch"}


class Verdict:
    """Judges one run by its rows; each check is told in a sentence when it fails."""

    def __init__(self, run: Run, database: asyncpg.Connection, keyring: Keyring) -> None:
        self._run = run
        self._database = database
        self._keyring = keyring
        self._told = run.world.ledger.told

    async def nothing_is_lost(self) -> None:
        """Before any repair: every accepted webhook came to its end, and the rows are as new as what it told."""
        ends = await self._ends()
        for event_id, told in self._told.items():
            assert event_id in ends, f"the accepted webhook about {told.record} is nowhere"
            self._check_end(told, *ends[event_id])
        finished = {event_id for event_id in self._told if ends[event_id][0] != "parked"}
        await self._rows_are_as_new_as_told({key: self._told[key] for key in finished})
        await self._rows_were_once_true()
        await self._documents_are_as_new_as_told([self._told[key] for key in finished])

    async def nothing_takes_effect_twice(self) -> None:
        """No row goes back, none changes visibly twice at one place in the order, and each change is news once."""
        writes = await self._database.fetch("SELECT * FROM simulation_writes ORDER BY number")
        for write in writes:
            earlier = write["earlier_version"]
            assert earlier is None or earlier <= write["version"], f"{_name(write)} went back to an older version"
        visible = [write for write in writes if write["is_visible"]]
        for (name, _), times in Counter((_name(write), write["place"]) for write in visible).items():
            assert times == 1, f"{name} changed {times} times at one version"
        news = Counter(row["external_id"] for row in await self._database.fetch("SELECT * FROM simulation_news"))
        changes = Counter(write["external_id"] for write in visible)
        untold, told_too_often = dict(changes - news), dict(news - changes)
        assert news == changes, f"changes that were not told: {untold}; told, and nothing changed: {told_too_often}"
        await self._one_body_is_applied_once()
        await self._history_names_what_changed()

    async def the_copy_equals_the_practice(self) -> None:
        """After quiet and one full re-read."""
        await self._appointments_equal()
        await self._extras_equal()
        await self._clients_equal()
        for kind in ("invoice", "intake", "note"):
            await self._documents_equal(kind)

    async def _ends(self) -> dict[EventId, tuple[str, str | None]]:
        rows = await self._database.fetch(
            "SELECT event_id, status AS state, reason FROM event_queue"
            " UNION ALL SELECT event_id, outcome, reason FROM event_history"
        )
        ends = {row["event_id"]: (row["state"], row["reason"]) for row in rows}
        assert len(ends) == len(rows), "an event has ended twice, or ended and is still queued"
        return ends

    @staticmethod
    def _check_end(told: Told, state: str, reason: str | None) -> None:
        assert state in {"parked", "applied", "unchanged", "stale"}, f"the webhook about {told.record} is still {state}"
        if state == "parked":
            allowed = _MAY_PARK_INTACT if told.intact else _MAY_PARK_SPOILT
            assert reason in allowed, f"the webhook about {told.record} was parked as {reason}"

    async def _rows_are_as_new_as_told(self, finished: dict[EventId, Told]) -> None:
        positions = await self._positions()
        for told in finished.values():
            if told.record is None or told.position is None:
                continue
            assert told.record in positions, f"{told.record} was told, and has no row"
            position, deleted = positions[told.record]
            assert position >= told.position, f"{told.record} is older than what was told"
            if told.deleted and position == told.position:
                assert deleted, f"{told.record} was told to be deleted, and lives"

    async def _positions(self) -> dict[tuple[str, str], tuple[int, bool]]:
        rows = await self._database.fetch(
            "SELECT 'appointment' AS kind, external_id, source_version, deleted_at FROM appointments"
            " UNION ALL SELECT kind, external_id, source_version, deleted_at FROM documents"
        )
        return {
            (row["kind"], row["external_id"]): (_ms(row["source_version"]), row["deleted_at"] is not None)
            for row in rows
        }

    async def _rows_were_once_true(self) -> None:
        """Every appointment reads as the practice once said it, and is gone only where it may look so."""
        for external_id, row in (await appointment_rows(self._database)).items():
            past = self._run.practice.past["appointment", external_id]
            facts = [Fact("appointment", said.deleted, said.form) for said in past if said.form is not None]
            once = [expected_appointments([fact])[external_id] for fact in facts]
            plain = {name: value for name, value in row.items() if name != "deleted"}
            assert any(plain.items() <= each.items() for each in once), f"appointment {external_id} was never like that"
            overlooked = self._run.world.ledger.overlooked[external_id]
            may_look_deleted = past[-1].deleted or any(each.begins <= row["start"] < each.ends for each in overlooked)
            assert may_look_deleted or not row["deleted"], f"appointment {external_id} lives, and was buried"

    async def _documents_are_as_new_as_told(self, finished: list[Told]) -> None:
        """A document that a webhook named reads as the practice said it at that time or later."""
        rows = {kind: await self._documents(kind) for kind in ("intake", "note")}
        for told in finished:
            if told.record is None or told.record[0] not in rows:
                continue
            kind, external_id = told.record
            past = self._run.practice.past[told.record]
            untils = [*(said.since_ms for said in past[1:]), None]
            valid = [
                said for said, until in zip(past, untils, strict=True) if until is None or until >= told.accepted_ms
            ]
            deleted, form = rows[kind].get(external_id, (True, None))
            forms = [None if said.deleted else _kept(said.form) for said in valid]
            assert (None if deleted else form) in forms, f"{kind} {external_id} is older than what was told"

    async def _one_body_is_applied_once(self) -> None:
        rows = await self._database.fetch(
            "SELECT event_id FROM event_history WHERE outcome = 'applied' AND entity_kind IN ('appointment', 'invoice')"
        )
        told = [self._told[row["event_id"]] for row in rows if row["event_id"] in self._told]
        for body, times in Counter(each.body for each in told if each.position is not None).items():
            assert times == 1, f"a webhook of {len(body)} bytes was applied {times} times"

    async def _history_names_what_changed(self) -> None:
        for table in ("appointments", "documents", "patient_identities"):
            rows = await self._database.fetch(
                f"SELECT external_id, outcome FROM {table} JOIN event_history ON event_id = applied_event_id"  # noqa: S608  # one of three literals
            )
            for row in rows:
                assert row["outcome"] == "applied", f"what changed {row['external_id']} ended as {row['outcome']}"

    async def _appointments_equal(self) -> None:
        rows = await appointment_rows(self._database)
        facts = self._run.practice.truth("appointment")
        assert rows.keys() <= {fact.data["Id"] for fact in facts}
        for external_id, expected in expected_appointments(facts).items():
            row = rows.get(external_id)
            if expected["deleted"] and not self._was_listed_as_deleted(external_id):
                assert row is None or row["deleted"], f"appointment {external_id} is deleted, and its row lives"
            else:
                assert row == expected, f"appointment {external_id} differs from the practice's"

    def _was_listed_as_deleted(self, external_id: str) -> bool:
        practice = self._run.practice
        deleted_ms = practice.vendor.practice.deleted_appointments[external_id].deleted_ms or 0
        return deleted_ms >= practice.clock_ms() - _DELETED_LISTED_MS

    async def _extras_equal(self) -> None:
        rows = await self._database.fetch("SELECT external_id, package_name, procedures FROM appointments")
        held = {row["external_id"]: (row["package_name"], orjson.loads(row["procedures"] or "null")) for row in rows}
        for fact in self._run.practice.truth("appointment"):
            if not fact.deleted:
                said = fact.data["AppointmentPackageName"], fact.data["Procedures"]
                assert held[fact.data["Id"]] == said, f"appointment {fact.data['Id']} differs in its extras"

    async def _clients_equal(self) -> None:
        rows = {row["external_id"]: row for row in await self._database.fetch("SELECT * FROM patient_identities")}
        patients = {
            row["intakeq_client_id"]: row
            for row in await self._database.fetch("SELECT * FROM patients WHERE status <> 'linked'")
        }
        for fact in self._run.practice.truth(CLIENT):
            client_id, row = id_of(fact), rows.get(id_of(fact))
            if fact.deleted:
                assert row is None or row["deleted_at"] is not None, f"client {client_id} is deleted, and its row lives"
                continue
            assert row is not None, f"client {client_id} has no row"
            assert row["deleted_at"] is None, f"client {client_id} lives, and was buried"
            for held in (row, patients[client_id]):
                assert _person(held) == _expected_person(fact.data), f"client {client_id} differs"

    async def _documents_equal(self, kind: str) -> None:
        rows = await self._documents(kind)
        facts = {fact.data["Id"]: _kept(fact.data) for fact in self._run.practice.truth(kind)}
        live = {external_id: form for external_id, (deleted, form) in rows.items() if not deleted}
        assert live.keys() == facts.keys(), f"the {kind}s that live are not the practice's"
        for external_id, form in facts.items():
            assert live[external_id] == form, f"{kind} {external_id} differs from the practice's"

    async def _documents(self, kind: str) -> dict[str, tuple[bool, Any]]:
        rows = await self._database.fetch("SELECT * FROM documents WHERE kind = $1", kind)
        documents = {}
        for row in rows:
            context = f"document:{CONNECTION_ID}:{kind}:{row['external_id']}"
            sealed = row["content_sealed"]
            form = None if sealed is None else orjson.loads(self._keyring.open(sealed, context))
            documents[row["external_id"]] = row["deleted_at"] is not None, form
        return documents


def _kept(form: dict[str, Any] | None) -> Any:
    """Write a form as our sealed content holds it: through JSON, without nulls and the client's form's password."""
    return _without_nulls(orjson.loads(orjson.dumps({k: v for k, v in (form or {}).items() if k != "Password"})))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None and item != ""}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _person(row: Any) -> tuple[Any, ...]:
    return row["first_name"], row["last_name"], row["email"], row["phone"], row["date_of_birth"]


def _expected_person(profile: dict[str, Any]) -> tuple[Any, ...]:
    born_ms = profile["DateOfBirth"]
    born = None if born_ms is None else datetime.fromtimestamp(born_ms / 1000, UTC).date()
    return profile["FirstName"], profile["LastName"], profile["Email"], profile["Phone"], born


def _name(write: Any) -> str:
    return f"{write['record']} {write['external_id']}"


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
