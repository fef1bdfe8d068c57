"""How the control API reads requests and writes answers, whatever they are about."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson
from aiohttp import web

from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.errors import BadArgumentError, NotPossibleError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LINES_PER_CHUNK = 200
_JSON_LINES = "application/x-ndjson"


def json_answer(value: Any, status: int = 200) -> web.Response:
    """A JSON value."""
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


async def json_lines(request: web.Request, values: Iterable[dict[str, Any]]) -> web.StreamResponse:
    """One JSON object a line, written as they come."""
    response = web.StreamResponse(headers={"Content-Type": _JSON_LINES})
    await response.prepare(request)
    chunk: list[bytes] = []
    for value in values:
        chunk.append(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
        if len(chunk) == _LINES_PER_CHUNK:
            await response.write(b"".join(chunk))
            chunk.clear()
    await response.write(b"".join(chunk))
    await response.write_eof()
    return response


async def read_arguments(request: web.Request) -> Arguments:
    """The members of the body's JSON object; none for an empty body."""
    content = await request.read()
    try:
        value = orjson.loads(content) if content.strip() else {}
    except orjson.JSONDecodeError as error:
        raise BadArgumentError("the body must be JSON") from error
    if not isinstance(value, dict):
        raise BadArgumentError("the body must be a JSON object")
    return Arguments(value)


def whole_query(request: web.Request, name: str) -> int:
    """A whole number of the query, 0 when absent; raises BadArgumentError for anything else."""
    value = request.query.get(name, "0")
    if not value.isdecimal():
        raise BadArgumentError(f"{name} must be a whole number")
    return int(value)


@web.middleware
async def say_what_is_wrong(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 400 to what is badly put and 409 to what cannot be done now, with `{"error": …}`."""
    try:
        return await handler(request)
    except (BadArgumentError, ValueError) as error:
        return json_answer({"error": str(error)}, 400)
    except (NotPossibleError, LookupError) as error:
        return json_answer({"error": str(error)}, 409)
