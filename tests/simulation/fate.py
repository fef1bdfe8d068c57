"""Where a process dies or PostgreSQL goes away: at a counted step of its work with the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from eventsync.domain.errors import Transient
from eventsync.postgres.database import Database, Session

_STATEMENTS = frozenset({"execute", "fetch", "fetchrow", "fetchval"})


class Killed(BaseException):
    """The process ends here, as by SIGKILL: no handler of the product's may see it, what was not committed is gone."""


@dataclass(slots=True)
class _Blow:
    steps_left: int
    kind: type[Killed | Transient]


class Fate:
    """Counts the steps (before a statement, after it, after a commit) and strikes at the one that was chosen.

    Each task has a fate of its own, since several works may be under way; it shares it with the tasks that it starts.
    """

    def __init__(self) -> None:
        self._chosen: ContextVar[_Blow | None] = ContextVar("chosen", default=None)

    def choose(self, steps: int, kind: type[Killed | Transient]) -> None:
        """Strike once, after so many steps of this task; what ends earlier is spared."""
        self._chosen.set(_Blow(steps, kind))

    def choose_nothing(self) -> None:
        """Strike nothing in this task."""
        self._chosen.set(None)

    def step(self) -> None:
        """Go one step further. Raises what was chosen when its time has come."""
        if (chosen := self._chosen.get()) is None:
            return
        chosen.steps_left -= 1
        if chosen.steps_left == -1:
            raise chosen.kind("struck by the simulation")


class FatedDatabase(Database):
    """The product's own pool, each of whose steps is one of Fate's."""

    def __init__(self, url: str, fate: Fate) -> None:
        super().__init__(url, max_connections=4)
        self.fate = fate

    @asynccontextmanager
    async def session(self, *, acquire_timeout_s: float = 5.0) -> AsyncIterator[Session]:
        """Borrow a connection; the step after its end is the one of a commit whose answer nobody hears."""
        async with super().session(acquire_timeout_s=acquire_timeout_s) as session:
            yield cast("Session", _FatedSession(session, self.fate))
        self.fate.step()


class _FatedSession:
    def __init__(self, session: Session, fate: Fate) -> None:
        self._session = session
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._session, name)
        return self._fated(attribute) if name in _STATEMENTS else attribute

    def _fated(self, statement: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def run(*args: Any, **kwargs: Any) -> Any:
            self._fate.step()
            answer = await statement(*args, **kwargs)
            self._fate.step()
            return answer

        return run
