"""The way of a webhook from the practice to the door: lost, doubled, late, overtaken, or spoilt by whoever sent it."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from itertools import count
from typing import Any

import orjson

from eventsync.sandbox import Webhook

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class MailFaults:
    """Shares between 0 and 1 of what goes wrong; half of all seeds spare a share altogether."""

    lost: float
    doubled: float
    late: float
    spoilt: float
    without_time: float

    @classmethod
    def drawn(cls, rng: random.Random) -> MailFaults:
        """Choose how bad the mail is for a whole run."""
        shares = {"lost": 0.4, "doubled": 0.5, "late": 0.7, "spoilt": 0.1, "without_time": 0.2}
        return cls(**{name: rng.choice((0.0, rng.random() * most)) for name, most in shares.items()})


@dataclass(frozen=True, slots=True)
class Letter:
    """One sending. `intact` says that it tells what the practice meant."""

    body: bytes
    intact: bool = True


class Mail:
    """What is on its way; each copy arrives when its own time has come, whatever was sent before it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._faults = MailFaults.drawn(rng)
        self._numbers = count()
        self._on_the_way: list[tuple[int, int, Letter]] = []

    def send(self, webhook: Webhook, now_ms: int, *, at_least_ms: int = 0) -> None:
        """Take a webhook of the practice's; it is on its way for `at_least_ms`."""
        if self._rng.random() < self._faults.lost:
            return
        letter = self._letter(webhook)
        for _ in range(2 if self._rng.random() < self._faults.doubled else 1):
            heapq.heappush(self._on_the_way, (now_ms + max(at_least_ms, self._delay_ms()), next(self._numbers), letter))

    def arrived(self, now_ms: int) -> list[Letter]:
        """Hand out what has come by now."""
        letters = []
        while self._on_the_way and self._on_the_way[0][0] <= now_ms:
            letters.append(heapq.heappop(self._on_the_way)[2])
        return letters

    @property
    def next_ms(self) -> int | None:
        """When the next letter arrives, None where none is on its way."""
        return self._on_the_way[0][0] if self._on_the_way else None

    def _delay_ms(self) -> int:
        if self._rng.random() >= self._faults.late:
            return self._rng.randint(5, 2_000)
        return self._rng.randint(1, self._rng.choice((20_000, 900_000, 3 * _DAY_MS)))

    def _letter(self, webhook: Webhook) -> Letter:
        if self._rng.random() < self._faults.spoilt:
            return Letter(self._spoilt(webhook.body), intact=False)
        if self._rng.random() < self._faults.without_time:
            return Letter(_without_time(webhook.body))
        return Letter(webhook.body)

    def _spoilt(self, body: bytes) -> bytes:
        match self._rng.randrange(3):
            case 0:
                return body[: len(body) // 2]
            case 1:
                return orjson.dumps(orjson.loads(body) | {"PracticeId": "another-practice"})
            case _:
                return orjson.dumps({"EventType": "SomethingNew", "ClientId": 1})


def _without_time(body: bytes) -> bytes:
    """Write an object without its LastModified, which names a record and says nothing certain about it."""
    envelope: dict[str, Any] = orjson.loads(body)
    for name in ("Appointment", "Invoice"):
        if name in envelope:
            envelope[name] = {**envelope[name], "LastModified": None}
    return orjson.dumps(envelope)
