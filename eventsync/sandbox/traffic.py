"""Keeps a practice busy: at a rate with random gaps until stopped, or a burst as fast as the receiver allows."""

import asyncio
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.clock import SandboxClock
from eventsync.sandbox.delivery import WebhookSender
from eventsync.sandbox.errors import NotPossibleError
from eventsync.sandbox.ledger import Ledger
from eventsync.sandbox.stats import Stats
from eventsync.sandbox.vendor import Action, Effect, PretendVendor

_DRAWS = 200
_YIELD_EVERY = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficMix:
    """What is done: `silent_share` of the actions fire no webhook; `weights` replace the vendor's own, by name.

    `kinds` limits the webhooks to these kinds; None allows all.
    """

    silent_share: float = 0.1
    weights: Mapping[str, float] = field(default_factory=dict)
    kinds: Collection[str] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.silent_share < 1:
            raise ValueError("silent_share is a number from 0 to below 1")
        if any(weight < 0 for weight in self.weights.values()):
            raise ValueError("weights are numbers from 0")


class Traffic:
    """Acts on the vendor and hands the webhooks to the sender; one instance, so that one seed gives one history."""

    def __init__(
        self,
        *,
        vendor: PretendVendor,
        sender: WebhookSender,
        clock: SandboxClock,
        rng: random.Random,
        stats: Stats,
        ledger: Ledger,
    ) -> None:
        self._vendor = vendor
        self._sender = sender
        self._clock = clock
        self._rng = rng
        self._stats = stats
        self._ledger = ledger

    def act(self, name: str, arguments: Arguments, *, is_lost: bool = False) -> Effect:
        """Do one action now, its webhooks sent or (`is_lost`) lost.

        Raises NotPossibleError or BadArgumentError, and then nothing has changed.
        """
        action = self._vendor.actions.get(name)
        if action is None:
            known = ", ".join(self._vendor.actions)
            raise NotPossibleError(f"unknown action {name!r}; known: {known}")
        revision, now_ms = self._vendor.revision, self._clock.now_ms()
        effect = action.do(now_ms, arguments)
        self._stats.actions[name] += 1
        sent = [(webhook, self._sender.take(webhook, is_lost=is_lost)) for webhook in effect.webhooks]
        self._ledger.write(name, now_ms, self._vendor.changes_since(revision), sent)
        return effect

    def act_by_chance(self, mix: TrafficMix, most_webhooks: int | None = None) -> Effect:
        """Do one action by the weights, firing at most so many webhooks."""
        silent = self._rng.random() < mix.silent_share
        names, weights = self._choices(mix, silent=silent, most_webhooks=most_webhooks)
        if not names:
            raise NotPossibleError("the mix leaves no action; give some a weight above 0")
        for _ in range(_DRAWS):
            (name,) = self._rng.choices(names, weights)
            try:
                return self.act(name, Arguments())
            except NotPossibleError:
                continue  # nothing waits to be confirmed, say: chance draws again
        raise NotPossibleError(f"none of {', '.join(names)} is possible with the present data")

    def _choices(self, mix: TrafficMix, *, silent: bool, most_webhooks: int | None) -> tuple[list[str], list[float]]:
        def wanted(action: Action) -> bool:
            if silent:
                return action.kind is None
            return (
                action.kind is not None
                and (mix.kinds is None or action.kind in mix.kinds)
                and (most_webhooks is None or action.most_webhooks <= most_webhooks)
            )

        chosen = [action for action in self._vendor.actions.values() if wanted(action)]
        weighed = [(action.name, mix.weights.get(action.name, action.weight)) for action in chosen]
        weighed = [(name, weight) for name, weight in weighed if weight > 0]
        return [name for name, _ in weighed], [weight for _, weight in weighed]

    async def flow(self, rate_per_s: float, mix: TrafficMix) -> None:
        """Act at that mean rate, in real time, with exponential gaps, until cancelled."""
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        while True:
            next_s += self._rng.expovariate(rate_per_s)
            await asyncio.sleep(max(next_s - loop.time(), 0))
            await self._sender.room()
            self.act_by_chance(mix)

    async def burst(self, webhooks: int, mix: TrafficMix) -> int:
        """Act until exactly so many webhooks (doubles and drops not counted) are handed over; returns the actions."""
        left, actions = webhooks, 0
        while left > 0:
            left -= len(self.act_by_chance(mix, most_webhooks=left).webhooks)
            actions += 1
            if actions % _YIELD_EVERY == 0:  # let sending begin, and pause while the backlog is long
                await asyncio.sleep(0)
                await self._sender.room()
        return actions
