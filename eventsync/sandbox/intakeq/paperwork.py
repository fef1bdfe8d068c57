"""What happens to clients' profiles, questionnaires, notes and invoices, and which webhooks it owes."""

from dataclasses import replace
from typing import Any

from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.errors import NotPossibleError
from eventsync.sandbox.intakeq.invention import invent_client, invent_profile_edit
from eventsync.sandbox.intakeq.practice import Practice
from eventsync.sandbox.intakeq.records import Intake, Invoice, InvoiceStatus, Note
from eventsync.sandbox.intakeq.webhooks import intake_webhook, invoice_webhook, note_webhook
from eventsync.sandbox.vendor import Effect

_DAY_MS = 86_400_000
_QUESTIONNAIRES = ("Intake Form", "Consent Form", "PHQ-9")
_TRIES = 40
_PROFILE = ("email", "phone", "first_name", "last_name", "date_of_birth", "city")


def _profile(args: Arguments) -> dict[str, Any]:
    """The parts of a client's profile that are given."""
    return {name: value for name in _PROFILE if (value := args.text(name)) is not None}


class Paperwork:
    """Every public method is an action, told the time; what its arguments leave out is left to chance."""

    def __init__(self, practice: Practice) -> None:
        self._practice = practice
        self._rng = practice.rng

    def add_client(self, now_ms: int, args: Arguments) -> Effect:
        """A new client; no webhook exists for it. What `edit_client` takes may be given, and `nameless` true."""
        given = _profile(args)
        if args.flag("nameless"):
            given |= {"first_name": None, "last_name": None}
        args.finish()
        client = replace(invent_client(self._practice, now_ms, now_ms), **given)
        self._practice.put_client(client)
        return Effect(str(client.id))

    def edit_client(self, now_ms: int, args: Arguments) -> Effect:
        """A profile edit without webhook; `client_id`, and what changes, each as text.

        `email`, `phone`, `first_name`, `last_name`, `date_of_birth` (YYYY-MM-DD), `city`. The client's appointments
        show the old details until each is changed itself.
        """
        client = self._practice.client_or_any(args.whole("client_id"))
        given = _profile(args)
        args.finish()
        modified_ms = self._practice.advance_ms(client.modified_ms, now_ms)
        if given:
            edited = replace(client, modified_ms=modified_ms, **given)
        else:
            edited = invent_profile_edit(self._practice, client, modified_ms)
        self._practice.put_client(edited)
        return Effect(str(client.id))

    def delete_client(self, now_ms: int, args: Arguments) -> Effect:
        """A client is deleted, without webhook; `client_id`, `deleted_ms`. The appointments stay."""
        client = self._practice.client_or_any(args.whole("client_id"))
        at_ms = args.past_ms("deleted_ms", now_ms)
        args.finish()
        modified_ms = self._practice.advance_ms(client.modified_ms, at_ms)
        self._practice.put_client(replace(client, deleted_ms=at_ms, modified_ms=modified_ms))
        return Effect(str(client.id))

    def send_intake(self, now_ms: int, args: Arguments) -> Effect:
        """A questionnaire is sent to a client, without webhook; `client_id`."""
        client = self._practice.client_or_any(args.whole("client_id"))
        args.finish()
        number = self._rng.randrange(len(_QUESTIONNAIRES))
        intake = Intake(
            id=self._practice.guid(),
            client_id=client.id,
            client_name=client.name,
            client_email=client.email,
            status="Sent",
            questionnaire_id=f"questionnaire-{number + 1}",
            questionnaire_name=_QUESTIONNAIRES[number],
            practitioner_id=client.practitioner_id,
            answers=[],
            created_ms=now_ms,
            submitted_ms=None,
            modified_ms=now_ms,
        )
        self._practice.put_intake(intake)
        return Effect(intake.id)

    def submit_intake(self, now_ms: int, args: Arguments) -> Effect:
        """A client submits a questionnaire; `id` of one that was sent, or `client_id` for a new one."""
        intake_id = args.text("id")
        if intake_id is None:
            intake_id = self.send_intake(now_ms, args).record_id
        args.finish()
        intake = self._practice.intakes.get(intake_id)
        if intake is None or intake.submitted_ms is not None:
            raise NotPossibleError(f"no questionnaire {intake_id!r} waits for its answers")
        submitted = replace(
            intake,
            status="Completed",
            answers=[f"Sample answer {self._rng.randrange(1000)}" for _ in range(3)],
            submitted_ms=now_ms,
            modified_ms=self._practice.advance_ms(intake.modified_ms, now_ms),
        )
        self._practice.put_intake(submitted)
        return Effect(intake.id, (intake_webhook(submitted),))

    def lock_note(self, now_ms: int, args: Arguments) -> Effect:
        """A note is written and locked, or (`id`) edited and locked again: each lock fires."""
        note_id, client_id = args.text("id"), args.whole("client_id")
        args.finish()
        if note_id is None and client_id is None and self._rng.random() < 0.3:
            note_id = self._practice.note_ids.pick(self._rng)
        note = self._new_note(client_id, now_ms) if note_id is None else self._practice.notes.get(note_id)
        if note is None:
            raise NotPossibleError(f"no note {note_id!r}")
        locked = replace(
            note,
            locked=True,
            text=f"Sample text {self._rng.randrange(1000)}",
            modified_ms=self._practice.advance_ms(note.modified_ms, now_ms),
        )
        self._practice.put_note(locked)
        return Effect(note.id, (note_webhook(locked),))

    def _new_note(self, client_id: int | None, now_ms: int) -> Note:
        client = self._practice.client_or_any(client_id)
        return Note(
            id=self._practice.object_id(now_ms),
            client_id=client.id,
            client_name=client.name,
            client_email=client.email,
            locked=False,
            name="Progress Note",
            practitioner_id=client.practitioner_id,
            appointment_id=None,
            text="",
            date_ms=now_ms,
            modified_ms=now_ms,
        )

    def issue_invoice(self, now_ms: int, args: Arguments) -> Effect:
        """An invoice for a session; `client_id`."""
        client = self._practice.client_or_any(args.whole("client_id"))
        args.finish()
        service = self._practice.one_of(self._practice.services, None)
        invoice = Invoice(
            id=self._practice.object_id(now_ms),
            number=len(self._practice.invoices) + 1,
            client_id=client.id,
            client_guid=client.guid,
            client_name=client.name,
            client_email=client.email,
            appointment_id=None,
            practitioner_id=client.practitioner_id,
            description=service.name,
            status=InvoiceStatus.UNPAID,
            total=service.price,
            paid=0,
            issued_ms=now_ms,
            due_ms=now_ms + 14 * _DAY_MS,
            created_ms=now_ms,
            modified_ms=now_ms,
        )
        self._practice.put_invoice(invoice)
        return Effect(invoice.id, (invoice_webhook("InvoiceIssued", invoice, by_client=False),))

    def pay_invoice(self, now_ms: int, args: Arguments) -> Effect:
        """An unpaid invoice is paid; `id`."""
        invoice = self._invoice(args, InvoiceStatus.UNPAID, InvoiceStatus.PAST_DUE)
        payment = {"Amount": invoice.total, "Date": now_ms, "Method": "CreditCard"}
        paid = {
            "status": InvoiceStatus.PAID,
            "paid": invoice.total,
            "payments": [*invoice.payments, payment],
        }
        return self._invoiced("InvoicePaid", invoice, now_ms, by_client=True, **paid)

    def refund_invoice(self, now_ms: int, args: Arguments) -> Effect:
        """A paid invoice is refunded; `id`."""
        invoice = self._invoice(args, InvoiceStatus.PAID)
        return self._invoiced("InvoicePaymentRefunded", invoice, now_ms, status=InvoiceStatus.REFUNDED, paid=0)

    def cancel_invoice(self, now_ms: int, args: Arguments) -> Effect:
        """An unpaid invoice is cancelled; `id`. The event has two Ls, the status one."""
        invoice = self._invoice(args, InvoiceStatus.UNPAID, InvoiceStatus.PAST_DUE)
        return self._invoiced("InvoiceCancelled", invoice, now_ms, status=InvoiceStatus.CANCELED)

    def fail_charge(self, now_ms: int, args: Arguments) -> Effect:
        """An automatic charge fails; `id`, `plan` true for that of a payment plan."""
        plan = args.flag("plan")
        invoice = self._invoice(args, InvoiceStatus.UNPAID, InvoiceStatus.PAST_DUE)
        of_plan = self._rng.random() < 0.5 if plan is None else plan
        event = "InvoicePaymentPlanChargeFailed" if of_plan else "InvoiceAutoChargeFailed"
        return self._invoiced(event, invoice, now_ms, status=InvoiceStatus.PAST_DUE)

    def _invoice(self, args: Arguments, *statuses: InvoiceStatus) -> Invoice:
        wanted = args.text("id")
        args.finish()
        if wanted is not None:
            invoice = self._practice.invoices.get(wanted)
            if invoice is None or invoice.status not in statuses:
                raise NotPossibleError(f"no invoice {wanted!r} that is {' or '.join(statuses)}")
            return invoice
        for _ in range(_TRIES):
            picked = self._practice.invoice_ids.pick(self._rng)
            if picked is not None and self._practice.invoices[picked].status in statuses:
                return self._practice.invoices[picked]
        raise NotPossibleError(f"no invoice is {' or '.join(statuses)}")

    def _invoiced(
        self, event: str, invoice: Invoice, now_ms: int, *, by_client: bool = False, **changes: Any
    ) -> Effect:
        modified_ms = self._practice.advance_ms(invoice.modified_ms, now_ms)
        changed = replace(invoice, modified_ms=modified_ms, **changes)
        self._practice.put_invoice(changed)
        return Effect(invoice.id, (invoice_webhook(event, changed, by_client=by_client),))
