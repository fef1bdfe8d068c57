"""Calls to a vendor's HTTP API: each budgeted, bounded in time and size, its failures told apart as what to do next.

Stands between a vendor's client and aiohttp. No error holds a URL's query, a body or a key: those are patients' data
and secrets. For the same reason driver errors, whose texts hold URLs, are not chained.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import aiohttp
import backoff
import orjson

from eventsync.domain.errors import Misconfigured, Rejected, Transient
from eventsync.domain.payloads import parse_json
from eventsync.vendorkit.budget import Budget, Purpose

_WAITS_WITHOUT_RETRY_AFTER_S = (60.0, 120.0, 240.0, 300.0)  # shorter ones did not clear IntakeQ's bucket
_LONGEST_RETRY_AFTER_S = 86_400.0
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)
_CHUNK_BYTES = 65_536
# A host that no name can have, such as `a..b`, is found out when it is encoded.
_UNUSABLE_ADDRESS = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, UnicodeError)


class NotFound(Rejected):
    """The vendor has no such record: HTTP 404, and not with a page, as a wrong base URL or a maintenance gives."""

    def __init__(self) -> None:
        super().__init__("vendor_not_found", "The vendor has no record at this address (HTTP 404).")


class RateLimited(Transient):
    """The vendor answered HTTP 429: its call limit is reached for `retry_after_s` seconds."""


class NoSuchAddress(Misconfigured):
    """The connection's base URL can be no address."""


class NotSent(Transient):
    """No connection came about (name, route, TLS, time): the vendor has seen nothing of the request."""


class OutcomeUnknown(Transient):
    """The request was, or may have been, sent, and no answer came: only the vendor knows what became of it."""


@dataclass(frozen=True, slots=True)
class PostBounds:
    """How long and how large a POST may grow; `timeout_s` is for the whole exchange, connecting included."""

    connect_timeout_s: float = 5.0
    timeout_s: float = 15.0
    max_answer_bytes: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PostAnswer:
    """What the vendor answered to a POST, whatever its status.

    Where `is_whole` is False, `body` is only its beginning: it was too long or too slow, or the connection broke.
    `retry_after_s` is the vendor's wish, None where it states none; for a 429 it is how long the budget is closed.
    """

    status: int
    body: bytes = field(repr=False)
    is_whole: bool
    retry_after_s: float | None


