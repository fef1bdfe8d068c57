"""The outbound queue of a command's test, and the pretend Colectiva that its installation is connected to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson

from cli.runs import Cli
from eventsync.sandbox import ApiAnswer, RunningSandbox, ScriptedCall
from eventsync.sandbox.colectiva.posts import Post
from eventsync.sandbox.colectiva.vendor import ColectivaVendor

SYNC = ("ecosystem", "sync")
ROUTE = "/ecosystem-orgs"
API_KEY = "colectiva-key-1"


@dataclass(frozen=True)
class Held:
    """A POST that waits: `reached` is set when it has come, `goes_on` lets it go."""

    reached: asyncio.Event
    goes_on: asyncio.Event


@dataclass(frozen=True)
class Colectiva:
    """The pretend server, and the queue of the installation that is connected to it."""

    running: RunningSandbox
    database: asyncpg.Connection

    @property
    def vendor(self) -> ColectivaVendor:
        vendor = self.running.sandbox.vendor
        assert isinstance(vendor, ColectivaVendor)
        return vendor

    @property
    def posts(self) -> list[Post]:
        return self.vendor.posts.since()

    def answer(self, answer: ApiAnswer | None = None, **call: Any) -> ScriptedCall:
        """Spoil calls to come."""
        return self.running.sandbox.script.add(ScriptedCall(route=ROUTE, method="POST", answer=answer, **call))

    def hold_next(self) -> Held:
        """Hold the next POST before it is looked at."""
        held = Held(asyncio.Event(), asyncio.Event())

        async def hang() -> None:
            held.reached.set()
            await held.goes_on.wait()

        self.answer(before=hang)
        return held

    async def put(self, number: int, action: str = "register", **payload: Any) -> UUID:
        """Queue an item of organization `number`."""
        told = {"organization_name": f"Test Practice {number}", "email": f"practice{number}@example.test", **payload}
        item_id: UUID = await self.database.fetchval(
            "INSERT INTO ecosystem_sync_queue (entity_type, entity_id, ecosystem_org_id, action, payload)"
            " VALUES ('practice', $1, $2, $3, $4) RETURNING id",
            uuid4(), organization(number), action, orjson.dumps(told).decode(),
        )  # fmt: skip
        return item_id

    async def rows(self) -> list[tuple[str, str, int]]:
        """Read each item's action, status and attempts, in their order."""
        found = await self.database.fetch("SELECT action, status, attempts FROM ecosystem_sync_queue ORDER BY position")
        return [tuple(row) for row in found]

    async def everything(self) -> list[Any]:
        """Read all that sending could write."""
        tables = ("ecosystem_sync_queue", "ecosystem_sync_attempts", "outbound_pauses", "connections", "api_calls")
        return [await self.database.fetch(f"SELECT * FROM {table} ORDER BY 1") for table in tables]  # noqa: S608  # ours


def organization(number: int) -> str:
    return f"plenura_{number:032x}"


async def connect(cli: Cli, running: RunningSandbox, *words: str) -> None:
    added = await cli(
        "connections", "add", "colectiva", "--org", "practice-7", "--api-key", API_KEY, "--base-url", running.base_url,
        *words, "--json",
    )  # fmt: skip
    assert added.exit_code == 0, added.stderr
