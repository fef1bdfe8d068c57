"""One running pretend vendor: what tests, the demo and the control API do to it."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.clock import SandboxClock
from eventsync.sandbox.delivery import WebhookSender
from eventsync.sandbox.errors import BadArgumentError, NotPossibleError, OptionsError
from eventsync.sandbox.faults import Faults
from eventsync.sandbox.gate import ApiGate
from eventsync.sandbox.ledger import Ledger
from eventsync.sandbox.quota import Quota, QuotaLimits
from eventsync.sandbox.script import ApiScript
from eventsync.sandbox.stats import Stats
from eventsync.sandbox.traffic import Traffic, TrafficMix
from eventsync.sandbox.vendor import Effect, Fact, PretendVendor


@dataclass(frozen=True, slots=True)
class BurstResult:
    """What a burst did; `idle` is False when deliveries were still open at the time limit."""

    webhooks: int
    actions: int
    idle: bool
    duration_s: float


class Sandbox:
    """The vendor with its clock, sender, gate, traffic and ledger; all public for tests in the same process."""

    def __init__(
        self,
        *,
        vendor: PretendVendor,
        clock: SandboxClock,
        sender: WebhookSender,
        gate: ApiGate,
        traffic: Traffic,
        stats: Stats,
        ledger: Ledger,
        default_quota: QuotaLimits,
    ) -> None:
        self.vendor = vendor
        self.clock = clock
        self.sender = sender
        self.gate = gate
        self.traffic = traffic
        self.stats = stats
        self.ledger = ledger
        self.default_quota = default_quota  # the vendor's own, whatever is in force
        self._flow: asyncio.Task[None] | None = None

    @property
    def faults(self) -> Faults:
        """The faults in force."""
        return self.gate.faults

    @property
    def script(self) -> ApiScript:
        """What the next API calls get."""
        return self.gate.script

    @property
    def traffic_runs(self) -> bool:
        """Whether traffic was started and has not ended."""
        return self._flow is not None and not self._flow.done()

    def set_faults(self, faults: Faults) -> None:
        """Put other faults in force, for webhooks and API calls to come."""
        self.sender.faults = faults
        self.gate.faults = faults

    def set_quota(self, limits: QuotaLimits) -> None:
        """Put another quota in force, with nothing spent yet."""
        self.gate.quota = Quota(limits)

    def set_api_key(self, api_key: str) -> None:
        """Replace the one key, as generating a new one does: the old one gets 401 at once."""
        if not api_key:
            raise BadArgumentError("api_key must not be empty")
        self.gate.api_key = api_key

    def set_targets(self, targets: Mapping[str, str]) -> None:
        """Choose the URL of each webhook kind; kinds not named get none. Raises OptionsError for an unknown kind."""
        check_targets(self.vendor, targets)
        self.sender.targets = dict(targets)

    def act(self, name: str, **arguments: Any) -> Effect:
        """Do one action; raises NotPossibleError or BadArgumentError."""
        return self.traffic.act(name, Arguments(arguments))

    def act_unheard(self, name: str, **arguments: Any) -> Effect:
        """Do one action whose webhooks are lost on the way; raises as `act` does."""
        return self.traffic.act(name, Arguments(arguments), is_lost=True)

    async def start_traffic(self, rate_per_s: float, mix: TrafficMix) -> None:
        """Act at that mean rate from now on, instead of what ran before."""
        if rate_per_s <= 0:
            raise ValueError("rate_per_s must be above 0; stop the traffic instead")
        await self.stop_traffic()
        self._flow = asyncio.create_task(self.traffic.flow(rate_per_s, mix))

    async def stop_traffic(self) -> None:
        """Stop acting; what was sent or waits to be sent is not touched. Raises what ended the traffic early."""
        flow, self._flow = self._flow, None
        if flow is None:
            return
        flow.cancel()
        await asyncio.wait([flow])
        if not flow.cancelled():
            flow.result()

    async def burst(self, webhooks: int, mix: TrafficMix | None = None, timeout_s: float = 120.0) -> BurstResult:
        """Fire exactly so many webhooks as fast as they are taken, and wait until all copies are answered.

        Without a mix there are no silent changes, and only kinds with a target are fired.
        """
        mix = mix or TrafficMix(silent_share=0)
        if not self.sender.targets:
            raise NotPossibleError("no webhook target is set: POST /_sandbox/webhook-targets first")
        if mix.kinds is None:
            mix = TrafficMix(silent_share=mix.silent_share, weights=mix.weights, kinds=[*self.sender.targets])
        started_s = time.monotonic()
        actions = await self.traffic.burst(webhooks, mix)
        idle = await self.sender.idle(timeout_s)
        return BurstResult(webhooks, actions, idle, time.monotonic() - started_s)

    async def quiesce(self, timeout_s: float = 120.0) -> bool:
        """Stop traffic and wait until nothing is on its way; False when that took too long."""
        await self.stop_traffic()
        return await self.sender.idle(timeout_s)

    def truth(self, kind: str | None = None) -> Iterable[Fact]:
        """The vendor's own data, one moment's copy."""
        return self.vendor.truth(kind)


def check_targets(vendor: PretendVendor, targets: Mapping[str, str]) -> None:
    """Refuse a webhook kind that the vendor does not have."""
    unknown = sorted(set(targets) - set(vendor.webhook_kinds))
    if unknown:
        raise OptionsError(f"unknown webhook kinds {unknown}; known: {', '.join(vendor.webhook_kinds)}")
