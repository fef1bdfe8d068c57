from pathlib import Path

import pytest

from eventsync.sandbox import OptionsError, QuotaLimits, SandboxClock, SandboxOptions, serve
from sandbox.sandbox_receiver import START_MS, calling, small

DAY_MS = 86_400_000
MINUTE_MS = 60_000


def test_a_standing_clock_moves_only_by_hand_and_never_back() -> None:
    clock = SandboxClock(START_MS, speed=0)
    assert clock.now_ms() == START_MS
    clock.advance(DAY_MS)
    clock.advance_to(START_MS + 2 * DAY_MS)
    assert clock.now_ms() == START_MS + 2 * DAY_MS
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance_to(START_MS)


def test_a_running_clock_can_be_moved_ahead_as_well() -> None:
    seconds = iter([100.0, 100.0, 101.0])
    clock = SandboxClock(START_MS, monotonic_s=lambda: next(seconds))
    clock.advance(DAY_MS)
    assert clock.now_ms() == START_MS + DAY_MS
    assert clock.now_ms() == START_MS + DAY_MS + 1_000


async def test_a_week_of_daily_quotas_passes_in_no_time() -> None:
    quota = QuotaLimits(per_minute=None, per_day=3)
    async with calling(small(quota=quota, speed=0)) as caller:
        for _ in range(7):
            statuses = [(await caller.api("/practitioners")).status for _ in range(4)]
            assert statuses == [200, 200, 200, 429]
            caller.running.sandbox.clock.advance(DAY_MS)


async def test_the_minute_s_wait_that_a_429_names_is_what_the_clock_must_move() -> None:
    quota = QuotaLimits(per_minute=1, per_day=None)
    async with calling(small(quota=quota, speed=0)) as caller:
        assert (await caller.api("/practitioners")).status == 200
        refused = await caller.api("/practitioners")
        assert refused.headers["Retry-After"] == "60"
        caller.running.sandbox.clock.advance(59_999)
        assert (await caller.api("/practitioners")).status == 429
        caller.running.sandbox.clock.advance(1)
        assert (await caller.api("/practitioners")).status == 200


async def test_ten_days_after_a_deletion_the_api_tells_of_it_no_more() -> None:
    async with calling(small(speed=0)) as caller:
        sandbox = caller.running.sandbox
        for action, path in (("delete", "/appointments"), ("delete_client", "/clients")):
            sandbox.act(action)
            assert len((await caller.api(f"{path}?deletedOnly=true")).json) == 1
            sandbox.clock.advance(10 * DAY_MS)
            assert len((await caller.api(f"{path}?deletedOnly=true")).json) == 1
            sandbox.clock.advance(1_000)
            assert (await caller.api(f"{path}?deletedOnly=true")).json == []


async def test_changes_bear_the_time_that_the_clock_was_moved_to() -> None:
    clock = SandboxClock(START_MS, speed=0)
    async with serve(SandboxOptions(clock=clock, clients=5, appointments=5)) as running:
        clock.advance(3 * DAY_MS)
        running.sandbox.act("book")
        (entry,) = running.sandbox.ledger.entries()
        assert (entry.at_ms, entry.modified_ms) == (START_MS + 3 * DAY_MS, START_MS + 3 * DAY_MS)


async def test_the_control_api_tells_and_moves_the_time() -> None:
    async with calling(small(speed=0)) as caller:
        assert (await caller.control("/clock", {})).json == {"now_ms": START_MS, "speed": 0}
        assert (await caller.control("/clock", {"advance_ms": DAY_MS})).json["now_ms"] == START_MS + DAY_MS
        assert (await caller.control("/clock", {"advance_ms": -1})).status == 400
        assert (await caller.control("/stats")).json["now_ms"] == START_MS + DAY_MS


async def test_a_clock_of_the_caller_s_is_moved_on_to_the_saved_practice_s_time(tmp_path: Path) -> None:
    state_path = tmp_path / "practice.json"
    async with serve(small(state_path=state_path, speed=0)) as running:
        running.sandbox.clock.advance(5 * DAY_MS)
        running.sandbox.act("book", without_client=True)
    clock = SandboxClock(START_MS, speed=0)
    async with serve(small(state_path=state_path, start_ms=None, clock=clock)) as running:
        assert clock.now_ms() == START_MS + 5 * DAY_MS
        nobody = [fact for fact in running.sandbox.truth("appointment") if fact.data["ClientId"] is None]
        assert len(nobody) == 1


def test_a_clock_and_a_start_cannot_both_be_given() -> None:
    with pytest.raises(OptionsError, match="not both"):
        small(clock=SandboxClock(START_MS))
    with pytest.raises(OptionsError, match="speed"):
        small(speed=-1)


async def test_a_night_of_the_clock_change_has_two_appointments_at_one_local_time() -> None:
    one_o_clock_ms = 1_793_509_200_000  # 1 November 2026, 1:00 in New York, daylight saving time
    async with calling(small(appointments=0)) as caller:
        for start_ms in (one_o_clock_ms, one_o_clock_ms + 60 * MINUTE_MS):
            caller.running.sandbox.act("book", start_ms=start_ms)
        rows = (await caller.api("/appointments")).json
        assert {row["StartDateLocal"] for row in rows} == {"2026-11-01T01:00:00.0000000"}
        assert len({row["StartDateIso"] for row in rows}) == 2
