"""The pretend IntakeQ as the shared parts see it: its actions and how often chance picks them, its API, its truth."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web

from eventsync.sandbox.intakeq import document_forms as forms
from eventsync.sandbox.intakeq.api import ROUTES, IntakeQApi
from eventsync.sandbox.intakeq.appointment_desk import LARGEST_SERIES, AppointmentDesk
from eventsync.sandbox.intakeq.appointment_forms import single_form
from eventsync.sandbox.intakeq.bulk_desk import LARGEST_BULK, BulkDesk
from eventsync.sandbox.intakeq.paperwork import Paperwork
from eventsync.sandbox.intakeq.population import PracticeSize, populate
from eventsync.sandbox.intakeq.practice import Practice, PracticeProfile, practice_from_state
from eventsync.sandbox.intakeq.records import RecordKind
from eventsync.sandbox.options import SandboxOptions
from eventsync.sandbox.signing import SignatureForm
from eventsync.sandbox.vendor import Action, ApiForm, Fact, RecordChange

_WEBHOOK_KINDS = tuple(kind.value for kind in RecordKind if kind is not RecordKind.CLIENT)


def _error_body(words: str) -> dict[str, Any]:
    return {"Message": words}


_API = ApiForm(prefix="/api/v1", routes=tuple(ROUTES), auth_header="X-Auth-Key", error_body=_error_body, empty_list=[])
_GATEWAY = SignatureForm()  # IntakeQ itself signs nothing


@dataclass(slots=True)
class IntakeQVendor:
    """One practice behind IntakeQ's API and webhooks."""

    practice: Practice
    actions: Mapping[str, Action]
    name: str = "intakeq"
    webhook_kinds: tuple[str, ...] = _WEBHOOK_KINDS
    truth_kinds: tuple[str, ...] = tuple(kind.value for kind in RecordKind)
    api: ApiForm = _API
    signature_form: SignatureForm = _GATEWAY

    @property
    def account_id(self) -> str:
        """The PracticeId."""
        return self.practice.profile.practice_id

    @property
    def serial(self) -> int:
        """Numbers every id ever given."""
        return self.practice.serial

    @property
    def revision(self) -> int:
        """Counts every change."""
        return self.practice.revision

    def changes_since(self, revision: int) -> list[RecordChange]:
        """Every change after that revision; raises LookupError when some are forgotten."""
        changes = self.practice.changes.between(revision, self.practice.revision)
        if changes is None:
            raise LookupError(f"changes since revision {revision} are not known any more")
        return changes

    def counts(self) -> dict[str, int]:
        """How many records of each kind there are; deleted appointments apart."""
        return {
            "appointments": len(self.practice.appointments),
            "deleted_appointments": len(self.practice.deleted_appointments),
            "clients": len(self.practice.clients),
            "intakes": len(self.practice.intakes),
            "notes": len(self.practice.notes),
            "invoices": len(self.practice.invoices),
        }

    def truth(self, kind: str | None) -> Iterable[Fact]:
        """Every record as the API's single form; copied at the call, so that it is one moment's truth."""
        chosen = self.truth_kinds if kind is None else (kind,)
        copies = [list(self._records(name)) for name in chosen]
        return (
            Fact(name, deleted, form()) for name, rows in zip(chosen, copies, strict=True) for deleted, form in rows
        )

    def _records(self, kind: str) -> Iterable[tuple[bool, Callable[[], dict[str, Any]]]]:
        """Each record of a kind: whether it is deleted, and how to write it (later: records never change)."""
        practice, staff = self.practice, self.practice.practitioners
        match kind:
            case RecordKind.APPOINTMENT:
                rows = (*practice.appointments.values(), *practice.deleted_appointments.values())
                return ((a.deleted_ms is not None, partial(single_form, a, practice.zone)) for a in rows)
            case RecordKind.CLIENT:
                clients = practice.clients.values()
                return ((c.deleted_ms is not None, partial(forms.client_profile, c)) for c in clients)
            case RecordKind.INTAKE:
                intakes = practice.intakes.values()
                return ((False, partial(forms.intake_full, x, staff[x.practitioner_id])) for x in intakes)
            case RecordKind.NOTE:
                notes = practice.notes.values()
                return ((False, partial(forms.note_full, x, staff[x.practitioner_id])) for x in notes)
            case _:
                return ((False, partial(forms.invoice_form, x)) for x in practice.invoices.values())

    def add_routes(self, app: web.Application, now_ms: Callable[[], int]) -> None:
        """Serve the API."""
        IntakeQApi(self.practice, now_ms).add_routes(app)

    def add_control_routes(self, app: web.Application) -> None:
        """Nothing: its API only reads, so the shared parts tell all."""

    def to_state(self) -> dict[str, Any]:
        """The whole practice."""
        return self.practice.to_state()


