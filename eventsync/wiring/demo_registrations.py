"""The demo's invented practices and therapists: they come into being and change, so that registrations travel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from uuid import NAMESPACE_OID, UUID, uuid5

import structlog

from eventsync.domain.errors import EventsyncError
from eventsync.postgres.invented_organizations import InventedOrganizations, OrganizationState
from eventsync.postgres.outbound_sources import EntityType

DEMO_TURN_S = 10.0
_ORGANIZATIONS = 30
_AT_FIRST = 3
_NEW_SHARE = 0.6  # of the turns, until all are there
_PLANS = ("free", "basic", "professional")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Invented:
    """An organization that the demo may invent. Its id follows from its name, so that a restart finds it again."""

    entity_type: EntityType
    name: str

    @property
    def id(self) -> UUID:
        """The row's id."""
        return uuid5(NAMESPACE_OID, f"eventsync demo: {self.name}")

    def address(self, box: str) -> str:
        """Invent an e-mail address."""
        return f"{box}@{self.name.lower().replace(' ', '-')}.example.test"


def invented_organizations(count: int) -> list[Invented]:
    """Name the organizations in the order of their coming: every third one is a therapist (pure)."""
    names = []
    for number in range(1, count + 1):
        third, place = divmod(number - 1, 3)
        if place == 2:
            names.append(Invented(EntityType.THERAPIST, f"Test Therapist {third + 1}"))
        else:
            names.append(Invented(EntityType.PRACTICE, f"Test Practice {2 * third + place + 1}"))
    return names


def changed(organization: Invented, state: OrganizationState, random: Random) -> OrganizationState:
    """Let something happen to an organization that Colectiva sees (pure); who has ended begins again."""
    if not state.is_active:
        return replace(state, is_active=True)
    match random.choices(("plan", "email", "end"), (6, 3, 1)):
        case ["plan"]:
            return replace(state, plan=random.choice([plan for plan in _PLANS if plan != state.plan]))
        case ["email"]:
            boxes = ("office", "hello", "front-desk", "billing")
            addresses = [organization.address(box) for box in boxes]
            return replace(state, email=random.choice([email for email in addresses if email != state.email]))
        case _:
            return replace(state, is_active=False)


class DemoRegistrations:
    """Takes a turn now and then while `may_invent` says so: something comes into being or, later, changes.

    All that it knows stands in the rows. Rows that it has not made are left alone.
    """

    def __init__(
        self,
        rows: InventedOrganizations,
        may_invent: Callable[[], Awaitable[bool]],
        random: Random,
        *,
        turn_s: float = DEMO_TURN_S,
        organizations: Sequence[Invented] = tuple(invented_organizations(_ORGANIZATIONS)),
    ) -> None:
        self._rows = rows
        self._may_invent = may_invent
        self._random = random
        self._turn_s = turn_s
        self._organizations = organizations

    async def run(self) -> None:
        """Take turns for ever, whatever PostgreSQL does."""
        trouble = ""
        while True:
            try:
                await self.take_turn()
                trouble = ""
            except EventsyncError as error:
                if str(error) != trouble:  # once, and not at each turn of an outage
                    _log.warning("demo_invents_nothing", error=str(error))
                trouble = str(error)
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * self._turn_s)

    async def take_turn(self) -> int:
        """Invent one change, the first time three organizations; tells how many rows were written.

        Raises Transient while PostgreSQL is away, Rejected or Misconfigured where it refuses the rows.
        """
        if not await self._may_invent():
            return 0
        existing = await self._rows.existing([organization.id for organization in self._organizations])
        missing = [organization for organization in self._organizations if organization.id not in existing]
        if not existing:
            coming = missing[:_AT_FIRST]
        elif missing and self._random.random() < _NEW_SHARE:
            coming = missing[:1]
        else:
            coming = []
        for organization in coming:
            plan = self._random.choice(_PLANS)
            state = OrganizationState(organization.address("office"), plan, is_active=True)
            await self._rows.add(organization.entity_type, organization.id, organization.name, state)
        if not coming:
            organization = self._random.choice([known for known in self._organizations if known.id in existing])
            state = changed(organization, existing[organization.id], self._random)
            await self._rows.change(organization.entity_type, organization.id, state)
        return len(coming) or 1