@dataclass(slots=True)
class _Incoming:
    """An answer as far as it has come: what ends the exchange early leaves it as it is."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    is_whole: bool = False


class _Unavailable(Transient):
    """A failure that another try within the same call may well cure."""


_POST_BOUNDS = PostBounds()


class VendorHttp:
    """The HTTP of one connection to one vendor; it remembers how often in a row the vendor refused for its limit.

    A 429 that asks for at most `longest_refusal_s` is tried again within the same call, up to `tries` times. That is
    for a budget that waits (vendorkit/waiting), since the 429 has closed it; by default no 429 is tried again.
    A POST is never tried again here, and takes a connection of its own instead of one of `session`'s.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        budget: Budget,
        *,
        timeout_s: float = 30.0,
        max_response_bytes: int = 16 * 1024 * 1024,
        tries: int = 3,
        retry_base_s: float = 0.5,
        longest_refusal_s: float = 0.0,
        post_bounds: PostBounds = _POST_BOUNDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._session = session
        self._budget = budget
        self._timeout_s = timeout_s
        self._max_response_bytes = max_response_bytes
        self._tries = tries
        self._longest_refusal_s = longest_refusal_s
        self._post_bounds = post_bounds
        self._now = now
        self._refusals_in_a_row = 0
        retrying = backoff.on_exception(
            backoff.expo, _Unavailable, max_tries=tries, factor=retry_base_s, jitter=backoff.full_jitter, logger=None
        )
        self._get_with_retries = retrying(self._get_once)

    async def get_json(
        self, url: str, *, params: Mapping[str, str], headers: Mapping[str, str], purpose: Purpose
    ) -> Any:
        """GET `url` and parse its answer, whatever its Content-Type says.

        Raises Transient (BudgetSpent: limit reached here, RateLimited: at the vendor, no connection, timeout, 5xx, HTML
        or other non-JSON), NotFound, Rejected (other 4xx, an answer too large) or Misconfigured (401, 403, moved for
        good).
        """
        for _ in range(self._tries - 1):
            try:
                return await self._get_with_retries(url, params, headers, purpose)
            except RateLimited as refusal:
                if refusal.retry_after_s is None or refusal.retry_after_s > self._longest_refusal_s:
                    raise
        return await self._get_with_retries(url, params, headers, purpose)

    async def post_json(self, url: str, body: Any, *, headers: Mapping[str, str], purpose: Purpose) -> PostAnswer:
        """POST `body` as JSON, once: whether another try could do harm is the caller's business.

        A 429 closes the budget. Raises BudgetSpent or another Transient of the ledger (nothing was sent), NotSent,
        OutcomeUnknown, or Misconfigured where the URL is none.
        """
        data = orjson.dumps(body)
        async with self._reserved(purpose):
            incoming = await self._post_exchange(url, data, {**headers, "Content-Type": "application/json"})
        if incoming.status is None:
            raise OutcomeUnknown("The vendor's connection ended without an answer.")
        retry_after_s = _retry_after_s(incoming.headers, self._now())
        if incoming.status == HTTPStatus.TOO_MANY_REQUESTS:
            retry_after_s = self._refusal_s(incoming.headers)
            with suppress(Transient):  # the answer is known; without this note the next call meets another 429
                await self._budget.refused(retry_after_s)
        else:
            self._refusals_in_a_row = 0
        return PostAnswer(incoming.status, bytes(incoming.body), incoming.is_whole, retry_after_s)

    async def _get_once(self, url: str, params: Mapping[str, str], headers: Mapping[str, str], purpose: Purpose) -> Any:
        async with self._reserved(purpose):
            status, answer_headers, body = await self._exchange(url, params, headers)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            wait_s = self._refusal_s(answer_headers)
            await self._budget.refused(wait_s)
            raise RateLimited("The vendor's call limit is reached (HTTP 429).", retry_after_s=wait_s)
        self._refusals_in_a_row = 0
        if status == HTTPStatus.NOT_FOUND and is_html(body):
            raise Transient("The vendor answered HTTP 404 with a page for people: check the connection's base_url.")
        _raise_for_status(status, _retry_after_s(answer_headers, self._now()))
        return _parse(body)

    @asynccontextmanager
    async def _reserved(self, purpose: Purpose) -> AsyncIterator[None]:
        reservation = await self._budget.reserve(purpose)
        try:
            yield
        finally:
            with suppress(
                Transient
            ):  # the answer was paid for; without this note the call counts until it must have ended
                await self._budget.finish(reservation)

    async def _exchange(
        self, url: str, params: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        body = bytearray()
        try:
            # Redirects are not followed: they would carry the key in its header to wherever they point.
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.get(url, params=params, headers=headers, allow_redirects=False) as response,
            ):
                if not await _read_into(body, response, self._max_response_bytes):
                    raise Rejected("response_too_large", f"The answer is larger than {self._max_response_bytes} bytes.")
                return response.status, response.headers, bytes(body)
        except _UNUSABLE_ADDRESS:
            raise _not_an_address() from None
        except TimeoutError:
            raise _Unavailable(f"The vendor did not answer within {self._timeout_s:g} s.") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Unavailable(f"The vendor could not be reached ({type(error).__name__}).") from None

    async def _post_exchange(self, url: str, data: bytes, headers: Mapping[str, str]) -> _Incoming:
        """Send `data` and take in what is answered; an answer whose status came is kept however it ended."""
        bounds, incoming = self._post_bounds, _Incoming()
        try:
            async with (
                asyncio.timeout(bounds.timeout_s),
                _single_use_session(bounds.connect_timeout_s) as session,
                session.post(url, data=data, headers=headers, allow_redirects=False) as response,
            ):
                incoming.status, incoming.headers = response.status, response.headers
                incoming.is_whole = await _read_into(incoming.body, response, bounds.max_answer_bytes)
        except _UNUSABLE_ADDRESS:
            raise _not_an_address() from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSent(f"The vendor could not be reached ({type(error).__name__}): nothing was sent.") from None
        except TimeoutError:
            if incoming.status is None:
                raise OutcomeUnknown(f"The vendor did not answer within {bounds.timeout_s:g} s.") from None
        except (aiohttp.ClientError, OSError) as error:
            if incoming.status is None:
                raise OutcomeUnknown(f"The connection broke before an answer ({type(error).__name__}).") from None
        return incoming

    def _refusal_s(self, headers: Mapping[str, str]) -> float:
        """Tell how long a 429 lasts: as the vendor says or, where it says nothing, longer each time in a row."""
        step = min(self._refusals_in_a_row, len(_WAITS_WITHOUT_RETRY_AFTER_S) - 1)
        self._refusals_in_a_row += 1
        stated_s = _retry_after_s(headers, self._now())
        return _WAITS_WITHOUT_RETRY_AFTER_S[step] if stated_s is None else stated_s


