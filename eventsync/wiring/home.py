"""Where `up` keeps its rows: the database that the settings name, or a PostgreSQL of its own that it looks after."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import structlog

from eventsync.domain.errors import Transient
from eventsync.postgres.embedded import EmbeddedPostgres, RunningPostgres
from eventsync.settings import Settings

_log = structlog.get_logger(__name__)


class DatabaseHome:
    """As a context: the database is there. As a worker: an embedded server that dies is started again."""

    name = "embedded-postgres"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server: RunningPostgres | None = None
        self.url = ""
        self.notice: str | None = None

    @property
    def is_embedded(self) -> bool:
        """Whether the server is ours to look after."""
        return self._settings.database_url is None

    async def __aenter__(self) -> Self:
        """Start the embedded server where no database is named."""
        if self._settings.database_url is not None:
            self.url = self._settings.database_url.get_secret_value()
        else:
            await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the embedded server."""
        if self._server is not None:
            await self._server.stop()

    async def run(self) -> None:
        """Watch the embedded server for ever. Raises Transient where it cannot be started again: run this again."""
        while True:
            if self._server is None:
                await self._start()
            if self._server is not None:
                await self._server.wait_for_exit()
                _log.error("embedded_postgres_ended_unexpectedly")
                server, self._server = self._server, None
                await server.stop()

    async def _start(self) -> None:
        server = await EmbeddedPostgres(self._settings.data_dir).start()
        if self.url and server.url != self.url:
            await server.stop()
            raise Transient("the embedded PostgreSQL has moved: start eventsync again")
        self._server, self.url, self.notice = server, server.url, server.notice
