"""Plays seeds, one after the other, on one watched database that is emptied in between."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg

from eventsync.crypto import Keyring
from simulation.clocks import LAST, START
from simulation.fate import Fate, FatedDatabase
from simulation.run import Run
from simulation.verdict import Verdict
from simulation.world import CONNECTION_ID, ORGANIZATION_ID

_WATCH = (Path(__file__).parent / "watch.sql").read_text(encoding="utf-8")
_EMPTIED = (
    *("events", "event_queue", "event_history", "appointments", "patient_identities", "patients", "documents"),
    *("record_absences", "record_reads", "change_outbox", "simulation_writes", "simulation_news"),
)
_SHOWN = ("appointments", "patient_identities", "patients", "documents", "event_history", "event_queue")
_UNREPEATABLE = frozenset({"content_sealed", "enqueued_in"})  # a nonce; a transaction's number
_LONGEST_SEED_S = 100.0  # a hundred times what it takes; somebody waits in real time for what never comes


class SeedFailed(AssertionError):
    """A seed broke a promise: which, what it did until then, and how to see it again."""

    def __init__(self, seed: int, reason: str, journal: list[str]) -> None:
        history = "\n".join(journal)
        super().__init__(f"seed {seed}: {reason}\nagain with: make simulate SEED={seed}\n{history}")


class Stage:
    """One database for many runs."""

    def __init__(self, url: str, database: asyncpg.Connection, keyring: Keyring, folder: Path) -> None:
        self._folder = folder
        self._database = database
        self._keyring = keyring
        self._pool = FatedDatabase(url, Fate())

    async def open(self) -> None:
        """Make what all runs share: partitions for their time, the watch, one connection of one organization."""
        await self._pool.open()
        await self._database.execute("SELECT ensure_event_partitions($1, $2)", START, LAST)
        await self._database.execute(_WATCH)
        await self._database.execute("INSERT INTO organizations (id, name) VALUES ($1, 'Test')", ORGANIZATION_ID)
        await self._database.execute(
            "INSERT INTO connections (id, organization_id, vendor, base_url, api_key_sealed)"
            " VALUES ($1, $2, 'intakeq', '', '')",
            CONNECTION_ID,
            ORGANIZATION_ID,
        )

    async def close(self) -> None:
        """Let go of the database."""
        await self._pool.close()

    async def play(self, seed: int) -> Run:
        """Play one seed and judge it. Raises SeedFailed."""
        await self._empty()
        run = Run(seed, self._pool, self._keyring, self._folder)
        try:
            async with asyncio.timeout(_LONGEST_SEED_S):
                await self._play(run)
        except Exception as error:
            raise SeedFailed(seed, str(error) or type(error).__name__, run.journal) from error
        finally:
            await run.world.close()
        return run

    async def rows(self) -> dict[str, list[dict[str, Any]]]:
        """All rows that the last run left, but for what no two runs share."""
        return {table: await self._rows(table) for table in _SHOWN}

    async def _play(self, run: Run) -> None:
        verdict = Verdict(run, self._database, self._keyring)
        await run.history()
        await run.quiet()
        await verdict.nothing_is_lost()
        await run.full_read()
        await verdict.the_copy_equals_the_practice()
        await verdict.nothing_takes_effect_twice()

    async def _empty(self) -> None:
        statements = [f"DELETE FROM {table};" for table in _EMPTIED]  # noqa: S608  # a literal of this module
        await self._database.execute(" ".join(statements))

    async def _rows(self, table: str) -> list[dict[str, Any]]:
        rows = await self._database.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")  # noqa: S608  # see _SHOWN
        return [{name: value for name, value in row.items() if name not in _UNREPEATABLE} for row in rows]