def is_html(body: bytes) -> bool:
    """Tell a page for people, as proxies and maintenance give, from what programs answer."""
    return body.lstrip()[:1] == b"<"


def _single_use_session(connect_timeout_s: float) -> aiohttp.ClientSession:
    """Open a session for one call, which no kept-alive connection serves.

    The vendor may be closing such a connection just then, which would leave the outcome of a POST unknown. A header
    `Connection: close` alone does not see to it: aiohttp goes on using the connection if the vendor ignores it.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout_s),
    )


async def _read_into(body: bytearray, response: aiohttp.ClientResponse, max_bytes: int) -> bool:
    """Read the answer into `body`, up to `max_bytes`; False where it is longer than that."""
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            del body[max_bytes:]
            return False
    return True


def _not_an_address() -> NoSuchAddress:
    return NoSuchAddress("The connection's base URL is not a valid HTTP address: correct base_url.")


def _retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Read Retry-After (RFC 9110, 10.2.3): seconds or an HTTP date; None where missing or unreadable."""
    text = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        wait_s = float(text)
    else:
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return None
        wait_s = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds()
    return min(max(wait_s, 1.0), _LONGEST_RETRY_AFTER_S)


def _raise_for_status(status: int, retry_after_s: float | None) -> None:
    match status:
        case 401 | 403:
            raise Misconfigured(
                f"The vendor refused the connection's credentials (HTTP {status}): give the connection the account's "
                "current API key (api_key), and check that the vendor's address allow-list admits this machine."
            )
        case 404:
            raise NotFound
        case 301 | 308:
            raise Misconfigured(f"The vendor's API has moved (HTTP {status}): correct the connection's base_url.")
        case _ if status >= 500:
            if retry_after_s is not None:
                raise Transient(f"The vendor is unavailable (HTTP {status}).", retry_after_s=retry_after_s)
            raise _Unavailable(f"The vendor failed (HTTP {status}).")
        case _ if status >= 400:
            raise Rejected("vendor_refused", f"The vendor refused the request (HTTP {status}).")
        case _ if status >= 300:
            raise Transient(f"The vendor redirects (HTTP {status}), as during maintenance.")


def _parse(body: bytes) -> Any:
    if is_html(body):
        raise Transient("The vendor's answer is not JSON but HTML, as during maintenance.")
    try:
        return parse_json(body)
    except Rejected as error:
        raise Transient(f"The vendor's answer is not JSON ({error.reason}).") from None
