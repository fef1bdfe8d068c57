"""Many rows as one JSON argument, for statements that unfold it with jsonb_to_recordset."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from uuid import UUID

import orjson


def json_rows(rows: Sequence[object]) -> str:
    """Write rows (mappings or dataclasses) as a JSON array; bytes become bytea's hexadecimal form."""
    return orjson.dumps(rows, default=_value).decode()


def _value(value: object) -> str:
    if isinstance(value, UUID):  # the driver's own subclass, which orjson does not take for one
        return str(value)
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not a column's value")
