"""What happens to appointments: each action changes the practice and says which webhooks it owes.

Lifecycle as observed: a booking by staff is Created and already Confirmed; a booking by the client is Created waiting
and Confirmed later; a deletion keeps the old status and only advances LastModified.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.errors import NotPossibleError
from eventsync.sandbox.intakeq.appointment_edits import EDITS
from eventsync.sandbox.intakeq.booking import (
    DAY_MS,
    Booking,
    choose_booking,
    client_copies,
    new_appointment,
    slot_ms,
)
from eventsync.sandbox.intakeq.practice import Practice
from eventsync.sandbox.intakeq.records import OPEN_STATUSES, Appointment, AppointmentStatus
from eventsync.sandbox.intakeq.webhooks import appointment_webhook
from eventsync.sandbox.pool import Pool
from eventsync.sandbox.vendor import Effect, Webhook

LARGEST_SERIES = 52
_TRIES = 40
_REASONS = ("client request", "illness", "", "scheduling conflict")


class AppointmentDesk:
    """The front desk: every method is an action, told the time; what its arguments leave out is left to chance."""

    def __init__(self, practice: Practice) -> None:
        self._practice = practice
        self._rng = practice.rng

    def book(self, now_ms: int, args: Arguments) -> Effect:
        """`by` staff|client, `client_id`, `practitioner_id`, `service_id`, `location_id`, `start_ms`.

        With `without_client` true it is an appointment of nobody: ClientId and all of a client's details are null.
        """
        by_client = self._by_client(args, 0.35)
        booking = self._booking(now_ms, args, by_client=by_client)
        if args.flag("without_client"):
            booking = replace(booking, client=None)
        args.finish()
        return self.create(booking, now_ms)

    def confirm(self, now_ms: int, args: Arguments) -> Effect:
        """A waiting appointment is confirmed; `id`."""
        a = self._chosen(args, self._practice.waiting, (AppointmentStatus.WAITING,))
        return self._changed("AppointmentConfirmed", a, now_ms, status=AppointmentStatus.CONFIRMED)

    def decline(self, now_ms: int, args: Arguments) -> Effect:
        """A waiting appointment is declined; `id`."""
        a = self._chosen(args, self._practice.waiting, (AppointmentStatus.WAITING,))
        return self._changed("AppointmentDeclined", a, now_ms, status=AppointmentStatus.DECLINED)

    def reschedule(self, now_ms: int, args: Arguments) -> Effect:
        """An open appointment moves; `id`, `start_ms`, `by`."""
        by_client = self._by_client(args, 0.3)
        start_ms = args.whole("start_ms")
        a = self._chosen(args, self._practice.confirmed, OPEN_STATUSES, lambda a: a.start_ms > now_ms)
        if start_ms is None:
            start_ms = slot_ms(self._practice, now_ms, 1, 60)
        return self._changed("AppointmentRescheduled", a, now_ms, by_client=by_client, start_ms=start_ms)

    def cancel(self, now_ms: int, args: Arguments) -> Effect:
        """An open appointment is cancelled; `id`, `reason`, `by`."""
        by_client = self._by_client(args, 0.5)
        reason = args.text("reason")
        pool = self._practice.waiting if self._rng.random() < 0.2 else self._practice.confirmed
        a = self._chosen(args, pool, OPEN_STATUSES, lambda a: a.start_ms > now_ms)
        return self._changed(
            "AppointmentCanceled",
            a,
            now_ms,
            by_client=by_client,
            status=AppointmentStatus.CANCELED,
            cancellation_reason=self._rng.choice(_REASONS) if reason is None else reason,
            cancellation_note="Sample cancellation note" if self._rng.random() < 0.2 else None,
            cancelled_ms=now_ms,
        )

    def miss(self, now_ms: int, args: Arguments) -> Effect:
        """A confirmed appointment that has begun is marked as missed; `id`."""
        confirmed = (AppointmentStatus.CONFIRMED,)
        a = self._chosen(args, self._practice.confirmed, confirmed, lambda a: a.start_ms < now_ms)
        return self._changed("AppointmentMissed", a, now_ms, status=AppointmentStatus.MISSED)

    def delete(self, now_ms: int, args: Arguments) -> Effect:
        """An appointment is deleted; `id`, `deleted_ms` for a time in the past. The webhook shows the old status."""
        at_ms = args.past_ms("deleted_ms", now_ms)
        a = self._chosen(args, self._practice.confirmed, tuple(AppointmentStatus))
        return self.remove(a, at_ms)

    def restore(self, now_ms: int, args: Arguments) -> Effect:
        """A deleted appointment is back, without webhook; `id`. IntakeQ documents no such thing."""
        wanted = args.text("id")
        args.finish()
        gone = self._practice.deleted_appointments
        key = next(reversed(gone), "") if wanted is None else wanted
        if key not in gone:
            raise NotPossibleError(f"no deleted appointment {wanted or ''!r}")
        self._changed(None, gone[key], now_ms, deleted_ms=None)
        return Effect(key)

    def edit(self, now_ms: int, args: Arguments) -> Effect:
        """A change that no webhook tells of; `id`, and `field`: one of EDITS."""
        names = tuple(EDITS)
        field = args.choice("field", names) or self._rng.choice(names)
        a = self._chosen(args, self._practice.confirmed, tuple(AppointmentStatus))
        self._changed(None, a, now_ms, **EDITS[field](self._practice, a))
        return Effect(a.id)

    def book_series(self, now_ms: int, args: Arguments) -> Effect:
        """One weekly appointment after another: a Created for each; `count` and what `book` takes."""
        count = args.whole("count") or self._rng.randint(4, 11)
        if not 1 <= count <= LARGEST_SERIES:
            raise NotPossibleError(f"a series has 1 to {LARGEST_SERIES} appointments")
        first = replace(self._booking(now_ms, args, by_client=False), series=self._practice.guid())
        args.finish()
        webhooks: list[Webhook] = []
        for week in range(count):
            booking = replace(first, start_ms=first.start_ms + week * 7 * DAY_MS)
            webhooks += self.create(booking, now_ms).webhooks
        return Effect(first.series or "", tuple(webhooks))

    def stop_series(self, now_ms: int, args: Arguments) -> Effect:
        """The rest of a series is deleted: a Deleted for each; `id` of one of its appointments, or its own."""
        key = args.text("id")
        args.finish()
        series = self._practice.series.pick(self._rng) if key is None else key
        if series in self._practice.appointments:
            series = self._practice.appointments[series].series
        rest = [a for a in self._members(series) if a.start_ms > now_ms]
        if series is None or not rest:
            raise NotPossibleError("no series with appointments to come")
        self._practice.series.discard(series)
        webhooks: list[Webhook] = []
        for a in rest:
            webhooks += self.remove(a, now_ms).webhooks
        return Effect(series, tuple(webhooks))

    def _members(self, series: str | None) -> list[Appointment]:
        ids = self._practice.series_members.get(series or "", [])
        return [self._practice.appointments[i] for i in ids if i in self._practice.appointments]

    def _booking(self, now_ms: int, args: Arguments, *, by_client: bool) -> Booking:
        start_ms = args.whole("start_ms")
        if start_ms is None:
            start_ms = slot_ms(self._practice, now_ms, 1, 60)
        booking = choose_booking(self._practice, start_ms, by_client=by_client)
        wanted: dict[str, Any] = {}
        if (client_id := args.whole("client_id")) is not None:
            wanted["client"] = self._practice.client_or_any(client_id)
        for name, records in (
            ("practitioner", self._practice.practitioners),
            ("service", self._practice.services),
            ("location", self._practice.locations),
        ):
            if (key := args.text(f"{name}_id")) is not None:
                wanted[name] = self._practice.one_of(dict[str, Any](records), key)
        return replace(booking, **wanted)

    def create(self, booking: Booking, now_ms: int) -> Effect:
        """Enter a booking, made just now."""
        # LastModified was seen 0.02 to 1.7 s after DateCreated
        created_ms = now_ms - self._rng.randint(20, 1_700)
        a = new_appointment(self._practice, booking, created_ms, now_ms)
        self._practice.put_appointment(a)
        return Effect(a.id, (self._webhook("AppointmentCreated", a, by_client=booking.by_client),))

    def remove(self, a: Appointment, deleted_ms: int) -> Effect:
        """Delete an appointment, at that time."""
        return self._changed("AppointmentDeleted", a, deleted_ms, deleted_ms=deleted_ms)

    def _changed(
        self, event: str | None, a: Appointment, now_ms: int, *, by_client: bool = False, **changes: Any
    ) -> Effect:
        modified_ms = self._practice.advance_ms(a.modified_ms, now_ms)
        changed = replace(a, modified_ms=modified_ms, **_copied_from(self._practice, a), **changes)
        self._practice.put_appointment(changed)
        if event is None:
            return Effect(a.id)
        return Effect(a.id, (self._webhook(event, changed, by_client=by_client),))

    def _webhook(self, event: str, a: Appointment, *, by_client: bool) -> Webhook:
        return appointment_webhook(
            event,
            a,
            by_client=by_client,
            practice_id=self._practice.profile.practice_id,
            zone=self._practice.zone,
        )

    def _by_client(self, args: Arguments, share: float) -> bool:
        by = args.choice("by", ("staff", "client"))
        return self._rng.random() < share if by is None else by == "client"

    def _chosen(
        self,
        args: Arguments,
        pool: Pool[str],
        statuses: tuple[AppointmentStatus, ...],
        fits: Callable[[Appointment], bool] = lambda _: True,
    ) -> Appointment:
        """The appointment named by `id` if its status allows, or one by chance that also fits."""
        wanted = args.text("id")
        args.finish()
        if wanted is not None:
            a = self._practice.appointment(wanted)
            if a.status not in statuses:
                raise NotPossibleError(f"appointment {wanted} is {a.status}")
            return a
        for _ in range(_TRIES):
            picked = pool.pick(self._rng)
            if picked is not None and fits(self._practice.appointments[picked]):
                return self._practice.appointments[picked]
        raise NotPossibleError("no appointment fits")


def _copied_from(practice: Practice, a: Appointment) -> dict[str, Any]:
    """The client's present details; a change to the appointment brings its copies up to date, and nothing else does.

    Whether the vendor's own lists show a client's new e-mail at once is not known; if they did, with the old
    LastModified, no list of changes would tell.
    """
    client = None if a.client_id is None else practice.clients.get(a.client_id)
    return {} if client is None else client_copies(client)
