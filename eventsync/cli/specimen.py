"""A vendor's webhook with invented data, correctly formed: a sample of the vendor's with fresh ids and times. Pure.

The record's and the client's ids are such as the vendor does not give, so that no real record is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from typing import Any
from uuid import UUID
from zlib import crc32

import click
import orjson

_RECORDS = ("Appointment", "Invoice")  # the members that hold a whole record
_RECORD_IDS = ("IntakeId", "NoteId")  # the members that only name one
_CLIENT_IDS = ("ClientId", "ClientIdNumber")
_FIRST_INVENTED_CLIENT = 990_000_000
_INVENTED_CLIENTS = 10_000_000
_SHORT_ID_CHARS = 24  # IntakeQ's ids are 24 hexadecimal digits, or a GUID


@dataclass(frozen=True, slots=True)
class Specimen:
    """A webhook ready to be sent: `record_id` is the record that it is about."""

    event_type: str
    record_id: str
    body: bytes = field(repr=False)


def event_types(vendor: str) -> Mapping[str, dict[str, Any]]:
    """Find the vendor's sample webhooks by the name of their event, the first of each."""
    found: dict[str, dict[str, Any]] = {}
    folder = resources.files("eventsync.vendors").joinpath(vendor, "samples")
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        sample = orjson.loads(entry.read_bytes()) if entry.name.endswith(".json") else None
        if isinstance(sample, dict) and isinstance(name := sample.get("EventType") or sample.get("Type"), str):
            found.setdefault(name, sample)
    return found


def specimen(
    vendor: str, event_type: str, *, nonce: UUID, now: datetime, record_id: str | None, practice_id: str | None
) -> Specimen:
    """Make a webhook. `nonce` gives its ids, `record_id` names a record of an earlier one instead.

    Raises click.BadParameter for an event that the vendor has no sample of.
    """
    samples = event_types(vendor)
    if event_type not in samples:
        raise click.BadParameter(f"choose one of {', '.join(sorted(samples))}", param_hint="--event")
    sample = samples[event_type]
    if practice_id is not None and "PracticeId" in sample:
        sample["PracticeId"] = practice_id
    record, name = _record_of(sample)
    record[name] = record_id or _like(str(record[name]), nonce)
    client = _invented_client(record[name])
    if "LastModified" in record:
        record["LastModified"] = int(now.timestamp() * 1000)
    for holder in (sample, record):
        for member in _CLIENT_IDS:
            if isinstance(holder.get(member), int):
                holder[member] = client
    return Specimen(event_type, str(record[name]), orjson.dumps(sample))


def _record_of(sample: dict[str, Any]) -> tuple[dict[str, Any], str]:
    for member in _RECORDS:
        if isinstance(record := sample.get(member), dict):
            return record, "Id"
    return sample, next(member for member in _RECORD_IDS if member in sample)


def _like(sample_id: str, nonce: UUID) -> str:
    return nonce.hex[:_SHORT_ID_CHARS] if len(sample_id) == _SHORT_ID_CHARS else str(nonce)


def _invented_client(record_id: str) -> int:
    """Give every event about one record the same client."""
    return _FIRST_INVENTED_CLIENT + crc32(record_id.encode()) % _INVENTED_CLIENTS
