"""Keeps a practice across restarts: one JSON file, replaced as a whole."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from eventsync.sandbox.errors import StateError

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class SavedState:
    """What was saved: the sandbox's time then, and the vendor's data."""

    now_ms: int
    data: dict[str, Any]


def encode_state(vendor: str, state: SavedState) -> bytes:
    """The file's content."""
    return orjson.dumps({"format": _FORMAT, "vendor": vendor, "now_ms": state.now_ms, "data": state.data})


def save_state(path: Path, content: bytes) -> None:
    """Replace the file atomically, so that a crash leaves the old or the new one. Blocks; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def load_state(path: Path, vendor: str) -> SavedState | None:
    """The saved state, None when there is none; raises StateError for a file that is not this vendor's."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        value = orjson.loads(content)
        known = value["format"] == _FORMAT and value["vendor"] == vendor
        state = SavedState(int(value["now_ms"]), dict(value["data"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} is no sandbox state; remove it to start anew") from error
    if not known:
        raise StateError(f"{path} belongs to another vendor or version; remove it to start anew")
    return state
