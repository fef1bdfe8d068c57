"""A change: what one event or one read says about one record, and how it is ordered against all others.

The order is total and never asks our clock alone, so that applying takes a maximum and any permutation,
duplication or delay of the same changes ends in the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from eventsync.domain.connections import ConnectionId
from eventsync.domain.records import AppointmentExtras, Content, RecordKind


class EntityRef(NamedTuple):
    """Which record: a vendor's id is unique within its connection and kind only.

    A tuple, as is Version: both are hashed, compared and sorted a dozen times an event.
    """

    connection_id: ConnectionId
    kind: RecordKind
    external_id: str


class Source(IntEnum):
    """Where a change was read; at the same vendor time the richer source wins."""

    WEBHOOK = 1
    API = 2


class Authority(IntEnum):
    """Which of the vendor's records speaks, where two of them carry the same fields."""

    MENTION = 0  # an appointment that names its client
    RECORD = 1  # the record itself


class Version(NamedTuple):
    """A change's place in the total order; the fields compare from the first to the last.

    `position` is the vendor's modification time in Unix milliseconds or, for kinds without one, a per-entity
    sequence number taken before the read. `read_began_ms` is 0 for a webhook: a delay on its way must not
    change its place. `mapping_version` lets a newer release's reading of the same content replace an older one.
    """

    authority: Authority
    position: int
    deleted: bool
    source: Source
    read_began_ms: int
    mapping_version: int
    content_hash: bytes

    def to_bytes(self) -> bytes:
        """Write the version so that bytes sort as versions do, for one column that PostgreSQL can compare."""
        numbers = (self.authority, self.position, self.deleted, self.source, self.read_began_ms, self.mapping_version)
        return _VERSION.pack(*numbers) + self.content_hash

    @classmethod
    def from_bytes(cls, packed: bytes) -> Version:
        """Read what `to_bytes` wrote."""
        authority, position, deleted, source, read_began_ms, mapping_version = _VERSION.unpack_from(packed)
        return cls(
            authority=Authority(authority),
            position=position,
            deleted=deleted,
            source=Source(source),
            read_began_ms=read_began_ms,
            mapping_version=mapping_version,
            content_hash=packed[_VERSION.size :],
        )


_VERSION = Struct(">BQ?BQI")  # big-endian and unsigned: the bytes sort as the numbers do


@dataclass(frozen=True, slots=True)
class Upsert:
    """The record looked like this at `version`. `extras` are given by the richest source only."""

    entity: EntityRef
    version: Version
    content: Content
    extras: AppointmentExtras | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """The vendor said explicitly that the record is gone; `content` is its last state where it was sent."""

    entity: EntityRef
    version: Version
    content: Content | None = None


@dataclass(frozen=True, slots=True)
class Absence:
    """One complete, error-free enumeration of [window_from, window_to) that began at `read_began_ms` lacked it.

    Weaker than a delete: it counts only where the record is older than the read by `margin_ms`, lies in the
    window, and was not seen by a later read.
    """

    entity: EntityRef
    read_began_ms: int
    window_from: datetime
    window_to: datetime
    margin_ms: int = 300_000


@dataclass(frozen=True, slots=True)
class Refetch:
    """The event only names the record; what it looks like must be read from the vendor's API."""

    entity: EntityRef


@dataclass(frozen=True, slots=True)
class Summary:
    """A record as a list names it that does not tell it whole; `at` is the time that it is about.

    A `fingerprint` (16 bytes) unlike the last one seen says that the record must be read again. `is_finished` is False
    for what its author has not handed in yet: it becomes a record with the event that says so.
    """

    entity: EntityRef
    status: str | None
    at: datetime | None
    is_finished: bool
    fingerprint: bytes


Change = Upsert | Delete | Absence | Refetch
RecordChange = Upsert | Delete | Absence
