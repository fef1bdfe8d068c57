"""People at work with practices and therapists, by plain SQL: whatever they do fills the outbound queue by triggers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any
from uuid import UUID

import asyncpg

from eventsync.sandbox.colectiva.vendor import ColectivaVendor

# What Colectiva should hold of each organization: its id, name, address, tax id, type, plan, whether it is active.
# $1: the row's id, NULL for all.
_STATES = """
SELECT ecosystem_org_id, name, email, tax_id, coalesce(business_type, 'business') AS type,
       coalesce(subscription_tier, 'free') AS plan, subscription_status = 'active' AS is_active
FROM practices WHERE $1::uuid IS NULL OR id = $1
UNION ALL
SELECT ecosystem_org_id, full_name || ' (Independent Therapist)', email, NULL, 'solo',
       coalesce(subscription_tier, 'free'), is_available
FROM therapists WHERE is_independent AND vetting_status = 'approved' AND ($1::uuid IS NULL OR id = $1)
"""
_INSERT_PRACTICE = """
INSERT INTO practices (name, email, tax_id, business_type, subscription_tier, subscription_status)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING id
"""
_UPDATE_PRACTICE = """
UPDATE practices SET name = $2, email = $3, tax_id = $4, business_type = $5, subscription_tier = $6,
       subscription_status = $7 WHERE id = $1
"""
_INSERT_THERAPIST = """
INSERT INTO therapists (full_name, email, is_independent, vetting_status, subscription_tier, is_available)
VALUES ($1, $2, true, $3, $4, $5) RETURNING id
"""
_UPDATE_THERAPIST = """
UPDATE therapists SET full_name = $2, email = $3, vetting_status = $4, subscription_tier = $5, is_available = $6
WHERE id = $1
"""
_PLANS = (None, "free", "growth", "enterprise")
_TYPES = (None, "clinic", "wellness")
_NEW_SHARE, _DELETED_SHARE, _VETTED_SHARE, _SWITCHED_SHARE = 0.05, 0.03, 0.05, 0.1
_THERAPISTS_SHARE = 0.3

State = tuple[str, str, str | None, str, str, bool]
"""Name, e-mail, tax id, type, plan, whether it is active."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """A row as people have left it; `version` counts its states, and stands in its name."""

    number: int
    is_therapist: bool
    version: int = 1
    is_active: bool = True
    is_vetted: bool = True
    tax_id: str | None = None
    type: str | None = None
    plan: str | None = None

    @property
    def name(self) -> str:
        return f"Test {'Therapist' if self.is_therapist else 'Practice'} {self.number} v{self.version}"

    @property
    def email(self) -> str:
        return f"owner-{self.number}-{self.version}@example.test"

    def columns(self) -> Sequence[Any]:
        """Give the row's values in the order of the statements."""
        if self.is_therapist:
            vetting = "approved" if self.is_vetted else "pending"
            return (self.name, self.email, vetting, self.plan, self.is_active)
        status = "active" if self.is_active else "canceled"
        return (self.name, self.email, self.tax_id, self.type, self.plan, status)


