"""Every POST that came, and what became of it: what tests of delivering once are judged by."""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

KEPT = 200_000


@dataclass(slots=True)
class Post:
    """One POST: when it came (sandbox's time, and this machine's monotonic clock), and its end once it has one.

    `body_hash` is the same for the same JSON value. `is_committed`: it wrote; `is_replayed`: it was told again what its
    key wrote before. `status` is what was answered, None as long as nothing is, and where the answer was lost, that is
    the connection ended before it could be sent. `is_overlapping`: another POST of its organization was not yet
    answered when it came.
    """

    number: int
    at_ms: int
    arrived_s: float
    idempotency_key: str | None
    app_org_id: str | None
    body_hash: str
    is_overlapping: bool
    is_committed: bool = False
    is_replayed: bool = False
    is_lost: bool = False
    status: int | None = None
    is_open: bool = True  # it has no end yet

    @property
    def is_accepted(self) -> bool:
        """Whether its sender was told that the organization is registered."""
        has_effect = self.is_committed or self.is_replayed
        return has_effect and self.status is not None and 200 <= self.status <= 299

    def as_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"is_accepted": self.is_accepted}


@dataclass(frozen=True, slots=True)
class KeyCounts:
    """How often one idempotency key came, wrote (at most once, if all is well), and was told 2xx of it."""

    received: int
    committed: int
    accepted: int


class PostBook:
    """The POSTs since the start in order; of more than `kept` the oldest are forgotten."""

    def __init__(self, kept: int = KEPT) -> None:
        self._posts: deque[Post] = deque(maxlen=kept)
        self._opened = 0
        self._open: Counter[str | None] = Counter()  # by organization

    def __iter__(self) -> Iterator[Post]:
        return iter(tuple(self._posts))

    def __len__(self) -> int:
        return len(self._posts)

    def open(self, *, at_ms: int, arrived_s: float, key: str | None, app_org_id: str | None, body_hash: str) -> Post:
        """Note one that came."""
        is_overlapping = app_org_id is not None and self._open[app_org_id] > 0
        post = Post(self._opened, at_ms, arrived_s, key, app_org_id, body_hash, is_overlapping)
        self._opened += 1
        self._open[app_org_id] += 1
        self._posts.append(post)
        return post

    def close(self, post: Post, status: int | None, *, is_lost: bool) -> None:
        """Note its end."""
        post.is_open = False
        post.is_lost = is_lost
        post.status = None if is_lost else status
        self._open[post.app_org_id] -= 1
        if not self._open[post.app_org_id]:
            del self._open[post.app_org_id]

    def mark(self) -> int:
        """The number that the next one will have: give it as `since` to see only what comes."""
        return self._opened

    def since(self, number: int = 0) -> list[Post]:
        """The POSTs from that number on. Raises LookupError when some of them were forgotten."""
        oldest = self._posts[0].number if self._posts else self._opened
        if self._opened and number < oldest:
            raise LookupError(f"POSTs before {oldest} are forgotten; ask since a later one")
        newest = islice(reversed(self._posts), max(self._opened - number, 0))  # a look at the last few stays cheap
        return [*newest][::-1]

    def by_key(self, since: int = 0) -> dict[str, KeyCounts]:
        """What came of each idempotency key; POSTs without one are left out."""
        received: Counter[str] = Counter()
        committed: Counter[str] = Counter()
        accepted: Counter[str] = Counter()
        for post in self.since(since):
            if post.idempotency_key is not None:
                received[post.idempotency_key] += 1
                committed[post.idempotency_key] += post.is_committed
                accepted[post.idempotency_key] += post.is_accepted
        return {key: KeyCounts(count, committed[key], accepted[key]) for key, count in received.items()}

    def needless(self, since: int = 0) -> list[Post]:
        """The POSTs whose key had been accepted before they came: nobody had to send them."""
        accepted: set[str] = set()
        found = []
        for post in self.since(since):
            if post.idempotency_key in accepted:
                found.append(post)
            elif post.is_accepted and post.idempotency_key is not None:
                accepted.add(post.idempotency_key)
        return found
