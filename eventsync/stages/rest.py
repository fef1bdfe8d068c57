"""How long a deliverer sends nothing because of the answers that it got: what one item meets, the next one would too.

An outage at the other side must not burn the attempts of thousands of items, nor our asking be what keeps it down.
"""

from __future__ import annotations

from collections.abc import Callable

from eventsync.domain.deliveries import Accepted, Answer, Deferred, Failed, Halted, Refused

_SHORTEST_S = 0.05  # the ledger's clock and ours differ a little: do not spin on the last milliseconds
_FIRST_UNREACHABLE_S, _LONGEST_UNREACHABLE_S = 1.0, 60.0
_FAILURES_IN_A_ROW = 3
_FIRST_OUTAGE_S, _LONGEST_OUTAGE_S = 30.0, 300.0


class Rest:
    """One deliverer's rest, by the seconds that `monotonic` answers."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._until_s = 0.0
        self._unreachable = 0  # times in a row
        self._failures = 0  # in a row, of those that named no wait

    @property
    def left_s(self) -> float:
        """How much of it is left; 0.0 where there is none."""
        return max(self._until_s - self._monotonic(), 0.0)

    def end(self) -> None:
        """Send again: the answers were another account's."""
        self._until_s = 0.0
        self._unreachable = self._failures = 0

    def note(self, answer: Answer) -> None:
        """Rest as the answer demands. A halted queue is paused for all deliverers elsewhere."""
        if not isinstance(answer, Deferred):
            self._unreachable = 0
        match answer:
            case Accepted() | Refused():
                self._failures = 0
            case Failed() | Deferred() if answer.retry_after_s is not None:
                self._begin(max(answer.retry_after_s, _SHORTEST_S))
            case Failed():
                self._failures += 1
                if self._failures >= _FAILURES_IN_A_ROW:
                    self._begin(_grown(_FIRST_OUTAGE_S, self._failures - _FAILURES_IN_A_ROW, _LONGEST_OUTAGE_S))
            case Deferred():
                self._begin(_grown(_FIRST_UNREACHABLE_S, self._unreachable, _LONGEST_UNREACHABLE_S))
                self._unreachable += 1
            case Halted():
                pass

    def _begin(self, wait_s: float) -> None:
        self._until_s = self._monotonic() + wait_s


def _grown(first_s: float, times: int, longest_s: float) -> float:
    return min(first_s * 2.0 ** min(times, 16), longest_s)
