"""What the next API calls get instead of their true answer, or live through on the way: bad days, call by call."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from eventsync.sandbox.errors import BadArgumentError

ANY_ROUTE = "*"

Hook: TypeAlias = Callable[[], Awaitable[object]]


class ApiAnswer(StrEnum):
    """What is answered instead of the truth."""

    STATUS = "status"  # `status` with a JSON message, and Retry-After where `retry_after_s` is given
    HTML = "html"  # a page for people, with `status` (200 is possible)
    EMPTY_LIST = "empty_list"  # 200 and no rows
    PREVIOUS_PAGE = "previous_page"  # once more what the route answered last with 200; the truth if that was nothing
    CUT = (
        "cut"  # the connection ends without an answer; aiohttp's client asks once more by itself: `times` 2 is noticed
    )
    CUT_MIDWAY = "cut_midway"  # the connection ends in the middle of the true answer
    LOST = "lost"  # the call is done as asked, then the connection ends without an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedCall:
    """Which call, counted from now among those that fit, is answered how; `times` None means from then on.

    `route` is as the vendor documents it below the API's prefix, such as "/appointments", "/clients" or
    "/appointments/{id}"; "*" is any. `method` is one such as "POST", None for any. `query` are parameters that the call
    must have, as text, without regard to their names' case; None means that it must not have the parameter
    ({"page": "2", "deletedOnly": None}).
    Calls with a wrong key or above the quota do not count. `before` runs before the true answer is made, `after` when
    it is made but not yet sent: what happens there is missing from the page, and on its way before the page is read.
    """

    route: str
    method: str | None = None
    call: int = 1
    times: int | None = 1
    query: Mapping[str, str | None] = field(default_factory=dict)
    answer: ApiAnswer | None = None
    status: int = 500
    retry_after_s: int | None = None
    before: Hook | None = None
    after: Hook | None = None

    def __post_init__(self) -> None:
        if self.call < 1 or (self.times is not None and self.times < 1):
            raise BadArgumentError("call and times count from 1; times None means from then on")
        if not 200 <= self.status <= 599:
            raise BadArgumentError("status must be an HTTP status from 200 to 599")
        if self.answer is None and self.before is None and self.after is None:
            raise BadArgumentError(f"give an answer ({', '.join(ApiAnswer)}), or something to do before or after it")

    def fits(self, method: str, route: str, query: Mapping[str, str]) -> bool:
        """Whether it is about such a call."""
        if self.route not in (ANY_ROUTE, route) or self.method not in (None, method):
            return False
        values = {name.lower(): value for name, value in query.items()}
        return all(values.get(name.lower()) == value for name, value in self.query.items())


@dataclass(slots=True)
class _Pending:
    call: ScriptedCall
    seen: int = 0

    @property
    def is_due(self) -> bool:
        return self.seen >= self.call.call

    @property
    def is_over(self) -> bool:
        return self.call.times is not None and self.seen >= self.call.call + self.call.times - 1


class ApiScript:
    """The calls to spoil, asked by the gate at every call; it may be changed at any time."""

    def __init__(self, routes: Sequence[str]) -> None:
        self._routes = tuple(routes)
        self._pending: list[_Pending] = []

    @property
    def pending(self) -> tuple[ScriptedCall, ...]:
        """What has not happened yet, or not as often as it should; empty when the script was played."""
        return tuple(pending.call for pending in self._pending)

    def add(self, call: ScriptedCall) -> ScriptedCall:
        """Put one more into the script. Raises BadArgumentError for a route that the vendor does not have."""
        if call.route not in (ANY_ROUTE, *self._routes):
            raise BadArgumentError(f"route must be one of {', '.join((ANY_ROUTE, *self._routes))}")
        self._pending.append(_Pending(call))
        return call

    def remove(self, call: ScriptedCall) -> None:
        """Take one out again, whether it was played or not."""
        self._pending = [pending for pending in self._pending if pending.call is not call]

    def clear(self) -> None:
        """Answer the truth from now on."""
        self._pending.clear()

    def play(self, method: str, route: str, query: Mapping[str, str]) -> tuple[ScriptedCall, ...]:
        """Count a call and name what is due at it: all hooks run, the first answer is given."""
        fitting = [pending for pending in self._pending if pending.call.fits(method, route, query)]
        for pending in fitting:
            pending.seen += 1
        self._pending = [pending for pending in self._pending if not pending.is_over]
        return tuple(pending.call for pending in fitting if pending.is_due)
