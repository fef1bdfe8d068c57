"""What goes wrong on purpose, in numbers: on the way of a webhook, and in the API's answers.

Each decision is drawn from a seeded stream in the order the webhooks (or calls) arise, always with the same number of
draws, so one seed gives the same faults however the network behaves.
"""

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

_SHARES = ("drop", "duplicate", "delay", "reorder", "api_error", "api_html", "api_lost", "api_slow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Shares between 0 and 1, spans in real seconds; the default is a perfect vendor."""

    drop: float = 0.0  # webhooks never sent
    duplicate: float = 0.0  # webhooks sent twice
    delay: float = 0.0  # webhooks sent late, between delay_min_s and delay_max_s
    delay_min_s: float = 0.2
    delay_max_s: float = 2.0
    reorder: float = 0.0  # webhooks overtaken by 1..reorder_span later ones
    reorder_span: int = 10
    reorder_hold_s: float = 0.5  # with nothing following, what waits to be overtaken goes out after this
    api_error: float = 0.0  # API calls answered 500
    api_html: float = 0.0  # API calls answered with a maintenance page in HTML, status 200 or 503
    api_lost: float = 0.0  # API calls done as asked, whose answer never comes: the connection ends instead
    api_slow: float = 0.0  # API calls answered late, between api_slow_min_s and api_slow_max_s
    api_slow_min_s: float = 0.5
    api_slow_max_s: float = 3.0

    def __post_init__(self) -> None:
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"fault {name} is a share: give a number from 0 to 1")
        if not 0 <= self.delay_min_s <= self.delay_max_s or not 0 <= self.api_slow_min_s <= self.api_slow_max_s:
            raise ValueError("fault spans need 0 <= min <= max, in seconds")
        if self.reorder_span < 1 or self.reorder_hold_s < 0:
            raise ValueError("reorder_span must be at least 1 and reorder_hold_s at least 0")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `drop=0.03,duplicate=0.2`.

        Raises ValueError for an unknown name or a value that is no number.
        """
        pairs = [part.split("=", 1) for part in text.split(",") if part.strip()]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"faults are written name=number,name=number, not {text!r}")
        return cls().changed({name.strip(): value for name, value in pairs})

    def changed(self, values: Mapping[str, object]) -> Self:
        """A copy with these numbers replaced; raises ValueError for an unknown name or a value that is no number."""
        known = [field.name for field in dataclasses.fields(self)]
        unknown = set(values) - set(known)
        if unknown:
            raise ValueError(f"unknown faults {sorted(unknown)}; known: {', '.join(known)}")
        numbers: dict[str, Any] = {name: _number(name, value) for name, value in values.items()}
        return dataclasses.replace(self, **numbers)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"fault {name} must be a number")  # noqa: TRY004  one error type for all bad settings
    try:
        number = float(value)
    except ValueError as error:
        raise ValueError(f"fault {name} must be a number") from error
    return int(number) if name == "reorder_span" else number


@dataclass(frozen=True, slots=True)
class Copy:
    """One sending of a webhook: after `delay_s`, and after `overtaken_by` later webhooks went first."""

    delay_s: float = 0.0
    overtaken_by: int = 0


def plan_copies(faults: Faults, rng: random.Random) -> tuple[Copy, ...]:
    """Decide how often and how late one webhook is sent; empty when it is dropped. Draws eight numbers."""
    dropped, doubled, delayed, moved = (rng.random() for _ in range(4))
    lateness, first, second, spare = (rng.random() for _ in range(4))
    if dropped < faults.drop:
        return ()
    delay_s = 0.0
    if delayed < faults.delay:
        delay_s = faults.delay_min_s + lateness * (faults.delay_max_s - faults.delay_min_s)
    overtaken_by = 1 + int(first * faults.reorder_span) if moved < faults.reorder else 0
    copies = [Copy(delay_s, overtaken_by)]
    if doubled < faults.duplicate:  # half of the doubles follow at once, the others some webhooks later
        copies.append(Copy(0.0, int(second * faults.reorder_span) if spare < 0.5 else 0))
    return tuple(copies)


class ApiFaultKind(StrEnum):
    """How an API call goes wrong."""

    ERROR = "error"
    HTML = "html"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class ApiFault:
    """What happens to one API call: an optional wrong answer, after `wait_s`."""

    kind: ApiFaultKind | None = None
    status: int = 500
    wait_s: float = 0.0


def plan_api_call(faults: Faults, rng: random.Random) -> ApiFault:
    """Decide what happens to one API call. Draws five numbers."""
    failed, html, slow, lateness, choice = (rng.random() for _ in range(5))
    wait_s = 0.0
    if slow < faults.api_slow:
        wait_s = faults.api_slow_min_s + lateness * (faults.api_slow_max_s - faults.api_slow_min_s)
    if failed < faults.api_error:
        return ApiFault(ApiFaultKind.ERROR, 500, wait_s)
    if html < faults.api_html:
        return ApiFault(ApiFaultKind.HTML, 200 if choice < 0.5 else 503, wait_s)
    if choice < faults.api_lost:
        return ApiFault(ApiFaultKind.LOST, wait_s=wait_s)
    return ApiFault(wait_s=wait_s)
