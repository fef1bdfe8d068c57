"""Decides at the door whether a request may come in: by its token, and what its connection asks for beyond that."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Protocol

import structlog

from eventsync.domain.clock import Clock
from eventsync.domain.connections import WebhookVerifier
from eventsync.domain.errors import EventsyncError, Transient
from eventsync.postgres.listener import Channel, Listener
from eventsync.stages.incoming import Headers, single_valued
from eventsync.stages.patience import Patience
from eventsync.vendorkit.signing import verify

_log = structlog.get_logger(__name__)
_REFRESH_INTERVAL_S = 30.0
_STALE_RETRY_S = 1.0
_LOOKUPS_AT_ONCE = 4  # strangers ask with tokens of their own making; they must not take the whole pool


class VerifierStore(Protocol):
    """Where the verifiers are kept: PostgreSQL."""

    async def load_verifiers(self, now: datetime) -> Sequence[WebhookVerifier]:
        """List all that are valid now. Raises Transient."""

    async def find_verifier(self, token_hash: bytes, now: datetime) -> WebhookVerifier | None:
        """Look one up. Raises Transient."""


class VerifierMemory(Protocol):
    """What remembers the last set of verifiers across a restart: the spool."""

    async def remember_verifiers(self, verifiers: Sequence[WebhookVerifier]) -> None:
        """Keep the set."""

    async def verifiers(self) -> Sequence[WebhookVerifier]:
        """Give the last set kept."""


class Refusal(StrEnum):
    """Why a request with a known or unknown token is turned away."""

    UNKNOWN_TOKEN = "unknown_token"  # noqa: S105  # a reason, not a secret
    EXPIRED_TOKEN = "expired_token"  # noqa: S105  # a reason, not a secret
    WRONG_VENDOR = "wrong_vendor"
    WRONG_SIGNATURE = "wrong_signature"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"


@dataclass(frozen=True, slots=True)
class Request:
    """What is judged: `remote_address` is the caller's, as far as trusted proxies tell it."""

    vendor: str
    token_hash: bytes
    headers: Headers
    body: bytes
    remote_address: str | None


def judge(verifier: WebhookVerifier | None, request: Request, now: datetime) -> Refusal | None:
    """Say why the request may not come in; None lets it in."""
    if verifier is None:
        return Refusal.UNKNOWN_TOKEN
    if verifier.expires_at is not None and verifier.expires_at <= now:
        return Refusal.EXPIRED_TOKEN
    if verifier.vendor != request.vendor:
        return Refusal.WRONG_VENDOR
    if verifier.allowed_networks and not _is_allowed(request.remote_address, verifier.allowed_networks):
        return Refusal.ADDRESS_NOT_ALLOWED
    if verifier.hmac is not None and not verify(verifier.hmac, single_valued(request.headers), request.body):
        return Refusal.WRONG_SIGNATURE
    return None


class VerifierBook:
    """The verifiers in memory: refreshed at once when one changes, remembered by the spool."""

    name = "verifiers"

    def __init__(
        self,
        store: VerifierStore,
        memory: VerifierMemory,
        listener: Listener,
        clock: Clock,
        *,
        lookup_timeout_s: float = 2.0,
    ) -> None:
        self._store = store
        self._memory = memory
        self._signal = listener.signal(Channel.CONFIGURATION)
        self._clock = clock
        self._known: dict[bytes, WebhookVerifier] = {}
        self._patience = Patience(lookup_timeout_s)
        self._slots = asyncio.Semaphore(_LOOKUPS_AT_ONCE)
        self._lookups: dict[bytes, asyncio.Task[WebhookVerifier | None]] = {}
        self.is_current = False

    async def run(self) -> None:
        """Keep the book true for ever; never raises for a database that is away."""
        try:
            if not self._known:
                self._take(await self._memory.verifiers())
            while True:
                await self.refresh()
                await self._signal.wait(_REFRESH_INTERVAL_S if self.is_current else _STALE_RETRY_S)
        finally:
            if self._lookups:
                await asyncio.wait(self._lookups.values())  # they end by their own time limit
            await self._patience.close()

    async def refresh(self) -> None:
        """Read all verifiers from PostgreSQL; the last known ones stay while it is away."""
        try:
            verifiers = await self._patience.wait_for(self._store.load_verifiers(self._clock()))
        except (Transient, TimeoutError):
            self.is_current = False
            return
        self._take(verifiers)
        self.is_current = True
        try:
            await self._memory.remember_verifiers(verifiers)
        except EventsyncError as error:
            _log.warning("verifiers_not_remembered", error=str(error))

    async def find(self, token_hash: bytes) -> WebhookVerifier | None:
        """Look a token up, in PostgreSQL where the book lacks it; None where it is valid nowhere.

        Requests with the same token share one look-up. Raises an EventsyncError when nobody can tell now.
        """
        known = self._known.get(token_hash)
        if known is not None:
            return known
        lookup = self._lookups.get(token_hash)
        if lookup is None:
            lookup = self._lookups[token_hash] = asyncio.create_task(self._look_up(token_hash))
            lookup.add_done_callback(functools.partial(self._looked_up, token_hash))
        return await asyncio.shield(lookup)  # a caller who goes away takes nobody's answer along

    async def _look_up(self, token_hash: bytes) -> WebhookVerifier | None:
        try:
            found = await self._patience.wait_for(self._find_in_turn(token_hash))
        except TimeoutError:
            raise Transient("PostgreSQL does not answer") from None
        except EventsyncError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the token is not known to be wrong
            raise Transient(f"the token cannot be looked up ({type(error).__name__})") from None
        if found is not None:
            self._known = {**self._known, token_hash: found}
            self._signal.ring()  # the book is behind: let it be read, and remembered, at once
        return found

    def _looked_up(self, token_hash: bytes, lookup: asyncio.Task[WebhookVerifier | None]) -> None:
        del self._lookups[token_hash]
        if not lookup.cancelled():
            lookup.exception()  # all who waited may have gone

    async def _find_in_turn(self, token_hash: bytes) -> WebhookVerifier | None:
        async with self._slots:
            return await self._store.find_verifier(token_hash, self._clock())

    def _take(self, verifiers: Sequence[WebhookVerifier]) -> None:
        self._known = {verifier.token_hash: verifier for verifier in verifiers}


class StrangerLimit:
    """How many callers without a valid token get a full answer: `burst` at once, then `per_s` a second."""

    def __init__(self, clock: Clock, *, per_s: float = 10.0, burst: int = 50) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._left = float(burst)
        self._counted_at = clock()

    def is_exceeded(self) -> bool:
        """Count one such caller, and tell whether there are too many."""
        now = self._clock()
        passed_s = max(0.0, (now - self._counted_at).total_seconds())  # the machine's clock may be set back
        self._counted_at = now
        self._left = min(self._burst, self._left + passed_s * self._per_s)
        if self._left < 1:
            return True
        self._left -= 1
        return False


def plain_address(text: str | None) -> IPv4Address | IPv6Address | None:
    """Read an address as peers and proxies write it: in brackets, with a port, or as IPv4 within IPv6."""
    if text is None:
        return None
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_allowed(remote_address: str | None, networks: Sequence[str]) -> bool:
    address = plain_address(remote_address)
    return address is not None and any(address in ip_network(network) for network in networks)
