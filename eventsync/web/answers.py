"""The answers' shapes: JSON, and one object for every error, whatever went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

import orjson
from aiohttp import web


def json_answer(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Answer `body` as JSON."""
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json", headers=headers)


def error_answer(
    status: int,
    code: str,
    message: str,
    now: datetime,
    *,
    retry_after_s: float | None = None,
    members: Mapping[str, str] = MappingProxyType({}),
) -> web.Response:
    """Answer an error as every client of ours knows it; `message` says what to do and quotes nothing of the request.

    `members` stand in the object beside those that every error has.
    """
    retry_after = None if retry_after_s is None else max(1, round(retry_after_s))
    body: dict[str, Any] = {
        "success": False,
        "error": message,
        "details": {
            "error_type": code,
            "message": message,
            "retry_after": retry_after,
            "error_code": code.upper(),
        },
        "timestamp": now,
        **members,
    }
    headers = None if retry_after is None else {"Retry-After": str(retry_after)}
    return json_answer(body, status=status, headers=headers)
