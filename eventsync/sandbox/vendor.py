"""What every pretend vendor offers to the shared parts: actions, an API, its own truth, and its state."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.signing import SignatureForm


@dataclass(frozen=True, slots=True)
class Webhook:
    """One message the vendor owes its subscriber: `kind` chooses the URL, `event` is the vendor's name for it.

    `record_id` names the record of that kind whose change it announces.
    """

    kind: str
    event: str
    body: bytes
    record_id: str = ""


@dataclass(frozen=True, slots=True)
class Effect:
    """What an action did: the record it touched and the webhooks it owes, in order (none for a silent change).

    `record_ids` names all of them where an action touches many.
    """

    record_id: str
    webhooks: tuple[Webhook, ...] = ()
    record_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordChange:
    """One record stored anew: the change's number in the vendor's `revision`, and the record's time of change."""

    revision: int
    kind: str
    record_id: str
    modified_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something people at the practice do. `kind` is the webhook kind it fires, None when it is silent.

    `weight` is how often chance picks it; `most_webhooks` is the most it may fire.
    """

    name: str
    do: Callable[[int, Arguments], Effect]  # (now_ms, arguments); what is left out is chosen by chance
    weight: float
    kind: str | None
    most_webhooks: int = 1


@dataclass(frozen=True, slots=True)
class Fact:
    """One record of the vendor's own data, in the form its API gives for a single record."""

    kind: str
    deleted: bool
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiForm:
    """What the shared parts need to know of a vendor's API.

    `routes` are as they are registered, below the prefix; `error_body` writes a refusal in the vendor's manner.
    """

    prefix: str
    routes: tuple[str, ...]
    auth_header: str
    auth_prefix: str = ""  # before the key, such as "Bearer "
    error_body: Callable[[str], dict[str, Any]]
    empty_list: Any  # how a list without rows is written


class PretendVendor(Protocol):
    """A vendor without clock and network: everything happens at a time that is passed in."""

    name: str
    webhook_kinds: tuple[str, ...]
    truth_kinds: tuple[str, ...]
    api: ApiForm
    signature_form: SignatureForm

    @property
    def account_id(self) -> str | None:
        """The id of this account that webhooks carry, such as IntakeQ's PracticeId; None where they carry none."""

    @property
    def serial(self) -> int:
        """Grows with the data and survives restarts; seeds what chance does next."""

    @property
    def revision(self) -> int:
        """Counts every change, so that savers know when there is something to save."""

    def changes_since(self, revision: int) -> Iterable[RecordChange]:
        """Every change after that revision, in order; raises LookupError when some of them are forgotten."""

    @property
    def actions(self) -> Mapping[str, Action]:
        """Every action by name."""

    def truth(self, kind: str | None) -> Iterable[Fact]:
        """A consistent copy of all records, or of one kind."""

    def counts(self) -> dict[str, int]:
        """How many records of each kind there are."""

    def add_routes(self, app: web.Application, now_ms: Callable[[], int]) -> None:
        """Serve the documented API; authentication, quota and faults are the gate's, the app's first middleware."""

    def add_control_routes(self, app: web.Application) -> None:
        """Serve what only this vendor has to tell, below the control API's prefix."""

    def to_state(self) -> dict[str, Any]:
        """Everything, as JSON values and dataclasses that orjson can write."""
