"""What people do with money at the marketplace: a table of steps, each an action that fires its webhook."""

from dataclasses import dataclass, replace
from functools import partial

from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.colectiva.books import Books
from eventsync.sandbox.colectiva.forms import PAYMENT, payment_webhook
from eventsync.sandbox.colectiva.payments import Payment
from eventsync.sandbox.errors import BadArgumentError, NotPossibleError
from eventsync.sandbox.vendor import Action, Effect

_USERS = 40
_HIGHEST_CENTS = 500_000


@dataclass(frozen=True, slots=True)
class _Step:
    """An action on a payment of a type: where it must stand before (nowhere: it is new), and stands after.

    `event` None is a step that no webhook tells of; `weight` is how often chance takes it.
    """

    action: str
    event: str | None
    type: str
    before: tuple[str, ...]
    after: str
    weight: float


_STEPS = (
    _Step("escrow_created", "escrow.created", "escrow", (), "created", 10),
    _Step("escrow_funded", "escrow.funded", "escrow", ("created",), "funded", 9),
    _Step("escrow_released", "escrow.released", "escrow", ("funded", "disputed"), "released", 7),
    _Step("escrow_refunded", "escrow.refunded", "escrow", ("funded", "disputed"), "refunded", 1.5),
    _Step("escrow_disputed", "escrow.disputed", "escrow", ("funded",), "disputed", 1),
    _Step("wallet_created", "wallet.created", "wallet", (), "active", 2),
    _Step("payout_completed", "payout.completed", "payout", (), "completed", 4),
    _Step("kyc_begun", None, "kyc", (), "pending", 2),
    _Step("kyc_approved", "kyc.approved", "kyc", ("pending",), "approved", 1.5),
    _Step("kyc_rejected", "kyc.rejected", "kyc", ("pending",), "rejected", 0.5),
)
_MONEY = ("escrow", "payout")  # the types with an amount


class PaymentDesk:
    """Takes steps; told the time."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def actions(self) -> tuple[Action, ...]:
        """Every step as an action.

        A new payment takes `user_id`, `external_id`, `booking_id` and `amount_cents`, a later step `id`.
        """
        return tuple(
            Action(
                name=step.action,
                do=partial(self._take, step),
                weight=step.weight,
                kind=None if step.event is None else PAYMENT,
            )
            for step in _STEPS
        )

    def _take(self, step: _Step, now_ms: int, args: Arguments) -> Effect:
        payment = self._moved(step, now_ms, args) if step.before else self._begun(step, now_ms, args)
        self._books.put_payment(payment)
        webhooks = () if step.event is None else (payment_webhook(step.event, payment),)
        return Effect(payment.id, webhooks)

    def _begun(self, step: _Step, now_ms: int, args: Arguments) -> Payment:
        books = self._books
        number, user = books.serial + 1, books.rng.randrange(_USERS)
        user_id, external_id, booking_id = args.text("user_id"), args.text("external_id"), args.text("booking_id")
        amount_cents = _amount_cents(args) if step.type in _MONEY else None
        args.finish()
        if amount_cents is None and step.type in _MONEY:
            amount_cents = books.rng.randrange(100, _HIGHEST_CENTS)
        if booking_id is None and step.type == "escrow":
            booking_id = books.invented_uuid("booking", number)
        return Payment(
            id=books.payment_id(step.type),
            type=step.type,
            status=step.after,
            user_id=user_id or books.invented_uuid("user", user),
            external_id=external_id or books.invented_uuid(step.type, number),
            booking_id=booking_id,
            amount_cents=amount_cents,
            created_ms=now_ms,
            modified_ms=now_ms,
        )

    def _moved(self, step: _Step, now_ms: int, args: Arguments) -> Payment:
        payment_id = args.text("id")
        args.finish()
        payment = self._any(step) if payment_id is None else self._books.payments.get(payment_id)
        if payment is None or payment.type != step.type or payment.status not in step.before:
            which = "none" if payment_id is None else f"not {payment_id!r}"
            raise NotPossibleError(f"{step.action} needs type {step.type}, {' or '.join(step.before)}: {which} is")
        return replace(payment, status=step.after, modified_ms=max(now_ms, payment.modified_ms + 1))

    def _any(self, step: _Step) -> Payment | None:
        pools = [pool for status in step.before if len(pool := self._books.pool(step.type, status))]
        if not pools:
            return None
        chosen = pools[self._books.rng.randrange(len(pools))].pick(self._books.rng)
        return None if chosen is None else self._books.payments[chosen]


def _amount_cents(args: Arguments) -> int | None:
    amount_cents = args.whole("amount_cents")
    if amount_cents is not None and amount_cents < 1:
        raise BadArgumentError("amount_cents must be at least 1")
    return amount_cents
