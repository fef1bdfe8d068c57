"""The pretend practice without a network: what people do there, its API as plain calls, and all it ever said."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import orjson
from aiohttp import web

from eventsync.sandbox import Fact, NotPossibleError, SandboxOptions, Webhook
from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.intakeq.api import IntakeQApi
from eventsync.sandbox.intakeq.vendor import IntakeQVendor, open_intakeq
from eventsync.vendorkit.budget import Purpose
from eventsync.vendorkit.http import NotFound, VendorHttp

BASE_URL = "http://practice.example.test/api/v1"
CLIENT = "client"
KINDS = ("appointment", CLIENT, "intake", "note", "invoice")
_VANISHING = 0.03  # of what people do: a document is gone for good, without a word
_WEIGHTS = {"delete_client": 1.0, "edit": 12.0, "lock_note": 8.0, "submit_intake": 6.0, "delete": 10.0}

BeforeAnswer = Callable[[], Awaitable[None]]
AfterAnswer = Callable[[str, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Said:
    """What the practice said of a record from `since_ms` (our clock) on; `form` is None once it vanished."""

    since_ms: int
    deleted: bool
    form: dict[str, Any] | None


class PretendPractice:
    """One practice whose clock may differ from ours, with its whole past."""

    def __init__(self, seed: int, rng: random.Random, now_ms: Callable[[], int], skew_ms: int) -> None:
        self._rng = rng
        self._now_ms = now_ms
        self._skew_ms = skew_ms
        options = SandboxOptions(
            seed=seed,
            clients=rng.randint(2, 5),
            practitioners=2,
            appointments=rng.randint(0, 8),
            tie_share=rng.choice((0.0, 0.0, 0.15, 0.4)),
            practice_id="practice-1",
        )
        self.vendor: IntakeQVendor = open_intakeq(options, self.clock_ms())
        self.past: dict[tuple[str, str], list[Said]] = defaultdict(list)
        self._remember()

    def clock_ms(self) -> int:
        """The time by the practice's own clock."""
        return self._now_ms() + self._skew_ms

    def act(self, path: str | None = None) -> tuple[str, tuple[Webhook, ...]]:
        """Let people do one thing that is possible, if they can to the record at `path`; answer it and its webhooks."""
        action_name, record_id = _action_on(path)
        if action_name is not None:
            return self.do(action_name, record_id)
        if self._rng.random() < _VANISHING and self._vanish():
            self._remember()
            return "vanish", ()
        actions = list(self.vendor.actions.values())
        weights = [_WEIGHTS.get(action.name, action.weight) for action in actions]
        while True:  # booking is always possible
            (action,) = self._rng.choices(actions, weights)
            try:
                effect = action.do(self.clock_ms(), Arguments())
            except NotPossibleError:
                continue
            self._remember()
            return action.name, effect.webhooks

    def do(self, action_name: str, record_id: str) -> tuple[str, tuple[Webhook, ...]]:
        """Let people do this to that record, if it is possible; answer it and its webhooks."""
        try:
            effect = self.vendor.actions[action_name].do(self.clock_ms(), Arguments({"id": record_id}))
        except NotPossibleError:
            return "nothing", ()
        self._remember()
        return f"{action_name} {record_id}", effect.webhooks

    def truth(self, kind: str) -> list[Fact]:
        """What the practice says now, of all records of one kind."""
        return list(self.vendor.truth(kind))

    async def answer(self, path: str, parameters: Mapping[str, str]) -> Any:
        """Answer one API call as parsed JSON. Raises NotFound."""
        api = IntakeQApi(self.vendor.practice, self.clock_ms)
        collection, _, record_id = path.partition("/")
        lists = {"appointments": api.list_appointments, "clients": api.list_clients, "invoices": api.list_invoices}
        lists |= {"intakes/summary": api.list_intakes, "notes/summary": api.list_notes}
        singles = {"appointments": api.appointment, "invoices": api.invoice, "intakes": api.intake, "notes": api.note}
        handler = lists.get(path) or singles[collection]
        request: Any = SimpleNamespace(query=parameters, match_info={"id": record_id})
        response: web.Response = await handler(request)
        if response.status == 404:
            raise NotFound
        return orjson.loads(response.body)  # type: ignore[arg-type]  # the pretend API answers with bytes

    def _vanish(self) -> bool:
        practice = self.vendor.practice
        documents: dict[str, Any] = self._rng.choice((practice.intakes, practice.notes))
        if not documents:
            return False
        record_id = self._rng.choice(list(documents))
        del documents[record_id]
        practice.note_ids.discard(record_id)
        practice.revision += 1
        return True

    def _remember(self) -> None:
        now_ms = self._now_ms()
        present = set()
        for kind in KINDS:
            for fact in self.vendor.truth(kind):
                key = kind, id_of(fact)
                present.add(key)
                self._say(key, Said(now_ms, fact.deleted, fact.data))
        for key in self.past.keys() - present:
            self._say(key, Said(now_ms, deleted=True, form=None))

    def _say(self, key: tuple[str, str], said: Said) -> None:
        past = self.past[key]
        if not past or (past[-1].deleted, past[-1].form) != (said.deleted, said.form):
            past.append(said)


class PretendHttp(VendorHttp):
    """The way to the practice's API: a call may fail, and the world goes on before and after it."""

    def __init__(self, practice: PretendPractice, before: BeforeAnswer, after: AfterAnswer) -> None:
        self._practice = practice
        self._before = before
        self._after = after

    async def get_json(
        self,
        url: str,
        *,
        params: Mapping[str, str],
        headers: Mapping[str, str],  # noqa: ARG002  # the practice trusts us
        purpose: Purpose,  # noqa: ARG002  # the budget has tests of its own
    ) -> Any:
        """Answer as VendorHttp does. Raises Transient where the simulation says so, NotFound where it is so."""
        path = url.removeprefix(f"{BASE_URL}/")
        await self._before()
        return await self._after(path, await self._practice.answer(path, params))


def _action_on(path: str | None) -> tuple[str | None, str]:
    """Tell what people do to the record at an API path while somebody reads it."""
    collection, _, record_id = (path or "").partition("/")
    actions = {"notes": "lock_note", "appointments": "edit", "intakes": "submit_intake"}
    return (actions.get(collection) if record_id not in ("", "summary") else None), record_id


def id_of(fact: Fact) -> str:
    """Name a fact's record as our rows do."""
    return str(fact.data["ClientId"] if fact.kind == CLIENT else fact.data["Id"])
