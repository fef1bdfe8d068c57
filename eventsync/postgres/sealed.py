"""Tells whether the encryption keys at hand open what is stored; asked by `eventsync check`."""

from __future__ import annotations

from dataclasses import dataclass

from eventsync.crypto import Keyring
from eventsync.domain.errors import Misconfigured
from eventsync.postgres.database import Database
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    sample_sealed: str


SQL = load_statements(_Sql, "sealed.sql")


async def open_samples(database: Database, keyring: Keyring) -> int:
    """Open a sample of every kind of sealed value; tell how many. Raises Misconfigured where one does not open."""
    async with database.session() as session:
        rows = await session.fetch(SQL.sample_sealed)
    shut: dict[str, Misconfigured] = {}
    for row in rows:
        try:
            keyring.open(row["sealed"], row["context"])
        except Misconfigured as error:
            shut.setdefault(row["kind"], error)
    if shut:
        kinds, first = ", ".join(sorted(shut)), next(iter(shut.values()))
        raise Misconfigured(f"{first} (does not open: {kinds})")
    return len(rows)
