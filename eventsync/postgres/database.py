"""The pool of connections to PostgreSQL, and the one seam where its driver's errors become ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from eventsync.domain.errors import Misconfigured, Rejected, Transient

Session: TypeAlias = PoolConnectionProxy

_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.OperatorInterventionError,  # shut down by an administrator, cancelled by a timeout
    asyncpg.TransactionRollbackError,  # deadlock, serialization
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby, in the middle of a fail-over
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
_REFUSED_CREDENTIALS = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
_UNKNOWN_SCHEMA = (asyncpg.SyntaxOrAccessError, asyncpg.InvalidSchemaNameError)
_REFUSED_DATA = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)


class Database:
    """A pool that opens its connections when they are first needed, so that a role starts while PostgreSQL is away."""

    def __init__(self, url: str, *, max_connections: int = 10, command_timeout_s: float = 30.0) -> None:
        self.url = url
        self._max_connections = max_connections
        self._command_timeout_s = command_timeout_s
        self._pool: asyncpg.Pool | None = None

    async def open(self) -> None:
        """Make the pool ready; it connects at its first use. Raises Misconfigured for a URL that is none."""
        try:
            self._pool = await asyncpg.create_pool(
                self.url,
                min_size=0,
                max_size=self._max_connections,
                command_timeout=self._command_timeout_s,
                timeout=5.0,
                max_inactive_connection_lifetime=60.0,
                reset=_keep_session,
                server_settings={"application_name": "eventsync", "timezone": "UTC"},
            )
        except (ValueError, asyncpg.InterfaceError) as error:
            raise Misconfigured("EVENTSYNC_DATABASE_URL is not a PostgreSQL URL") from error

    async def close(self) -> None:
        """Close every connection, at the latest after five seconds."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        try:
            async with asyncio.timeout(5.0):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    async def ping(self) -> None:
        """Ask PostgreSQL for a sign of life. Raises Transient or Misconfigured."""
        async with self.session() as session:
            await session.execute("SELECT 1")

    @asynccontextmanager
    async def session(self, *, acquire_timeout_s: float = 5.0) -> AsyncIterator[Session]:
        """Borrow a connection. Errors of the driver inside become Transient, Rejected or Misconfigured."""
        if self._pool is None:
            raise Transient("the database pool is not open")
        with translated_errors():
            try:
                async with self._pool.acquire(timeout=acquire_timeout_s) as session:
                    yield session
            except (OSError, asyncpg.PostgresConnectionError):  # TimeoutError is an OSError
                # What hung or broke once would let every other pooled connection's user wait as long.
                await self._pool.expire_connections()
                raise

    @asynccontextmanager
    async def transaction(self, *, acquire_timeout_s: float = 5.0) -> AsyncIterator[Session]:
        """Borrow a connection within a transaction that commits when the block ends well."""
        async with self.session(acquire_timeout_s=acquire_timeout_s) as session, session.transaction():
            yield session


class DatabaseAway(Transient):
    """PostgreSQL is away or busy: whoever holds work of its own waits; nothing is wrong with the work."""


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the driver's errors into ours, keeping the cause; texts never hold a row's values."""
    try:
        yield
    except _REFUSED_CREDENTIALS as error:
        raise Misconfigured(f"PostgreSQL refuses us ({type(error).__name__}): check EVENTSYNC_DATABASE_URL") from error
    except _UNKNOWN_SCHEMA as error:
        raise Misconfigured(
            f"PostgreSQL does not know what this release asks for ({type(error).__name__}): run `eventsync migrate`"
        ) from error
    except _REFUSED_DATA as error:
        raise Rejected("database_refused", f"PostgreSQL refused a value ({type(error).__name__})") from None
    except _AWAY as error:
        raise DatabaseAway(f"PostgreSQL is away or busy ({type(error).__name__})") from error


async def _keep_session(_: asyncpg.Connection) -> None:
    # Sessions hold no state between uses (only SET LOCAL is used), so the pool's reset would be a wasted round trip.
    return
