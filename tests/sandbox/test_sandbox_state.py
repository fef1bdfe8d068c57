from pathlib import Path

import pytest

from eventsync.sandbox import StateError, serve
from sandbox.sandbox_receiver import START_MS, calling, receiving, small


async def test_a_restarted_practice_goes_on_with_the_same_data_and_never_repeats_an_id(tmp_path: Path) -> None:
    state_path = tmp_path / "deeper" / "practice.json"
    async with receiving() as receiver:
        options = small(state_path=state_path, webhook_targets=receiver.targets, seed=11)
        async with calling(options) as caller:
            await caller.control("/burst", {"webhooks": 200})
            before = (await caller.control("/truth")).text
            practice_id = caller.running.practice_id
        async with calling(options) as caller:
            assert (await caller.control("/truth")).text == before
            assert caller.running.practice_id == practice_id
            known = await caller.truth("appointment")
            booked = [(await caller.control("/actions", {"action": "book"})).json["record_id"] for _ in range(50)]
            assert len(set(booked)) == 50
            assert not set(booked) & set(known)
            await caller.control("/burst", {"webhooks": 100})


async def test_the_clock_never_goes_back_over_a_restart(tmp_path: Path) -> None:
    state_path = tmp_path / "practice.json"
    async with serve(small(state_path=state_path, start_ms=START_MS + 1_000_000)) as running:
        late_ms = running.sandbox.clock.now_ms()
    async with serve(small(state_path=state_path, start_ms=START_MS)) as running:
        assert running.sandbox.clock.now_ms() >= late_ms


async def test_the_practice_is_saved_while_it_runs(tmp_path: Path) -> None:
    state_path = tmp_path / "practice.json"
    async with calling(small(state_path=state_path, save_every_s=0.01)) as caller:
        record_id = (await caller.control("/actions", {"action": "book"})).json["record_id"]
        while record_id.encode() not in (state_path.read_bytes() if state_path.exists() else b""):
            await caller.control("/stats")
        assert (await caller.control("/stats")).json["failed_saves"] == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"format":9}', b'{"format":1,"vendor":"x","now_ms":1,"data":{}}'],
)
async def test_a_file_that_is_no_state_is_refused_with_advice(tmp_path: Path, content: bytes) -> None:
    state_path = tmp_path / "practice.json"
    state_path.write_bytes(content)
    with pytest.raises(StateError, match="remove it"):
        async with serve(small(state_path=state_path)):
            pass
    assert state_path.read_bytes() == content


async def test_a_damaged_practice_is_refused_with_advice(tmp_path: Path) -> None:
    state_path = tmp_path / "practice.json"
    state_path.write_bytes(b'{"format":1,"vendor":"intakeq","now_ms":1,"data":{"profile":{}}}')
    with pytest.raises(StateError, match="damaged"):
        async with serve(small(state_path=state_path)):
            pass


async def test_an_unknown_vendor_or_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown vendor"):
        async with serve(small(vendor="nobody")):
            pass
    with pytest.raises(ValueError, match="unknown webhook kinds"):
        async with serve(small(webhook_targets={"plant": "http://127.0.0.1:1"})):
            pass
