"""What a sandbox is started with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from eventsync.sandbox.clock import SandboxClock
from eventsync.sandbox.delivery import SenderLimits
from eventsync.sandbox.errors import OptionsError
from eventsync.sandbox.faults import Faults
from eventsync.sandbox.quota import QuotaLimits
from eventsync.sandbox.signing import Signing

DEFAULT_API_KEY = "sandbox-api-key"  # opens invented data only


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """One pretend vendor on one port; the same seed, sizes and `start_ms` give the same practice.

    `webhook_targets`: URL by kind (IntakeQ: appointment, intake, note, invoice; Colectiva: payment). `rate_per_s`
    above 0 starts traffic at once. With `state_path` the vendor's data is loaded from there if the file exists, saved
    every `save_every_s` while it changes, and on leaving; size and id then come from the file.
    The sizes, `practice_id` (None derives one from the seed), `time_zone` and the two shares of oddities are a
    practice's; Colectiva, who has none, begins empty and refuses a `practice_id`.
    `quota` None is the vendor's own; `signing` without a header signs in the vendor's form.
    `speed` 0 lets the sandbox's time stand until its clock is moved by hand; `clock` is a clock of the caller's own
    instead of `start_ms` and `speed`. Senders, answers' delays and traffic always live in real time.
    """

    vendor: str = "intakeq"
    host: str = "127.0.0.1"
    port: int = 0  # 0: a free one
    seed: int = 1
    clients: int = 200
    practitioners: int = 5
    appointments: int = 1_000
    api_key: str = DEFAULT_API_KEY
    practice_id: str | None = None
    time_zone: str = "America/New_York"
    start_ms: int | None = None  # Unix milliseconds; None: the machine's time
    speed: float = 1.0
    clock: SandboxClock | None = None
    tie_share: float = 0.0
    float_share: float = 0.1
    faults: Faults = field(default_factory=Faults)
    quota: QuotaLimits | None = None
    signing: Signing | None = None
    sender: SenderLimits = field(default_factory=SenderLimits)
    webhook_targets: Mapping[str, str] = field(default_factory=dict)
    rate_per_s: float = 0.0
    silent_share: float = 0.1
    state_path: Path | None = None
    save_every_s: float = 5.0
    ledger_limit: int = 100_000  # changes that the ledger keeps

    def __post_init__(self) -> None:
        if self.rate_per_s < 0 or self.speed < 0 or self.save_every_s <= 0 or self.ledger_limit < 1:
            raise OptionsError("rate_per_s and speed must be at least 0, save_every_s and ledger_limit above 0")
        if self.clock is not None and self.start_ms is not None:
            raise OptionsError("give a clock or start_ms, not both: the clock has its own time")
