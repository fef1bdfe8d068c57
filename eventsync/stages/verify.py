"""Decides at the door whether a request may come in: by its token, and what its connection asks for beyond that."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import Protocol

import structlog

from eventsync.domain.clock import Clock
from eventsync.domain.connections import WebhookVerifier
from eventsync.domain.errors import EventsyncError, Transient
from eventsync.postgres.listener import Channel, Listener
from eventsync.vendorkit.signing import verify

_log = structlog.get_logger(__name__)
_REFRESH_INTERVAL_S = 30.0
_STALE_RETRY_S = 1.0


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
    headers: Mapping[str, str]
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
    if verifier.hmac is not None and not verify(verifier.hmac, request.headers, request.body):
        return Refusal.WRONG_SIGNATURE
    return None


class VerifierBook:
    """The verifiers in memory: refreshed at once when one changes, remembered by the spool."""

    name = "verifiers"

    def __init__(self, store: VerifierStore, memory: VerifierMemory, listener: Listener, clock: Clock) -> None:
        self._store = store
        self._memory = memory
        self._signal = listener.signal(Channel.CONFIGURATION)
        self._clock = clock
        self._known: dict[bytes, WebhookVerifier] = {}
        self._lookups = asyncio.Semaphore(4)
        self.is_current = False

    async def run(self) -> None:
        """Keep the book true for ever; never raises for a database that is away."""
        self._take(await self._memory.verifiers())
        while True:
            await self.refresh()
            await self._signal.wait(_REFRESH_INTERVAL_S if self.is_current else _STALE_RETRY_S)

    async def refresh(self) -> None:
        """Read all verifiers from PostgreSQL; the last known ones stay while it is away."""
        try:
            verifiers = await self._store.load_verifiers(self._clock())
        except Transient:
            self.is_current = False
            return
        before = self._known
        self._take(verifiers)
        self.is_current = True
        if self._known != before:
            try:
                await self._memory.remember_verifiers(verifiers)
            except EventsyncError as error:
                _log.warning("verifiers_not_remembered", error=str(error))

    async def find(self, token_hash: bytes) -> WebhookVerifier | None:
        """Look a token up, in PostgreSQL where the book lacks it (it may be seconds old). Raises Transient."""
        known = self._known.get(token_hash)
        if known is not None:
            return known
        if self._lookups.locked():
            raise TooManyUnknown("too many requests with unknown tokens", retry_after_s=1.0)
        async with self._lookups:
            found = await self._store.find_verifier(token_hash, self._clock())
        if found is not None:
            self._known[token_hash] = found
        return found

    def _take(self, verifiers: Sequence[WebhookVerifier]) -> None:
        self._known = {verifier.token_hash: verifier for verifier in verifiers}


class TooManyUnknown(EventsyncError):
    """Callers without a valid token ask faster than we look their tokens up; valid callers never see this."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def _is_allowed(remote_address: str | None, networks: Sequence[str]) -> bool:
    if remote_address is None:
        return False
    try:
        address = ip_address(remote_address)
    except ValueError:
        return False
    return any(address in ip_network(network) for network in networks)
