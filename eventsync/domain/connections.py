"""A connection: one account at one vendor, owned by one organization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

OrganizationId = NewType("OrganizationId", UUID)
ConnectionId = NewType("ConnectionId", UUID)


class SignatureEncoding(StrEnum):
    """How a signing gateway writes the digest into its header."""

    HEX = "hex"
    BASE64 = "base64"


@dataclass(frozen=True, slots=True)
class HmacCheck:
    """A signature over the raw bytes that every webhook of a connection must carry.

    `secrets` holds at least one; several during a rotation, and any of them will do.
    """

    header: str
    secrets: tuple[str, ...] = field(repr=False)
    encoding: SignatureEncoding = SignatureEncoding.HEX
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class WebhookVerifier:
    """All that the door needs to judge a request that carries a token: kept in memory and in the spool.

    `token_hash` is the token's SHA-256 (32 bytes). `allowed_networks` are CIDR texts; empty allows all.
    `expires_at` is set while a rotated token still overlaps with its successor.
    """

    token_hash: bytes
    connection_id: ConnectionId
    vendor: str
    hmac: HmacCheck | None = None
    allowed_networks: tuple[str, ...] = ()
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """One account at one vendor, with its opened credentials.

    `practice_id` is what webhooks of this account say they belong to. `settings` are the connection's own
    (limits, schedules); `calls_per_minute` and `calls_per_day` are the vendor's for this account, where a
    `calls_per_day` of None means that there is no daily cap.
    """

    id: ConnectionId
    number: int
    organization_id: OrganizationId
    vendor: str
    base_url: str
    api_key: str = field(repr=False)
    practice_id: str | None = None
    timezone: str = "UTC"
    calls_per_minute: int = 10
    calls_per_day: int | None = 500
    settings: Mapping[str, str] = field(default_factory=dict)
    disabled_at: datetime | None = None
