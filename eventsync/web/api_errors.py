"""What goes wrong in the management API, with its HTTP status; every error becomes the one object that clients know."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

import structlog
from aiohttp import web

from eventsync.domain.clock import Clock
from eventsync.domain.errors import Misconfigured, Rejected, Transient
from eventsync.telemetry import origin_of
from eventsync.web.answers import error_answer

_RETRY_S = 5.0
_log = structlog.get_logger(__name__)


class ApiError(Exception):
    """A call that is answered with an error. `message` says what to do and quotes nothing of the request.

    `members` are what the error's object holds beside those that every error has.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after_s: float | None = None,
        members: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
        self.members = members


def answer_of(error: Exception, clock: Clock) -> web.Response:
    """Answer an error. The texts of those that nobody raised on purpose are kept back: they could quote a row."""
    told = _told(error)
    answer = error_answer(
        told.status, told.code, told.message, clock(), retry_after_s=told.retry_after_s, members=told.members
    )
    if told.status == HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, web.HTTPMethodNotAllowed):
        answer.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    return answer


def _told(error: Exception) -> ApiError:
    match error:
        case ApiError():
            return error
        case Rejected():
            return ApiError(400, error.reason, str(error))
        case Transient():
            retry_after_s = _RETRY_S if error.retry_after_s is None else error.retry_after_s
            return ApiError(503, "temporarily_unavailable", f"{error}: try again later", retry_after_s=retry_after_s)
        case web.HTTPException():
            status = HTTPStatus(error.status)
            return ApiError(error.status, status.name.lower(), f"{status.phrase}: see /api/openapi.json")
        case Misconfigured():
            _log.error("request_failed", error=str(error))
            return ApiError(500, "misconfigured", "eventsync is misconfigured: its log and `eventsync check` say how")
        case _:
            _log.error("request_failed", exception=type(error).__name__, where=origin_of(error))
            return ApiError(500, "internal_error", "an error of eventsync's own: see its log")
