"""The pretend Colectiva as the shared parts see it: its actions, its API, its truth, and the POSTs that it noted."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.colectiva.api import ORGANIZATIONS, ColectivaApi
from eventsync.sandbox.colectiva.books import ORGANIZATION, Books, books_from_state
from eventsync.sandbox.colectiva.control import PostControl
from eventsync.sandbox.colectiva.forms import PAYMENT, payment_data, whole
from eventsync.sandbox.colectiva.organizations import Organization
from eventsync.sandbox.colectiva.payment_desk import PaymentDesk
from eventsync.sandbox.colectiva.posts import PostBook
from eventsync.sandbox.colectiva.registry import Registry, error_body
from eventsync.sandbox.errors import OptionsError
from eventsync.sandbox.options import SandboxOptions
from eventsync.sandbox.signing import SignatureForm
from eventsync.sandbox.vendor import Action, ApiForm, Effect, Fact, RecordChange

_API = ApiForm(
    prefix="/api",
    routes=(ORGANIZATIONS,),
    auth_header="Authorization",
    auth_prefix="Bearer ",
    error_body=error_body,
    empty_list={"success": True, "orgs": [], "count": 0, "total": 0},
)
_SIGNATURE = SignatureForm("x-colectiva-signature", "sha256=")


@dataclass(slots=True)
class ColectivaVendor:
    """One marketplace with one app's key; `organizations` are by the app's id of them."""

    books: Books
    registry: Registry
    actions: Mapping[str, Action]
    posts: PostBook = field(default_factory=PostBook)
    name: str = "colectiva"
    webhook_kinds: tuple[str, ...] = (PAYMENT,)
    truth_kinds: tuple[str, ...] = (ORGANIZATION, PAYMENT)
    api: ApiForm = _API
    signature_form: SignatureForm = _SIGNATURE

    @property
    def organizations(self) -> Mapping[str, Organization]:
        """Every organization as its last write left it."""
        return self.books.organizations

    @property
    def account_id(self) -> None:
        """None: its webhooks do not say whose they are."""
        return

    @property
    def serial(self) -> int:
        """Numbers every payment."""
        return self.books.serial

    @property
    def revision(self) -> int:
        """Counts every change of a record."""
        return self.books.revision

    def changes_since(self, revision: int) -> list[RecordChange]:
        """Every change after that revision; raises LookupError when some are forgotten."""
        changes = self.books.changes.between(revision, self.books.revision)
        if changes is None:
            raise LookupError(f"changes since revision {revision} are not known any more")
        return changes

    def counts(self) -> dict[str, int]:
        """How many organizations and payments there are, and how many POSTs came."""
        return {
            "organizations": len(self.books.organizations),
            "payments": len(self.books.payments),
            "posts": len(self.posts),
        }

    def truth(self, kind: str | None) -> Iterable[Fact]:
        """Every organization with all that was said of it, every payment as webhooks tell of it, and its type.

        Copied at the call, so that it is one moment's truth.
        """
        organizations = list(self.books.organizations.values()) if kind in (None, ORGANIZATION) else []
        payments = list(self.books.payments.values()) if kind in (None, PAYMENT) else []
        return itertools.chain(
            (Fact(ORGANIZATION, deleted=False, data=whole(organization)) for organization in organizations),
            (Fact(PAYMENT, deleted=False, data={"type": x.type} | payment_data(x)) for x in payments),
        )

    def add_routes(self, app: web.Application, now_ms: Callable[[], int]) -> None:
        """Serve the API."""
        ColectivaApi(books=self.books, registry=self.registry, posts=self.posts, now_ms=now_ms).add_routes(app)

    def add_control_routes(self, app: web.Application) -> None:
        """Tell of the POSTs."""
        PostControl(self.posts).add_routes(app)

    def to_state(self) -> dict[str, Any]:
        """All records, and what the registry remembers; POSTs are noted since the start only."""
        return {"books": self.books.to_state(), "registry": self.registry.to_state()}


def _switches(registry: Registry) -> tuple[Action, ...]:
    """What the account's owner or the server's operators set: never by chance, and no webhook tells of it."""

    def set_permission(_now_ms: int, args: Arguments, *, may_write: bool) -> Effect:
        args.finish()
        registry.may_write = may_write
        return Effect("")

    def set_refusal(_now_ms: int, args: Arguments, *, refuses_known: bool) -> Effect:
        args.finish()
        registry.refuses_known = refuses_known
        return Effect("")

    return (
        _switch("revoke_permission", lambda now_ms, args: set_permission(now_ms, args, may_write=False)),
        _switch("grant_permission", lambda now_ms, args: set_permission(now_ms, args, may_write=True)),
        _switch("refuse_known", lambda now_ms, args: set_refusal(now_ms, args, refuses_known=True)),
        _switch("take_known", lambda now_ms, args: set_refusal(now_ms, args, refuses_known=False)),
    )


def _switch(name: str, do: Callable[[int, Arguments], Effect]) -> Action:
    return Action(name=name, do=do, weight=0, kind=None)


def _vendor(books: Books, registry: Registry) -> ColectivaVendor:
    actions = (*PaymentDesk(books).actions(), *_switches(registry))
    return ColectivaVendor(books, registry, {action.name: action for action in actions})


def open_colectiva(options: SandboxOptions, _now_ms: int) -> ColectivaVendor:
    """A marketplace where nothing is registered yet. Raises OptionsError for a practice's id."""
    if options.practice_id is not None:
        raise OptionsError("practice_id means nothing to colectiva, which has no practices; leave it out")
    books = Books(options.seed)
    return _vendor(books, Registry(books))


def reopen_colectiva(state: dict[str, Any]) -> ColectivaVendor:
    """The marketplace that `to_state` wrote; raises KeyError or TypeError when it is something else."""
    books = books_from_state(state["books"])
    registry = Registry(books)
    registry.load_state(state["registry"])
    return _vendor(books, registry)
