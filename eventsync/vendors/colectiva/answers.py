"""What Colectiva's answers mean for the queue (pure): taken, refused for good, try again, later, or mend the account.

Colectiva's server is not public. Known are 401 (a bad or expired key), 400 (a bad payload or organization id) and the
`ecosystem_org_id` of a success; the rest follows HTTP's own meaning. That 409 says "is there already" is assumed.

Colectiva's API speaks JSON. A page for people was written by a proxy on the way or stands at a wrong address: unless
its status alone says enough (401, 403, 404, 405, 409, 429, redirects), it neither takes nor refuses an item for good.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from eventsync.domain.deliveries import Accepted, Answer, Deferred, Failed, Halted, Refused
from eventsync.domain.errors import Rejected
from eventsync.domain.fields import MAX_ID_CHARS, Fields
from eventsync.domain.payloads import parse_json
from eventsync.vendorkit.http import PostAnswer, is_html
from eventsync.vendors.colectiva.words import words_of

_ACCOUNT_STATUSES = frozenset(
    {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
)
_UNREADABLE = object()


def meaning_of(answer: PostAnswer, *, secret: str, connection_number: int) -> Answer:
    """Say what becomes of the item. `secret` is the API key, to be kept out of the words that are quoted.

    A Halted and a Deferred quote nothing, since they are told in logs and alarms.
    """
    status = answer.status
    match status:
        case HTTPStatus.CONFLICT:
            return Accepted(_remote_org_id(_json_of(answer)), status)
        case HTTPStatus.TOO_MANY_REQUESTS:
            return Deferred(f"Colectiva's call limit is reached (HTTP {status}).", status, answer.retry_after_s)
        case _ if status in _ACCOUNT_STATUSES or 300 <= status < 400:
            return Halted(_what_to_mend(status, connection_number), status)
        case _ if 200 <= status < 300:
            return _success(answer, secret)
        case _ if 400 <= status < 500 and status != HTTPStatus.REQUEST_TIMEOUT:
            return _refusal(answer, secret)
        case _:
            message = _quoting(f"Colectiva failed (HTTP {status})", answer, secret)
            return Failed(message, status, answer.retry_after_s)


def _success(answer: PostAnswer, secret: str) -> Answer:
    """Believe a success that is JSON and does not say `success: false`; a page for people is none of Colectiva's."""
    if answer.status == HTTPStatus.NO_CONTENT:
        return Accepted(None, answer.status)
    value = _json_of(answer)
    if value is _UNREADABLE:
        message = _quoting(f"The answer is not Colectiva's JSON (HTTP {answer.status})", answer, secret)
        return Failed(message, answer.status)
    if isinstance(value, dict) and value.get("success") is False:
        return Failed(_quoting(f"Colectiva did not take it (HTTP {answer.status})", answer, secret), answer.status)
    return Accepted(_remote_org_id(value), answer.status)


def _refusal(answer: PostAnswer, secret: str) -> Answer:
    if is_html(answer.body):
        message = _quoting(f"A page came in place of Colectiva's answer (HTTP {answer.status})", answer, secret)
        return Failed(message, answer.status, answer.retry_after_s)
    return Refused(_quoting(f"Colectiva refused it (HTTP {answer.status})", answer, secret), answer.status)


def _json_of(answer: PostAnswer) -> Any:
    if not answer.is_whole:
        return _UNREADABLE
    try:
        return parse_json(answer.body)
    except Rejected:
        return _UNREADABLE


def _remote_org_id(value: Any) -> str | None:
    """Read the organization's id at Colectiva; one that cannot be an id is left, since the item was taken."""
    if not isinstance(value, dict):
        return None
    try:
        return Fields("answer", value).text("ecosystem_org_id", MAX_ID_CHARS)
    except Rejected:
        return None


def _quoting(what: str, answer: PostAnswer, secret: str) -> str:
    words = words_of(answer.body, secret=secret)
    return f"{what}: {words}" if words else f"{what}."


def _what_to_mend(status: int, connection_number: int) -> str:
    update = f"`eventsync connections update {connection_number}"
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return (
                f"Colectiva refused the API key (HTTP {status}), which is wrong or has expired: give the connection a "
                f"current one with {update} --api-key -`."
            )
        case HTTPStatus.FORBIDDEN:
            return (
                f"Colectiva does not let this API key write (HTTP {status}): give the key the permission "
                f"ecosystem:write at Colectiva, or another key to the connection with {update} --api-key -`."
            )
        case _:
            return (
                f"There is no Colectiva at the connection's base URL (HTTP {status}): correct it with "
                f"{update} --base-url https://…`."
            )