def intakeq_actions(practice: Practice) -> dict[str, Action]:
    """Every action; the weights make a lively practice whose size stays about the same (0: never by chance)."""
    desk, paper = AppointmentDesk(practice), Paperwork(practice)
    bulk = BulkDesk(practice, desk, paper)
    appointment, invoice = RecordKind.APPOINTMENT, RecordKind.INVOICE
    actions = (
        Action(name="book", do=desk.book, weight=26, kind=appointment),
        Action(name="confirm", do=desk.confirm, weight=10, kind=appointment),
        Action(name="reschedule", do=desk.reschedule, weight=20, kind=appointment),
        Action(name="cancel", do=desk.cancel, weight=12, kind=appointment),
        Action(name="decline", do=desk.decline, weight=2, kind=appointment),
        Action(name="miss", do=desk.miss, weight=5, kind=appointment),
        Action(name="delete", do=desk.delete, weight=6, kind=appointment),
        Action(name="book_series", do=desk.book_series, weight=0.5, kind=appointment, most_webhooks=LARGEST_SERIES),
        Action(name="stop_series", do=desk.stop_series, weight=0.3, kind=appointment, most_webhooks=LARGEST_SERIES),
        Action(name="submit_intake", do=paper.submit_intake, weight=4, kind=RecordKind.INTAKE),
        Action(name="lock_note", do=paper.lock_note, weight=5, kind=RecordKind.NOTE),
        Action(name="issue_invoice", do=paper.issue_invoice, weight=4, kind=invoice),
        Action(name="pay_invoice", do=paper.pay_invoice, weight=3, kind=invoice),
        Action(name="refund_invoice", do=paper.refund_invoice, weight=0.5, kind=invoice),
        Action(name="cancel_invoice", do=paper.cancel_invoice, weight=0.5, kind=invoice),
        Action(name="fail_charge", do=paper.fail_charge, weight=0.5, kind=invoice),
        Action(name="edit", do=desk.edit, weight=6, kind=None),
        Action(name="edit_client", do=paper.edit_client, weight=3, kind=None),
        Action(name="add_client", do=paper.add_client, weight=1, kind=None),
        Action(name="delete_client", do=paper.delete_client, weight=0.05, kind=None),
        Action(name="restore", do=desk.restore, weight=0, kind=None),
        Action(name="book_many", do=bulk.book_many, weight=0, kind=appointment, most_webhooks=LARGEST_BULK),
        Action(name="delete_many", do=bulk.delete_many, weight=0, kind=appointment, most_webhooks=LARGEST_BULK),
        Action(name="add_clients", do=bulk.add_clients, weight=0, kind=None),
        Action(name="delete_clients", do=bulk.delete_clients, weight=0, kind=None),
        Action(name="send_intake", do=paper.send_intake, weight=1, kind=None),
    )
    return {action.name: action for action in actions}


def open_intakeq(options: SandboxOptions, now_ms: int) -> IntakeQVendor:
    """A new practice as the options describe it, as it stands at that time."""
    seed = options.seed
    profile = PracticeProfile(
        seed=seed,
        practice_id=options.practice_id or hashlib.sha256(f"practice id {seed}".encode()).hexdigest()[:24],
        time_zone=options.time_zone,
        tie_share=options.tie_share,
        float_share=options.float_share,
    )
    size = PracticeSize(clients=options.clients, practitioners=options.practitioners, appointments=options.appointments)
    practice = populate(profile, size, now_ms)
    return IntakeQVendor(practice, intakeq_actions(practice))


def reopen_intakeq(state: dict[str, Any]) -> IntakeQVendor:
    """The practice that `to_state` wrote; raises KeyError, TypeError or ValueError when it is something else."""
    practice = practice_from_state(state)
    return IntakeQVendor(practice, intakeq_actions(practice))
