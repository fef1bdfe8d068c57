"""What the sandbox has sent and answered so far, in plain counts."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Stats:
    """Counters since the start; `webhooks` counts changes worth a webhook, `sent` counts POSTs, doubles included."""

    webhooks: Counter[str] = field(default_factory=Counter)  # by event name
    sent: Counter[str] = field(default_factory=Counter)  # by kind
    answers: Counter[str] = field(default_factory=Counter)  # by status, or "timeout" / "connection"
    dropped: int = 0
    duplicated: int = 0
    delayed: int = 0
    reordered: int = 0
    untargeted: int = 0  # no URL is set for the kind
    abandoned: int = 0  # not yet sent when the sandbox stopped
    actions: Counter[str] = field(default_factory=Counter)
    api_calls: Counter[str] = field(default_factory=Counter)  # by method and route
    api_answers: Counter[str] = field(default_factory=Counter)  # by status; "none" where the connection was cut
    rate_limited: int = 0
    failed_saves: int = 0  # of the state file

    def as_json(self) -> dict[str, Any]:
        """All counts as a JSON object."""
        return {
            "webhooks": sum(self.webhooks.values()),
            "webhooks_by_event": dict(self.webhooks),
            "sent": sum(self.sent.values()),
            "sent_by_kind": dict(self.sent),
            "answers": dict(self.answers),
            "dropped": self.dropped,
            "duplicated": self.duplicated,
            "delayed": self.delayed,
            "reordered": self.reordered,
            "untargeted": self.untargeted,
            "abandoned": self.abandoned,
            "actions": dict(self.actions),
            "api_calls": sum(self.api_calls.values()),
            "api_calls_by_route": dict(self.api_calls),
            "api_answers": dict(self.api_answers),
            "rate_limited": self.rate_limited,
            "failed_saves": self.failed_saves,
        }
