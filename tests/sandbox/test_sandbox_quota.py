import pytest

from eventsync.sandbox import QuotaLimits, QuotaWindow
from eventsync.sandbox.clock import SandboxClock
from eventsync.sandbox.quota import DAY_MS, MINUTE_MS, Quota
from sandbox.sandbox_receiver import calling, small

MIDNIGHT_MS = 20_000 * DAY_MS


def test_a_sliding_minute_never_holds_more_than_its_calls() -> None:
    quota = Quota(QuotaLimits(per_minute=10, per_day=None))
    accepted = [ms for ms in range(MIDNIGHT_MS, MIDNIGHT_MS + 300_000, 700) if quota.take(ms) is None]
    for first in accepted:
        assert sum(first <= ms < first + MINUTE_MS for ms in accepted) <= 10
    assert len(accepted) == 50


def test_the_wait_that_is_named_is_enough_and_refused_calls_cost_nothing() -> None:
    quota = Quota(QuotaLimits(per_minute=2, per_day=None))
    assert quota.take(MIDNIGHT_MS) is None
    assert quota.take(MIDNIGHT_MS + 1_500) is None
    wait_s = quota.take(MIDNIGHT_MS + 2_000)
    assert wait_s == 58
    assert quota.take(MIDNIGHT_MS + 2_000 + wait_s * 1_000) is None


def test_a_fixed_window_begins_anew_at_each_full_minute() -> None:
    quota = Quota(QuotaLimits(per_minute=2, per_day=None, window=QuotaWindow.FIXED))
    late = MIDNIGHT_MS + 59_000
    assert [quota.take(late), quota.take(late), quota.take(late)] == [None, None, 1]
    assert quota.take(late + 1_000) is None


@pytest.mark.parametrize("window", list(QuotaWindow))
def test_the_day_is_limited_apart_from_the_minute(window: QuotaWindow) -> None:
    quota = Quota(QuotaLimits(per_minute=None, per_day=3, window=window))
    assert [quota.take(MIDNIGHT_MS + n) for n in range(3)] == [None] * 3
    wait_s = quota.take(MIDNIGHT_MS + 3)
    assert wait_s == DAY_MS // 1000
    assert quota.take(MIDNIGHT_MS + DAY_MS) is None


@pytest.mark.parametrize("retry_after", [True, False])
async def test_the_eleventh_call_is_429_with_or_without_retry_after(*, retry_after: bool) -> None:
    async with calling(small(quota=QuotaLimits(retry_after=retry_after))) as caller:
        answers = [await caller.api("/practitioners") for _ in range(11)]
        assert [answer.status for answer in answers] == [200] * 10 + [429]
        assert ("Retry-After" in answers[-1].headers) == retry_after
        stats = (await caller.control("/stats")).json
        assert stats["rate_limited"] == 1
        assert stats["api_answers"] == {"200": 10, "429": 1}
        assert (await caller.control("/quota", {"per_minute": 0, "per_day": 0})).json["per_minute"] is None
        assert (await caller.api("/practitioners")).status == 200


def test_a_fast_clock_lets_the_minute_pass_sooner() -> None:
    seconds = iter([100.0, 100.0, 101.0])
    clock = SandboxClock(MIDNIGHT_MS, speed=60, monotonic_s=lambda: next(seconds))
    assert clock.now_ms() == MIDNIGHT_MS
    assert clock.now_ms() == MIDNIGHT_MS + MINUTE_MS
    with pytest.raises(ValueError, match="speed"):
        SandboxClock(0, speed=-1)
