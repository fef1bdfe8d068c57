"""The management API's vocabulary: an endpoint as data, its parameters, and one call of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from multidict import MultiMapping

from eventsync.postgres.access import Role
from eventsync.web.api_errors import ApiError
from eventsync.web.auth import Caller

EVERY_ROLE = frozenset(Role)
CHANGING_ROLES = frozenset({Role.ADMIN, Role.OPERATOR})


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the path, or a name in the query.

    `read` turns its text into a value and raises ValueError that says what was expected, without quoting. `schema` is
    the JSON schema of the text, with an example.
    """

    name: str
    description: str
    read: Callable[[str], Any]
    schema: Mapping[str, Any]
    default: Any = None
    in_path: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON object that may be sent along; none is read as an empty one.

    `read` turns it into a value and raises ValueError that says what was expected, without quoting. `schema` is its
    JSON schema, with examples.
    """

    description: str
    read: Callable[[Mapping[str, Any]], Any]
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was read: `arguments` holds every parameter of its endpoint, given or not; `body` what it read."""

    caller: Caller
    arguments: Mapping[str, Any] = field(repr=False)
    body: Any = field(default=None, repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call is answered where its status is not 200."""

    status: int
    body: object


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint. `handle` answers an `answers` (a dataclass, or `dict` for JSON of its own shape).

    `also_answers` are the types of its other answers that are no errors, by status: given as `Answer`. Where
    `takes_cron_secret`, whoever knows CRON_SECRET calls it as an admin.
    """

    method: str
    path: str
    handle: Callable[[Call], Awaitable[object]]
    answers: type
    summary: str
    parameters: tuple[Parameter, ...] = ()
    roles: frozenset[Role] = EVERY_ROLE
    errors: Mapping[int, str] = field(default_factory=dict)
    body: Body | None = None
    also_answers: Mapping[int, type] = field(default_factory=dict)
    takes_cron_secret: bool = False

    def read(self, path: Mapping[str, str], query: MultiMapping[str]) -> dict[str, Any]:
        """Read the parameters.

        Raises ApiError: a name in the query that this endpoint does not know would otherwise be a filter (or a
        dry_run) that silently does nothing.
        """
        known = {parameter.name for parameter in self.parameters if not parameter.in_path}
        if set(query) - known:
            names = ", ".join(sorted(known)) or "none"
            raise ApiError(
                400, "unknown_parameter", f"the query has a parameter that is not known here; known: {names}"
            )
        return {parameter.name: _read(parameter, path, query) for parameter in self.parameters}


def _read(parameter: Parameter, path: Mapping[str, str], query: MultiMapping[str]) -> Any:
    given = [path[parameter.name]] if parameter.in_path else query.getall(parameter.name, [])
    if len(given) > 1:
        raise ApiError(400, "repeated_parameter", f"{parameter.name} is given more than once")
    if not given:
        return parameter.default
    try:
        return parameter.read(given[0])
    except ValueError as error:
        raise ApiError(400, "invalid_parameter", f"{parameter.name} is not {error}") from None
