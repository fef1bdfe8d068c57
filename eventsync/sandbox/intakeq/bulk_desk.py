"""Many records at once: how a test brings a practice to a size, or takes much of it away in one moment."""

from collections.abc import Iterable

from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.errors import BadArgumentError, NotPossibleError
from eventsync.sandbox.intakeq.appointment_desk import AppointmentDesk
from eventsync.sandbox.intakeq.booking import choose_booking, slot_ms
from eventsync.sandbox.intakeq.paperwork import Paperwork
from eventsync.sandbox.intakeq.practice import Practice
from eventsync.sandbox.vendor import Effect, Webhook

LARGEST_BULK = 20_000
_DEFAULT_COUNT = 10
_QUARTER_MS = 900_000


class BulkDesk:
    """Every public method is an action, told the time; chance never picks one.

    `announce` false keeps the webhooks back, as for what was imported; the vendor itself would send them.
    """

    def __init__(self, practice: Practice, desk: AppointmentDesk, paper: Paperwork) -> None:
        self._practice = practice
        self._desk = desk
        self._paper = paper

    def book_many(self, now_ms: int, args: Arguments) -> Effect:
        """`count` bookings by staff from `start_ms` on, one every `every_ms`; `client_id`, `announce`."""
        count, announce = _count(args), _announce(args)
        first_ms, every_ms, client_id = args.whole("start_ms"), args.whole("every_ms"), args.whole("client_id")
        args.finish()
        if first_ms is None:
            first_ms = slot_ms(self._practice, now_ms, 1, 60)
        client = None if client_id is None else self._practice.client_or_any(client_id)
        step_ms = _QUARTER_MS if every_ms is None else every_ms
        effects = []
        for number in range(count):
            start_ms = first_ms + number * step_ms
            booking = choose_booking(self._practice, start_ms, by_client=False, client=client)
            effects.append(self._desk.create(booking, now_ms))
        return _together(effects, announce=announce)

    def delete_many(self, now_ms: int, args: Arguments) -> Effect:
        """These `ids`, or `count` of the appointments from the latest on, are deleted; `deleted_ms`, `announce`.

        With `deleted_ms` they were deleted then: more than ten days ago, and the API tells of them no more.
        """
        ids, count, announce = args.texts("ids"), _count(args), _announce(args)
        at_ms = args.past_ms("deleted_ms", now_ms)
        args.finish()
        if ids is None:
            rows = sorted(self._practice.appointments.values(), key=lambda a: (a.start_ms, a.id))
            ids = [a.id for a in rows[-count:]]
        chosen = [self._practice.appointment(appointment_id) for appointment_id in dict.fromkeys(ids)]
        if not chosen:
            raise NotPossibleError("there is no appointment to delete")
        return _together([self._desk.remove(a, at_ms) for a in chosen], announce=announce)

    def add_clients(self, now_ms: int, args: Arguments) -> Effect:
        """`count` new clients, made at `created_ms`; no webhook exists for that."""
        count, at_ms = _count(args), args.past_ms("created_ms", now_ms)
        args.finish()
        return _together([self._paper.add_client(at_ms, Arguments()) for _ in range(count)])

    def delete_clients(self, now_ms: int, args: Arguments) -> Effect:
        """`count` clients, the youngest first, are deleted at `deleted_ms`; their appointments stay."""
        count, at_ms = _count(args), args.past_ms("deleted_ms", now_ms)
        args.finish()
        living = [client.id for client in self._practice.clients.values() if client.deleted_ms is None]
        if not living:
            raise NotPossibleError("there is no client to delete")
        return _together(
            [
                self._paper.delete_client(now_ms, Arguments({"client_id": client_id, "deleted_ms": at_ms}))
                for client_id in living[-count:]
            ]
        )


def _count(args: Arguments) -> int:
    count = args.whole("count")
    if count is not None and not 1 <= count <= LARGEST_BULK:
        raise BadArgumentError(f"count must be from 1 to {LARGEST_BULK}")
    return _DEFAULT_COUNT if count is None else count


def _announce(args: Arguments) -> bool:
    return args.flag("announce") is not False


def _together(effects: Iterable[Effect], *, announce: bool = True) -> Effect:
    parts = list(effects)
    webhooks: list[Webhook] = [webhook for part in parts for webhook in part.webhooks] if announce else []
    return Effect(parts[0].record_id, tuple(webhooks), tuple(part.record_id for part in parts))
