"""Reading the fields of a vendor's JSON object: each checked, each error naming the field and never its value.

Pure; mappings stand on it. Vendors write the same fact in several ways (a number as text, `""` for null, an id as
`{"Id": "98"}`), which must not make two readings of one truth differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from eventsync.domain.errors import Rejected

MAX_ID_CHARS = 200  # an index entry of PostgreSQL holds 2,700 bytes
MAX_NAME_CHARS = 500

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1)
_DAY_MS = 86_400_000
_MILLISECOND = timedelta(milliseconds=1)
_FIRST_YEAR, _LAST_YEAR = 1900, 2200
_EARLIEST_MS = (datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND
_LATEST_MS = (datetime(_LAST_YEAR + 1, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND - 1
_LARGEST_EXACT_FLOAT = 2.0**53
_LARGEST_AMOUNT = Decimal("9999999999.99")  # numeric(12, 2)
_CENT = Decimal("0.01")
_NUMBER = re.compile(r"[+-]?\d{1,30}(\.\d{1,30})?", re.ASCII)
_TRUTHS: dict[object, bool] = {1: True, 0: False, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Fields:
    """One JSON object whose fields are read with checks. `name` says in errors where it stands in the body.

    A field that is missing, null, or an empty or blank text reads as None. A wrong type raises
    Rejected("invalid_field"), a time outside of the years 1900 to 2200 Rejected("date_out_of_range").
    """

    name: str
    values: Mapping[str, Any] = field(repr=False)

    def carries(self, *keys: str) -> bool:
        """Whether every one of `keys` is there, null or not: absent is not null."""
        return all(key in self.values for key in keys)

    def invalid(self, key: str, expected: str) -> Rejected:
        """Make the error for a field that is not `expected`."""
        return Rejected("invalid_field", f"{self.name}.{key} is not {expected}.")

    def missing(self, key: str) -> Rejected:
        """Make the error for a field without which the object cannot be kept."""
        return Rejected("missing_field", f"{self.name}.{key} is missing.")

    def out_of_range(self, key: str) -> Rejected:
        """Make the error for a time outside of the years that any record can lie in."""
        years = f"{_FIRST_YEAR} to {_LAST_YEAR}"
        return Rejected("date_out_of_range", f"{self.name}.{key} lies outside of the years {years}.")

    def text(self, key: str, max_chars: int | None = None) -> str | None:
        """Read a text, trimmed; a number reads as its digits."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            return self._digits(key, value)
        text = value.strip()
        if text and max_chars is not None and len(value) > max_chars:
            raise self.invalid(key, f"a text of at most {max_chars} characters")
        return text or None

    def identifier(self, key: str) -> str | None:
        """Read an id as text, given as text, as a whole number or as an object with an `Id`; 0 stands for none."""
        value = self.values.get(key)
        if isinstance(value, dict):
            value = value.get("Id", value.get("id"))
        if value is None:
            return None
        value = canonical(value)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.invalid(key, "an id")
        text = str(value).strip()
        if len(text) > MAX_ID_CHARS:
            raise self.invalid(key, f"an id of at most {MAX_ID_CHARS} characters")
        return None if text in ("", "0") else text

    def integer(self, key: str, largest: int = 2**31 - 1) -> int | None:
        """Read a whole number between -`largest` and `largest`."""
        number = self._number(key)
        if number is None:
            return None
        if number != number.to_integral_value() or abs(number) > largest:
            raise self.invalid(key, "a whole number in range")
        return int(number)

    def amount(self, key: str) -> Decimal | None:
        """Read an amount of money, rounded to the cent."""
        number = self._number(key)
        if number is None:
            return None
        if abs(number) > _LARGEST_AMOUNT:
            raise self.invalid(key, "an amount in range")
        return number.quantize(_CENT) + 0  # adding zero turns -0 into 0

    def flag(self, key: str) -> bool | None:
        """Read a yes or no."""
        value = self._present(key)
        if value is None:
            return None
        if isinstance(value, str):
            value = value.strip().lower()
        if not isinstance(value, bool | int | str) or value not in _TRUTHS:
            raise self.invalid(key, "true or false")
        return _TRUTHS[value]

    def time_ms(self, key: str) -> int | None:
        """Read a time as Unix milliseconds, given as such a number or as ISO 8601 text (UTC where it names no zone)."""
        value = self._present(key)
        if value is None:
            return None
        if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
            return self._iso_ms(key, value.strip())
        number = value if type(value) is int else self._number(key)  # an int is what vendors send
        if number is None or not _EARLIEST_MS <= number <= _LATEST_MS:
            raise self.out_of_range(key)
        return int(number)

    def moment(self, key: str) -> datetime | None:
        """Read a time as an aware datetime in UTC, to the millisecond."""
        milliseconds = self.time_ms(key)
        return None if milliseconds is None else _EPOCH + milliseconds * _MILLISECOND

    def day(self, key: str) -> date | None:
        """Read a calendar date, given as ISO 8601 text or as Unix milliseconds of its midnight in UTC.

        Any date of the calendar is kept as the vendor has it: a birth year typed wrong must not cost an appointment.
        """
        value = self._present(key)
        if value is None:
            return None
        if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
            return self._iso_day(key, value.strip())
        number = self._number(key)
        try:
            return None if number is None else _EPOCH_DAY + timedelta(days=int(number) // _DAY_MS)
        except OverflowError:
            raise self.out_of_range(key) from None

    def object(self, key: str) -> Fields | None:
        """Read an object within the object."""
        value = self.values.get(key)
        if value is None or value == "":
            return None
        if not isinstance(value, dict):
            raise self.invalid(key, "an object")
        return Fields(f"{self.name}.{key}", value)

    def array(self, key: str) -> Sequence[Any]:
        """Read an array; missing, null and `""` read as empty."""
        value = self.values.get(key)
        if value is None or value == "":
            return ()
        if not isinstance(value, list):
            raise self.invalid(key, "an array")
        return value

    def objects(self, key: str) -> tuple[Fields, ...]:
        """Read an array of objects."""
        items = self.array(key)
        if not all(isinstance(item, dict) for item in items):
            raise self.invalid(key, "an array of objects")
        return tuple(Fields(f"{self.name}.{key}[]", item) for item in items)

    def _present(self, key: str) -> Any:
        value = self.values.get(key)
        return None if isinstance(value, str) and not value.strip() else value

    def _number(self, key: str) -> Decimal | None:
        value = self._present(key)
        if value is None:
            return None
        if type(value) is int:
            return Decimal(value)
        if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
            raise self.invalid(key, "a number")
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise self.invalid(key, "a number")
        try:
            # str() gives a float's shortest digits, so that 150.1 stays 150.1.
            return Decimal(str(value).strip())
        except InvalidOperation:
            raise self.invalid(key, "a number") from None

    def _digits(self, key: str, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.invalid(key, "a text")
        return str(canonical(value))

    def _iso_ms(self, key: str, text: str) -> int:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise self.invalid(key, "a time") from None
        if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
            raise self.out_of_range(key)
        return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND

    def _iso_day(self, key: str, text: str) -> date:
        try:
            return datetime.fromisoformat(text).date()
        except ValueError:
            raise self.invalid(key, "a date") from None


def _whole_if_integral(value: float) -> float:
    """Turn 3.0 into 3 where that loses nothing: vendors write the same number in both ways."""
    return int(value) if value.is_integer() and abs(value) <= _LARGEST_EXACT_FLOAT else value


def canonical(value: Any) -> Any:
    """Write any JSON value in one way: no null members, whole numbers without a fraction."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    return _whole_if_integral(value) if isinstance(value, float) else value
