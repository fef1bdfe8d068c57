"""Brings a database to the schema that this release knows: numbered SQL files, once each, under one lock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from importlib import resources

import asyncpg

from eventsync.domain.errors import Misconfigured, Transient

_LOCK = 0x6576656E74  # "event": any number would do, as long as every migrator takes the same
_CONNECT_TIMEOUT_S = 10.0
_LEDGER = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version int PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file: `0001_spine.sql` has version 1 and name `spine`."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """Identify the file's text, so that a migration edited after it ran is noticed."""
        return sha256(self.sql.encode()).hexdigest()


def known_migrations() -> list[Migration]:
    """Read this release's migrations, in order."""
    files = [entry for entry in resources.files(__name__).iterdir() if entry.name.endswith(".sql")]
    migrations = []
    for entry in sorted(files, key=lambda entry: entry.name):
        number, _, name = entry.name.removesuffix(".sql").partition("_")
        migrations.append(Migration(int(number), name, entry.read_text(encoding="utf-8")))
    return migrations


async def migrate(database_url: str) -> list[str]:
    """Apply what is missing and answer the names of what was applied; several at once apply each once.

    Raises Misconfigured when the database holds a migration that this release has in another form.
    """
    connection = await _connect(database_url)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        await connection.execute(_LEDGER)
        applied = await _apply_missing(connection)
        now = datetime.now(UTC)
        await connection.execute("SELECT ensure_event_partitions($1, $2)", now - timedelta(14), now + timedelta(28))
        return applied
    finally:
        await connection.close()


async def check_schema(connection: asyncpg.Connection) -> None:
    """Refuse a schema that this release does not know: an older one, or one newer by more than a neighbour.

    Two neighbouring versions may run side by side during a rolling upgrade. Raises Misconfigured.
    """
    known = known_migrations()[-1].version
    ledger = await connection.fetchval("SELECT to_regclass('schema_migrations')")
    found = await connection.fetchval("SELECT max(version) FROM schema_migrations") if ledger else None
    if found is None or found < known:
        raise Misconfigured(
            f"the database's schema is at {found or 0}, this release needs {known}: run `eventsync migrate`"
        )
    if found > known + 1:
        raise Misconfigured(f"the database's schema is at {found}, this release knows {known}: upgrade eventsync")


async def _connect(database_url: str) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(database_url, timeout=_CONNECT_TIMEOUT_S)
    except (OSError, TimeoutError, asyncpg.CannotConnectNowError) as error:
        raise Transient("PostgreSQL cannot be reached: check that it runs and that its URL is right") from error
    except asyncpg.PostgresError as error:
        raise Misconfigured(f"PostgreSQL refuses us ({type(error).__name__}): check EVENTSYNC_DATABASE_URL") from error


async def _apply_missing(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch("SELECT version, checksum FROM schema_migrations")
    present = {row["version"]: row["checksum"] for row in rows}
    applied = []
    for migration in known_migrations():
        checksum = present.get(migration.version)
        if checksum is None:
            await _apply(connection, migration)
            applied.append(f"{migration.version:04}_{migration.name}")
        elif checksum != migration.checksum:
            raise Misconfigured(
                f"migration {migration.version:04}_{migration.name} was applied in another form than this release's:"
                " restore the release that applied it, or a backup from before"
            )
    return applied


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
            migration.version,
            migration.name,
            migration.checksum,
        )
