"""Pages of the management API's listings: where one ends, as a text that nobody can read or make up."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any, Generic, Protocol, TypeVar

import orjson

from eventsync.crypto import Keyring
from eventsync.domain.errors import Misconfigured
from eventsync.web.api_calls import Call
from eventsync.web.api_errors import ApiError


class _Listed(Protocol):
    @property
    def cursor(self) -> Any: ...


Item = TypeVar("Item", bound=_Listed)
Position = TypeVar("Position")


class Cursors(Generic[Position]):
    """One listing's cursors, sealed: they stand in URLs, and a page of patients ends with a patient's name.

    A position is a dataclass of texts, UUIDs and times; `read_position` makes it again from their texts. A cursor opens
    only for the listing and the organization that it was made for.
    """

    def __init__(self, keyring: Keyring, listing: str, read_position: Callable[[Sequence[str]], Position]) -> None:
        self._keyring = keyring
        self._listing = listing
        self._read_position = read_position

    def after(self, call: Call) -> Position | None:
        """Tell where the page that was asked for begins; None for the first. Raises ApiError."""
        if call["cursor"] is None:
            return None
        try:
            sealed = base64.urlsafe_b64decode(call["cursor"])
            return self._read_position(orjson.loads(self._keyring.open(sealed, self._context(call))))
        except (ValueError, Misconfigured):
            message = "cursor is not one of this listing's: begin without one, then send the `next_cursor` as it is"
            raise ApiError(400, "invalid_cursor", message) from None

    def page(self, call: Call, found: Sequence[Item]) -> tuple[tuple[Item, ...], str | None]:
        """Cut what was found (one more than asked for, where there is more) into a page and its next cursor."""
        items = tuple(found[: call["limit"]])
        return items, self._write(call, items[-1].cursor) if len(found) > len(items) else None

    def _write(self, call: Call, position: Any) -> str:
        texts = orjson.dumps([str(value) for value in astuple(position)])
        return base64.urlsafe_b64encode(self._keyring.seal(texts, self._context(call))).decode()

    def _context(self, call: Call) -> str:
        return f"cursor:{self._listing}:{call.caller.organization_id}"
