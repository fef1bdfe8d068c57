"""PostgreSQL goes away in the middle of a run: the run waits, and goes on with what has been paid for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from eventsync.crypto import Keyring
from eventsync.domain.merging import Merged
from eventsync.domain.runs import Run, RunStatus
from eventsync.postgres.database import Database, Session
from eventsync.postgres.records import EventChange, RecordWriter
from servers.eventually import eventually
from servers.proxy import TcpProxy
from stages.sync_site import SyncSite, open_site

LISTS = "/appointments"
DEADLINE_S = 30.0


class CuttingWriter(RecordWriter):
    """Cuts the link to PostgreSQL when it is to write its first page, and lets nobody in again."""

    def __init__(self, keyring: Keyring, proxy: TcpProxy) -> None:
        super().__init__(keyring)
        self._proxy = proxy
        self.has_cut = False

    async def write(
        self, session: Session, changes: Sequence[EventChange], now: datetime, *, reads_in_order: bool = False
    ) -> list[Merged]:
        if not self.has_cut and changes:
            self.has_cut = True
            await self._proxy.refuse()
            self._proxy.cut()
        return await super().write(session, changes, now, reads_in_order=reads_in_order)


@pytest.fixture
async def proxied(
    database_url: str, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
) -> AsyncIterator[tuple[Database, TcpProxy]]:
    """A pool of connections that a proxy can cut."""
    proxy = await tcp_proxy(database_url)
    pool = Database(proxy.url)
    await pool.open()
    yield pool, proxy
    await pool.close()


async def require_ended(site: SyncSite, database: asyncpg.Connection, run: Run) -> None:
    assert run.status is RunStatus.COMPLETED, run
    await site.require_true_copy(database)


async def let_in_again(proxy: TcpProxy, logs: Sequence[Any]) -> None:
    """Let PostgreSQL be back once somebody has noticed that it was away."""
    await eventually(lambda: [entry for entry in logs if entry["event"] == "holding_on"], DEADLINE_S)
    await proxy.accept()


async def test_a_page_that_was_read_is_written_once_postgres_is_back_and_not_asked_for_again(
    proxied: tuple[Database, TcpProxy], keyring: Keyring, database: asyncpg.Connection
) -> None:
    pool, proxy = proxied
    async with open_site(pool, keyring) as site:
        site.spine.writer = CuttingWriter(keyring, proxy)
        with capture_logs() as logs:
            back = asyncio.create_task(let_in_again(proxy, logs))
            run = await site.sync()
            await back
        assert site.spine.writer.has_cut
        await require_ended(site, database, run)
        assert run.counts.appointments_new == 60
        assert site.calls == run.metadata["lists_read"] + 3  # practitioners, intakes and notes


async def test_a_run_waits_for_postgres_that_is_away_when_it_begins(
    proxied: tuple[Database, TcpProxy], keyring: Keyring, database: asyncpg.Connection
) -> None:
    pool, proxy = proxied
    async with open_site(pool, keyring) as site:
        lease = await site.lease()
        await proxy.refuse()
        proxy.cut()
        with capture_logs() as logs:
            back = asyncio.create_task(let_in_again(proxy, logs))
            run = await site.carry_out(lease)
            await back
        await require_ended(site, database, run)


@pytest.mark.parametrize("call", [1, 2, 5, 8])
async def test_a_run_goes_on_where_postgres_went_away_during_a_call(
    proxied: tuple[Database, TcpProxy], keyring: Keyring, database: asyncpg.Connection, call: int
) -> None:
    pool, proxy = proxied
    async with open_site(pool, keyring) as site:

        async def cut() -> None:
            await proxy.refuse()
            proxy.cut()

        site.script("*", call=call, after=cut)
        with capture_logs() as logs:
            back = asyncio.create_task(let_in_again(proxy, logs))
            run = await site.sync()
            await back
        await require_ended(site, database, run)
        assert run.counts.appointments_new == 60
        assert run.counts.appointments_unchanged == 0


async def test_an_outage_during_a_call_does_not_let_a_long_list_begin_anew(
    proxied: tuple[Database, TcpProxy], keyring: Keyring, database: asyncpg.Connection
) -> None:
    pool, proxy = proxied
    async with open_site(pool, keyring, appointments=0) as site:
        site.sandbox.act_unheard("book_many", count=450, start_ms=site.ms(days=1), every_ms=60_000)

        async def cut() -> None:
            await proxy.refuse()
            proxy.cut()

        site.script(LISTS, query={"page": "5"}, after=cut)
        with capture_logs() as logs:
            back = asyncio.create_task(let_in_again(proxy, logs))
            run = await site.sync()
            await back
        await require_ended(site, database, run)
        assert run.counts.appointments_new == 450
        assert await database.fetchval("SELECT count(*) FROM absence_candidates") == 0
        lists = site.sandbox.stats.api_calls["GET /api/v1/appointments"]
        others = run.metadata["lists_read"] - 3  # of appointments: not clients, deleted clients and invoices
        assert lists == others - 1 + 5  # no page is read twice: the answer was paid for, and is held