class PlenuraAtWork:
    """Makes, changes, switches off and deletes organizations; `gone` is how Colectiva should hold those that went."""

    def __init__(self, database: asyncpg.Connection | asyncpg.Pool, rng: Random) -> None:
        self.gone: dict[str, State] = {}
        self._database = database
        self._rng = rng
        self._rows: dict[UUID, Organization] = {}
        self._made = 0

    async def begin(self, organizations: int) -> None:
        """Make so many."""
        for _ in range(organizations):
            await self._make()

    async def queue_items(self, count: int, *, pause_s: float = 0.0) -> None:
        """Work until the queue has had so many items, with a pause after each thing done."""
        while await self._database.fetchval("SELECT count(*) FROM ecosystem_sync_queue") < count:
            await self.do_one_thing()
            await asyncio.sleep(pause_s)

    async def do_one_thing(self) -> None:
        """Change one organization, or have one more or one less."""
        draw = self._rng.random()
        if draw < _NEW_SHARE:
            await self._make()
            return
        row_id = self._rng.choice(list(self._rows))
        if draw < _NEW_SHARE + _DELETED_SHARE:
            await self._delete(row_id)
        else:
            await self._change(row_id, _changed(self._rows[row_id], self._rng))

    async def add_practice(self) -> str:
        """Make one practice more; answers the organization's id."""
        row = self._new(is_therapist=False)
        row_id = await self._insert(row)
        org_id: str = await self._database.fetchval("SELECT ecosystem_org_id FROM practices WHERE id = $1", row_id)
        return org_id

    async def states(self) -> dict[str, State]:
        """Tell how Colectiva should hold every organization, by the tables, and by what was told of those that went."""
        rows = await self._database.fetch(_STATES, None)
        return self.gone | {row["ecosystem_org_id"]: _state(row) for row in rows}

    async def items_without_success(self) -> int:
        """Count the queue's items that wait, are on their way, or failed."""
        count: int = await self._database.fetchval(
            "SELECT count(*) FROM ecosystem_sync_queue WHERE status <> 'success'"
        )
        return count

    async def _make(self) -> None:
        await self._insert(self._new(is_therapist=self._rng.random() < _THERAPISTS_SHARE))

    def _new(self, *, is_therapist: bool) -> Organization:
        self._made += 1
        return Organization(number=self._made, is_therapist=is_therapist, is_vetted=self._rng.random() < 0.8)

    async def _insert(self, row: Organization) -> UUID:
        statement = _INSERT_THERAPIST if row.is_therapist else _INSERT_PRACTICE
        row_id: UUID = await self._database.fetchval(statement, *row.columns())
        self._rows[row_id] = row
        return row_id

    async def _change(self, row_id: UUID, row: Organization) -> None:
        if not row.is_vetted:
            await self._note_as_gone(row_id)
        await self._database.execute(
            _UPDATE_THERAPIST if row.is_therapist else _UPDATE_PRACTICE, row_id, *row.columns()
        )
        self._rows[row_id] = row

    async def _delete(self, row_id: UUID) -> None:
        await self._note_as_gone(row_id)
        is_therapist = self._rows.pop(row_id).is_therapist
        statement = "DELETE FROM therapists WHERE id = $1" if is_therapist else "DELETE FROM practices WHERE id = $1"
        await self._database.execute(statement, row_id)

    async def _note_as_gone(self, row_id: UUID) -> None:
        """Remember what was told last of an organization that is registered still: it goes with that, inactive."""
        row = await self._database.fetchrow(_STATES, row_id)
        if row is not None:
            self.gone[row["ecosystem_org_id"]] = (*_state(row)[:5], False)


def _changed(row: Organization, rng: Random) -> Organization:
    draw = rng.random()
    if row.is_therapist and draw < _VETTED_SHARE:
        return replace(row, version=row.version + 1, is_vetted=not row.is_vetted)
    if draw < _VETTED_SHARE + _SWITCHED_SHARE:
        return replace(row, version=row.version + 1, is_active=not row.is_active)
    return replace(
        row,
        version=row.version + 1,
        tax_id=rng.choice((None, f"TST{row.number:06d}AB1")),
        type=rng.choice(_TYPES),
        plan=rng.choice(_PLANS),
    )


def _state(row: Any) -> State:
    return (row["name"], row["email"], row["tax_id"], row["type"], row["plan"], row["is_active"])


def registered(colectiva: ColectivaVendor) -> dict[str, State]:
    """Tell how Colectiva holds every organization."""
    told = [organization.registration for organization in colectiva.organizations.values()]
    return {x.app_org_id: (x.name, x.owner_email, x.rfc, x.type, x.plan, x.billing_status == "active") for x in told}
