"""What became of one webhook, told by the sender as it goes along."""

from dataclasses import dataclass, field
from enum import StrEnum

TIMEOUT, CONNECTION, UNTARGETED = "timeout", "connection", "untargeted"  # answers that are no status


class Fate(StrEnum):
    """Where a webhook ended."""

    ON_ITS_WAY = "on_its_way"  # a copy waits or is not yet answered (for ever, if the sandbox stopped before)
    SENT = "sent"  # some copy was answered 2xx
    DROPPED = "dropped"  # lost on purpose: never sent
    UNTARGETED = "untargeted"  # no URL is set for its kind: never sent
    REFUSED = "refused"  # answered, but never 2xx
    UNANSWERED = "unanswered"  # no copy was answered; it may have arrived nevertheless


@dataclass(slots=True)
class Delivery:
    """One webhook's way: how many copies were planned, how, and the answer to each so far.

    An answer is a status as text, or "timeout" or "connection".
    """

    copies: int = 0
    is_delayed: bool = False
    is_overtaken: bool = False
    is_dropped: bool = False
    answers: list[str] = field(default_factory=list)

    @property
    def is_duplicated(self) -> bool:
        """Whether it goes out more than once."""
        return self.copies > 1

    @property
    def fate(self) -> Fate:
        """Where it ended, or that it has not yet."""
        if self.is_dropped:
            return Fate.DROPPED
        if any(answer.startswith("2") for answer in self.answers):
            return Fate.SENT
        if len(self.answers) < self.copies:
            return Fate.ON_ITS_WAY
        if all(answer == UNTARGETED for answer in self.answers):
            return Fate.UNTARGETED
        return Fate.REFUSED if any(answer.isdecimal() for answer in self.answers) else Fate.UNANSWERED
