"""Reads the arguments of an action or a control request, with errors that say what was expected."""

from collections.abc import Mapping
from typing import Any

from eventsync.sandbox.errors import BadArgumentError


class Arguments:
    """A JSON object whose members are read by type; `finish` refuses what nobody read."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values = dict(values or {})
        self._read: set[str] = set()

    def text(self, name: str) -> str | None:
        """A string, or None when absent."""
        value = self._get(name)
        if value is not None and not isinstance(value, str):
            raise BadArgumentError(f"{name} must be a string")
        return value

    def whole(self, name: str) -> int | None:
        """An integer, or None when absent."""
        value = self._get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise BadArgumentError(f"{name} must be a whole number")
        return value

    def past_ms(self, name: str, now_ms: int) -> int:
        """A time in Unix milliseconds that is not to come, `now_ms` when absent."""
        value = self.whole(name)
        if value is not None and value > now_ms:
            raise BadArgumentError(f"{name} must not lie ahead of the sandbox's time, {now_ms}")
        return now_ms if value is None else value

    def number(self, name: str) -> float | None:
        """A number, or None when absent."""
        value = self._get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise BadArgumentError(f"{name} must be a number")
        return value

    def flag(self, name: str) -> bool | None:
        """True or false, or None when absent."""
        value = self._get(name)
        if value is not None and not isinstance(value, bool):
            raise BadArgumentError(f"{name} must be true or false")
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        """One of the allowed strings, or None when absent."""
        value = self.text(name)
        if value is not None and value not in allowed:
            raise BadArgumentError(f"{name} must be one of {', '.join(allowed)}")
        return value

    def mapping(self, name: str) -> dict[str, Any] | None:
        """An object, or None when absent."""
        value = self._get(name)
        if value is not None and not isinstance(value, dict):
            raise BadArgumentError(f"{name} must be an object")
        return value

    def texts(self, name: str) -> list[str] | None:
        """A list of strings, or None when absent."""
        value = self._get(name)
        if value is not None and not (isinstance(value, list) and all(isinstance(x, str) for x in value)):
            raise BadArgumentError(f"{name} must be a list of strings")
        return value

    def finish(self) -> None:
        """Refuse members that were not read: a misspelt setting must not pass in silence."""
        unknown = sorted(set(self._values) - self._read)
        if unknown:
            known = ", ".join(sorted(self._read)) or "none"
            raise BadArgumentError(f"unknown members {unknown}; known here: {known}")

    def _get(self, name: str) -> Any:
        self._read.add(name)
        return self._values.get(name)
