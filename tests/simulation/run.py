"""One seed's run: a history of small steps drawn by chance, then quiet, then the full re-read that repairs all."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from eventsync.crypto import Keyring
from eventsync.domain.errors import Transient
from simulation.clocks import LARGEST_ERROR_MS, SimulatedClock
from simulation.fate import FatedDatabase, Killed
from simulation.full_read import ALL_DAYS, FullRead, Window
from simulation.mail import Letter, Mail
from simulation.practice import PretendHttp, PretendPractice
from simulation.strand import Strand, wait_for_the_practice
from simulation.world import CONNECTION_ID, World

_MINUTE_MS = 60_000
_DAY_MS = 86_400_000
_LARGEST_SKEW_MS = 2 * _MINUTE_MS
_LONGEST_SPAN_DAYS = 40
_SPANS_MS = (200, 3_000, 3_000, 40_000, 40_000, 10 * _MINUTE_MS, 180 * _MINUTE_MS, 2 * _DAY_MS)
_LONGEST_CALL_MS = 2_000
_MOST_ROUNDS_OF_QUIET = 300
_GROUP = 4  # webhooks that come to one door at the same moment

Step = Callable[[], Awaitable[str]]


class Run:
    """Everything that one seed does; `journal` tells it, line by line."""

    def __init__(self, seed: int, database: FatedDatabase, keyring: Keyring, folder: Path) -> None:
        self._rng = random.Random(f"simulation {seed}")
        self.clock = SimulatedClock()
        self._ends_ms = self.clock.now_ms + _LONGEST_SPAN_DAYS * _DAY_MS
        self.world = World(database, keyring, self._rng, self.clock, folder)
        skew_ms = self._rng.choice((0, self._rng.randint(-_LARGEST_SKEW_MS, _LARGEST_SKEW_MS)))
        self.practice = PretendPractice(seed, self._rng, lambda: self.clock.now_ms, skew_ms)
        self.journal: list[str] = []
        self._mail = Mail(self._rng)
        self._danger = self._rng.choice((0.0, 0.1, 0.35))
        self._api_failures = self._rng.choice((0.0, 0.15))
        self._strands: list[Strand] = []
        self._is_quiet = False
        self._slips = self._rng.choice((0.0, 0.0, 0.1))
        self._steps: dict[str, tuple[float, Step]] = {
            "time": (4, self._time),
            "act": (8, self._act),
            "mail": (5, self._post),
            "door": (1.5, self._cut_or_mend),
            "drain": (1.5, self._drain),
            "relay": (5, self._relay),
            "consume": (5, self._consume),
            "work": (3, self._work),
            "on": (6, self._go_on),
            "rush": (9, self._rush),
            "stall": (0.7, self._stall),
            "cut": (0.4, self._cut),
            "bus": (0.3, self._lose_the_bus),
            "single": (1, self._single),
            "read": (2, self._read),
            "move": (1.5, self._move),
        }

    async def history(self) -> None:
        """Take a number of steps, each by chance."""
        await self.world.use(PretendHttp(self.practice, self._before_answer, self._after_answer))
        for _ in range(self._rng.randint(15, 80)):
            await self._step()

    async def quiet(self) -> None:
        """Let all mail arrive and everybody finish, with nothing going wrong any more."""
        while self._strands:
            await self._go_on()
        self._is_quiet = True
        for door in self.world.doors:
            door.way.is_cut = False
        slack_ms = 11_000 + 2 * self.world.machines.largest_error_ms  # past the relay's rescue by any clock
        for _ in range(_MOST_ROUNDS_OF_QUIET):
            await self._round()
            due_ms = await self._next_due_ms()
            if due_ms is None:
                return
            self.clock.advance_ms(max(due_ms - self.clock.now_ms, 0) + slack_ms)
        raise AssertionError("something is never finished")

    async def full_read(self) -> None:
        """Read everything the practice has: documents and appointments one by one, then all lists."""
        self.clock.advance_ms(6 * _MINUTE_MS + _LARGEST_SKEW_MS + LARGEST_ERROR_MS)  # past the margin of an absence
        for kind, member, event in (("note", "NoteId", "Note Locked"), ("intake", "IntakeId", "Intake Submitted")):
            for known, external_id in sorted(self.practice.past):
                if known == kind:
                    body = f'{{"{member}": "{external_id}", "Type": "{event}"}}'.encode()
                    assert await self.world.accept(0, [Letter(body)])
        await self.quiet()
        for fact in self.practice.truth("appointment"):
            await self._reading().single(fact.data["Id"])
        await self._reading().run()

    def _reading(self) -> FullRead:
        world = self.world
        return FullRead(world.client, world.database, world.writer, CONNECTION_ID, self.clock)

    async def _step(self) -> None:
        names = list(self._steps)
        (name,) = self._rng.choices(names, [self._steps[name][0] for name in names])
        at = self.clock.now.isoformat()
        told = await self._steps[name][1]()
        self.journal.append(f"{at} {name}: {told}")

    async def _round(self) -> None:
        letters = self._mail.arrived(self.clock.now_ms)
        assert await self.world.accept(0, letters) == len(letters)
        await self.world.drain()
        for number in (0, 1):
            await self.world.lose_acknowledgements(number)
        await self.world.relay()
        busy = 1
        while busy:
            busy = await self.world.consume(0, 50) + await self.world.work(0) + await self.world.bury()

    async def _next_due_ms(self) -> int | None:
        """Tell when there is something to do next (Unix ms), None when all has come to its end."""
        async with self.world.database.session() as session:
            waiting = await session.fetchval("SELECT count(*) FROM event_queue WHERE status <> 'parked'")
            due = await session.fetchval(
                "SELECT min(coalesce(leased_until, available_at)) FROM event_queue"
                " WHERE status IN ('pending', 'running')"
            )
        times = [self._mail.next_ms] if self._mail.next_ms is not None else []
        if due is not None:
            times.append(int(due.timestamp() * 1000))
        if waiting and due is None:
            times.append(self.clock.now_ms + 60 * _MINUTE_MS)  # published and lost: until the relay notices
        return min(times, default=None)

    def _endanger(self, *, may_go_away: bool = True, within: int = 24) -> None:
        """Choose, by chance, at which step of the next work its process dies or PostgreSQL goes away."""
        if self._is_quiet or self._rng.random() >= self._danger:
            return
        blow = Transient if may_go_away and self._rng.random() < 0.4 else Killed
        self.world.fate.choose(self._rng.randrange(within), blow)

    async def _time(self) -> str:
        span_ms = self._rng.randint(1, self._rng.choice(_SPANS_MS))
        if self.clock.now_ms + span_ms < self._ends_ms:
            self.clock.advance_ms(span_ms)
        return f"{span_ms} ms"

    async def _act(self) -> str:
        names = []
        for _ in range(self._rng.randint(1, 3)):
            name, webhooks = self.practice.act()
            names.append(name)
            for webhook in webhooks:
                self._mail.send(webhook, self.clock.now_ms)
            self.clock.advance_ms(self._rng.choice((0, 0, 40, 1_500)))
        return ", ".join(names)

    async def _post(self) -> str:
        letters = self._mail.arrived(self.clock.now_ms)
        accepted = 0
        for at in range(0, len(letters), _GROUP):
            self._endanger(within=8)
            accepted += await self.world.accept(self._rng.randrange(2), letters[at : at + _GROUP])
        self.world.fate.choose_nothing()
        return f"{accepted} of {len(letters)}"

    async def _cut_or_mend(self) -> str:
        """Let PostgreSQL go away for one door, or come back."""
        number = self._rng.randrange(2)
        way = self.world.doors[number].way
        way.is_cut = not way.is_cut
        return f"{number} {'loses' if way.is_cut else 'finds'} PostgreSQL"

    async def _drain(self) -> str:
        number = self._rng.randrange(2)
        door = self.world.doors[number]
        waiting = door.spool.stats.count
        self._endanger(within=8)
        await self._safely(door.drain())
        return f"{number} held {waiting}, holds {door.spool.stats.count}"

    async def _relay(self) -> str:
        self._endanger()
        return await self._safely(self.world.relay())

    async def _consume(self, at_most: int | None = None) -> str:
        self._endanger()
        at_most = at_most or self._rng.choice((1, 3, 20))
        return await self._safely(self.world.consume(self._rng.randrange(2), at_most))

    async def _work(self) -> str:
        async def work() -> str:
            self._endanger(may_go_away=False)  # the worker waits for PostgreSQL in real time
            return str(await self.world.work(self._rng.randrange(3)))

        return await self._start("work", work())

    async def _start(self, name: str, work: Coroutine[Any, Any, str]) -> str:
        strand = Strand(name, work)
        self._strands.append(strand)
        return await self._let_on(strand)

    async def _go_on(self) -> str:
        if not self._strands:
            return "nobody waits"
        return await self._let_on(self._rng.choice(self._strands))

    async def _let_on(self, strand: Strand) -> str:
        """Let one of those who wait go on; its process may be killed where it stands."""
        killed = self._rng.random() < self._danger / 3 and strand.is_waiting
        told = await strand.go_on(killed=killed)
        if strand.has_ended:
            self._strands.remove(strand)
        return f"{strand.name} {told}"

    async def _rush(self) -> str:
        """Let people change something, often what somebody is just reading, and its webhooks go through at once."""
        name, webhooks = self.practice.act(self._rushed())
        self.clock.advance_ms(self._rng.randint(1, 100))  # on its way, so that nothing older is as new as what it told
        await self.world.accept(self._rng.randrange(2), [Letter(webhook.body) for webhook in webhooks])
        self.clock.advance_ms(self._rng.randint(1, 100))
        told = [name, await self._relay(), await self._consume(20)]
        if self._rng.random() < 0.7:
            told += [await self._relay(), await self._work()]
        return ", ".join(told)

    def _rushed(self) -> str | None:
        """Choose what is changed in a rush, by its path in the API; None for anything."""
        being_read = [strand.has_read for strand in self._strands if strand.has_read]
        notes = [f"notes/{fact.data['Id']}" for fact in self.practice.truth("note")]
        return self._rng.choice(self._rng.choice((being_read, being_read, notes, [])) or [None])

    async def _stall(self) -> str:
        return str(await self.world.stall(self._rng.randrange(2), self._rng.choice((1, 5))))

    async def _cut(self) -> str:
        number = self._rng.randrange(2)
        await self.world.lose_acknowledgements(number)
        return f"consumer {number}"

    async def _lose_the_bus(self) -> str:
        if self._rng.random() < self._danger:
            self.world.fate.choose(self._rng.randrange(6), Killed)
        await self._safely(self.world.lose_the_bus())
        return "forgot all"

    async def _single(self) -> str:
        facts = self.practice.truth("appointment")
        if not facts:
            return "none"
        external_id = self._rng.choice(facts).data["Id"]
        return await self._start("single", self._unless_it_fails(self._reading().single(external_id)))

    async def _read(self) -> str:
        return await self._read_days(self._window())

    async def _move(self) -> str:
        """Let an appointment move, and somebody read the days that it has left, long before its webhook arrives."""
        known = await self.world.live_appointments()
        if not known:
            return "none"
        external_id, left = self._rng.choice(known)
        name, webhooks = self.practice.do("reschedule", external_id)
        for webhook in webhooks:
            self._mail.send(webhook, self.clock.now_ms, at_least_ms=30 * _MINUTE_MS)
        self.clock.advance_ms(self._rng.randint(1, 15 * _MINUTE_MS))
        return f"{name}, {await self._read_days(Window(left, left))}"

    async def _read_days(self, window: Window) -> str:
        async def read() -> str:
            self._endanger()
            told = await self._unless_it_fails(self._reading().run(window))
            self._note_moved_out(window)
            return f"{'all' if window is ALL_DAYS else window.first} {told}"

        return await self._start("read", read())

    def _window(self) -> Window:
        """Choose what is read: everything, or days around a start that some appointment has, or had before it moved."""
        starts_ms = [
            said.form["StartDate"]
            for (kind, _), past in self.practice.past.items()
            for said in past
            if kind == "appointment" and said.form is not None
        ]
        if not starts_ms or self._rng.random() < 0.5:
            return ALL_DAYS
        start = datetime.fromtimestamp(self._rng.choice(starts_ms) / 1000, UTC).date()
        first = start - timedelta(days=self._rng.choice((0, 3, 30)))
        return Window(first, start + timedelta(days=self._rng.choice((0, 3, 30))))

    def _note_moved_out(self, window: Window) -> None:
        """Remember what has lain outside of the window: our older row may have lain within, and looked deleted."""
        begins_ms, ends_ms = window.begins.timestamp() * 1000, window.ends.timestamp() * 1000
        for (kind, external_id), past in self.practice.past.items():
            starts = [said.form["StartDate"] for said in past if kind == "appointment" and said.form is not None]
            if any(not begins_ms <= start_ms < ends_ms for start_ms in starts):
                self.world.ledger.overlooked[external_id].append(window)

    async def _safely(self, work: Awaitable[object]) -> str:
        try:
            return str(await work)
        finally:
            self.world.fate.choose_nothing()

    async def _unless_it_fails(self, work: Awaitable[object]) -> str:
        try:
            return await self._safely(work)
        except (Transient, Killed) as error:
            return f"ended by {type(error).__name__}"

    async def _before_answer(self) -> None:
        if self._is_quiet:
            return
        await wait_for_the_practice()
        if self._rng.random() < self._api_failures:
            raise Transient("the call failed")

    async def _after_answer(self, path: str, answer: Any) -> Any:
        """Let a row slip past between two pages of a list, and the world go on before the answer arrives."""
        if self._is_quiet:
            return answer
        if isinstance(answer, list) and answer and self._rng.random() < self._slips:
            row = answer.pop(self._rng.randrange(len(answer)))
            self.world.ledger.overlooked[str(row.get("Id", row.get("ClientId")))].append(ALL_DAYS)
        self.clock.advance_ms(self._rng.randint(1, _LONGEST_CALL_MS))
        await wait_for_the_practice(path)
        return answer
