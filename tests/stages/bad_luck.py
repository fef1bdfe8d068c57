"""What a pretend Colectiva does to POSTs by chance: a tenth is spoilt, and now and then a deliverer is killed."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from eventsync.sandbox import ApiAnswer, ApiScript, ScriptedCall
from eventsync.sandbox.colectiva.posts import Post
from eventsync.sandbox.colectiva.vendor import ColectivaVendor
from stages.deliverers import Deliverers

_ROUTE = "/ecosystem-orgs"
_SLOW_SHARE, _SLOWEST_S = 0.02, 0.3
_LATEST_KILL_S = 0.05
_FIRST_DOOMED = 20  # a register: those that waited from the beginning come first, and nothing supersedes them


@dataclass(frozen=True, slots=True)
class Fault:
    """What is answered instead of the truth, and whether it counts as an attempt."""

    answer: ApiAnswer | None
    status: int = 500
    retry_after_s: int | None = None
    is_counted: bool = True


COUNTED = (
    Fault(ApiAnswer.STATUS, 500),
    Fault(ApiAnswer.STATUS, 502),
    Fault(ApiAnswer.STATUS, 503, retry_after_s=5),
    Fault(ApiAnswer.HTML, 200),
    Fault(ApiAnswer.HTML, 503),
    Fault(ApiAnswer.LOST),
    Fault(ApiAnswer.CUT),
    Fault(ApiAnswer.CUT_MIDWAY),
)
NOTHING = Fault(None)
FAULTS = (*COUNTED, Fault(ApiAnswer.STATUS, 429, retry_after_s=5, is_counted=False))


class BadLuck(ApiScript):
    """Draws for each POST what happens to it; of every `doom_every`-th item the first three attempts fail, 0 for none.

    `met` are the faults by the POST's number; `versions` is what each organization was at Colectiva, write by write.
    """

    def __init__(
        self,
        vendor: ColectivaVendor,
        deliverers: Deliverers,
        rng: Random,
        *,
        fault_share: float,
        doom_every: int,
        kill_at: Sequence[int],
    ) -> None:
        super().__init__(vendor.api.routes)
        self.met: dict[int, Fault] = {}
        self.versions: Mapping[str, list[int]] = defaultdict(list)
        self.doom_every = doom_every
        self._vendor = vendor
        self._deliverers = deliverers
        self._rng = rng
        self._fault_share = fault_share
        self._kills = [*sorted(kill_at, reverse=True)]
        self._attempts: Counter[str | None] = Counter()
        self._doomed: set[str | None] = set()

    def play(self, method: str, route: str, query: Mapping[str, str]) -> tuple[ScriptedCall, ...]:
        """Say what happens to the call that has just come."""
        if method != "POST":
            return super().play(method, route, query)
        posts = self._vendor.posts
        (post,) = posts.since(posts.mark() - 1)  # noted before it is asked what becomes of it
        if self._kills and post.number >= self._kills[-1]:
            self._kills.pop()
            return (self._killing(post, len(self._kills) % 3),)
        fault = self._drawn(post)
        if fault is not NOTHING:
            self.met[post.number] = fault
        return (self._scripted(post, fault),)

    def _drawn(self, post: Post) -> Fault:
        key = post.idempotency_key
        self._attempts[key] += 1
        if self._attempts[key] == 1 and self.doom_every and len(self._attempts) % self.doom_every == _FIRST_DOOMED:
            self._doomed.add(key)
        if key in self._doomed and self._attempts[key] <= 3:
            return self._rng.choice(COUNTED)
        return self._rng.choice(FAULTS) if self._rng.random() < self._fault_share else NOTHING

    def _scripted(self, post: Post, fault: Fault) -> ScriptedCall:
        wait_s = self._rng.random() * _SLOWEST_S if self._rng.random() < _SLOW_SHARE else 0.0

        async def before() -> None:
            await asyncio.sleep(wait_s)

        async def after() -> None:
            self._look_at(post)

        return ScriptedCall(
            route=_ROUTE,
            answer=fault.answer,
            status=fault.status,
            retry_after_s=fault.retry_after_s,
            before=before,
            after=after,
        )

    def _killing(self, post: Post, way: int) -> ScriptedCall:
        """Kill the sender before it is answered, or before it hears the answer, or anyone at about that time."""

        async def after() -> None:
            self._look_at(post)
            if way == 0:
                await self._deliverers.kill_sender(post.idempotency_key)
            elif way == 1:
                await self._deliverers.kill_deaf_sender(post.idempotency_key, lambda: _is_over(post))
            else:
                self._deliverers.kill_one(self._rng, self._rng.random() * _LATEST_KILL_S)

        return ScriptedCall(route=_ROUTE, after=after)

    def _look_at(self, post: Post) -> None:
        """Note the version of the organization if the POST wrote one: POSTs of one never overlap."""
        organization = self._vendor.organizations.get(post.app_org_id or "")
        if post.is_committed and organization is not None:
            name = organization.registration.name.removesuffix(" (Independent Therapist)")
            self.versions[organization.app_org_id].append(int(name.rpartition(" v")[2]))


def _is_over(post: Post) -> bool:
    return post.status is not None or post.is_lost
