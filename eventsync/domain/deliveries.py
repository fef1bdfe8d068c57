"""What is sent to another system, and what its answers mean for the queue: the words of the outbound path.

An item of the outbound queue says what an organization looks like since its last change; delivering it is an upsert at
the other side, so that the last item is all that counts in the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from random import Random
from typing import Any, NewType
from uuid import UUID

ItemId = NewType("ItemId", UUID)

MAX_ATTEMPTS = 3
_FIRST_RETRY_S = 30.0
_RETRY_GROWTH = 4.0
_JITTER = 0.5  # of the wait, to either side


class Action(StrEnum):
    """Why an item was queued; what is sent differs only in whether the organization is active."""

    REGISTER = "register"
    UPDATE = "update"
    DEACTIVATE = "deactivate"


class ItemStatus(StrEnum):
    """Where an item stands: pending → processing → success | failed; a person may put any of them back to pending."""

    PENDING = "pending"
    PROCESSING = "processing"
    SUCCESS = "success"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class OutboundItem:
    """One item as it is to be sent. `payload` is the row's, as its trigger or a person wrote it.

    The other side may have seen an earlier attempt of it, which had the same `idempotency_key`.
    """

    id: ItemId
    entity_type: str
    ecosystem_org_id: str
    action: Action
    payload: Mapping[str, Any] = field(repr=False)
    idempotency_key: UUID


@dataclass(frozen=True, slots=True)
class Accepted:
    """The other side has it. `remote_org_id` is the organization's id there, None where the answer tells none."""

    remote_org_id: str | None
    http_status: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The other side will never take this item; `message` holds its words."""

    message: str
    http_status: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed, or nobody knows what became of it: try again, under the same key.

    `retry_after_s` is the other side's wish for all that we send, None where it said nothing.
    """

    message: str
    http_status: int | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Deferred:
    """The item was not even looked at: its attempt does not count, and nothing else is sent for `retry_after_s`.

    None where nobody knows how long that will be, as when the other side cannot be reached.
    """

    message: str
    http_status: int | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Halted:
    """The account or its address is wrong: a person must mend it, and until a probe works nothing else is sent."""

    message: str
    http_status: int | None = None


Answer = Accepted | Refused | Failed | Deferred | Halted


@dataclass(frozen=True, slots=True)
class OutboundMeasure:
    """How the queue stands. `waiting_since` is the oldest unfinished item's; `paused_*` are set while it is halted."""

    counts: Mapping[ItemStatus, int]
    waiting_since: datetime | None
    paused_at: datetime | None = None
    paused_reason: str | None = None


def retry_wait(attempts: int, random: Random, retry_after_s: float | None = None) -> timedelta:
    """Tell how long to wait after so many attempts (1, 2, …): longer each time, spread, never less than was asked."""
    wait_s = _FIRST_RETRY_S * _RETRY_GROWTH ** (attempts - 1)
    spread_s = wait_s * random.uniform(1 - _JITTER, 1 + _JITTER)
    return timedelta(seconds=max(spread_s, retry_after_s or 0.0))
