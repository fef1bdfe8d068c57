"""The calls of one patient's refresh, and what each answer proves; `patient_refresh` carries out the run around them.

IntakeQ finds a client by its number but has no such filter for appointments (Appointments API, article 204): they are
asked for by the client's e-mail or name, which other clients may share, so every answer is filtered by client id. The
last call is for what the list lacked: what was deleted or, where the e-mail has just changed, what has the former one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import partial

from eventsync.domain.changes import Absence, EntityRef, RecordChange, Upsert
from eventsync.domain.errors import EventsyncError
from eventsync.domain.records import Appointment, Patient, RecordKind
from eventsync.postgres.coverage import ALWAYS_FROM, ALWAYS_TO
from eventsync.postgres.database import DatabaseAway, Session
from eventsync.postgres.patient_refreshes import (
    ClientsWindow,
    HeldClient,
    HeldPatient,
    appointments_of_others,
    clear_suspicions,
    find_unlisted,
    full_name,
    ruled_out,
    suspect_absences,
)
from eventsync.postgres.record_rows import milliseconds
from eventsync.stages.holding import hold_while_away
from eventsync.stages.reading import ListReader, RunReads, Store
from eventsync.stages.tally import Written
from eventsync.vendorkit.listing import Listing, Page, RejectedRow

MAX_CALLS = 3
_DAY = timedelta(days=1)
_NO_EMAIL = "Patient has no email"
_AMBIGUOUS = (
    "Several clients or patients have this patient's e-mail, so that none can be taken for it: "
    "import the patient's intakeq_client_id with `eventsync affiliations import`"
)


class CannotAsk(EventsyncError):
    """There is nothing to ask for this patient's appointments by; the message is all that people are told."""


@dataclass(frozen=True, slots=True)
class Days:
    """The days that a refresh is about, both included; a list claims them for any zone by asking for a day more."""

    first: date
    last: date

    def listing(self, text: str) -> Listing:
        """List the appointments that `text` finds."""
        days = self.first - _DAY, self.last + _DAY
        return Listing(kind=RecordKind.APPOINTMENT, first_day=days[0], last_day=days[1], of_client=text)


@dataclass(slots=True)
class _Search:
    """Appointments asked for by one text, of one client or of several that share it.

    `is_email` says that the text is the clients' own e-mail, `former_email` that it has just changed. `listed` are all
    ids that the lists told, `unlisted` those of the clients' appointments in the copy that they did not.
    """

    text: str = field(repr=False)
    client_ids: set[str]
    is_email: bool
    former_email: str | None = field(default=None, repr=False)
    began_at: datetime | None = None
    is_complete: bool = False
    listed: set[str] = field(default_factory=set)
    unlisted: list[str] = field(default_factory=list)


class PatientReading:
    """One run's calls. What it has found is in the run's tally, and in the attributes for what no tally has."""

    def __init__(self, store: Store, run: RunReads, patient: HeldPatient, days: Days) -> None:
        self._store = store
        self._run = run
        self._reader = ListReader(store, run)
        self._patient = patient
        self._days = days
        self.lists_read = 0
        self.warnings: list[str] = []
        self.practitioner_ids: set[str] = set()
        self.reasons: dict[str, str] = {}  # why an appointment, by its id, could not be understood
        self._unread_clients = 0

    @property
    def is_whole(self) -> bool:
        """Whether the appointments of all of the patient's clients were read."""
        return self._unread_clients == 0

    async def read(self) -> None:
        """Make the calls, and write each answer as it comes.

        Raises CannotAsk, RunLost, and what the vendor's client raises; what was written before stays.
        """
        searches = await self._searches()
        for search in searches:
            await self._list(search)
        if self._unread_clients:
            self._warn_of_unread("appointments", self._unread_clients)
        for search in searches:
            await self._look_for_unlisted(search)
        if len(self._patient.clients) > 1:
            await self._read_clients()
        unlisted = len({external_id for search in searches for external_id in search.unlisted})
        if unlisted:
            self.warnings.append(f"{unlisted} appointment(s) of the copy were not listed: a later sweep looks again.")

    async def _searches(self) -> list[_Search]:
        """Choose what to ask by: the one client's fresh e-mail, or what is held of several clients."""
        match self._patient.clients:
            case ():
                searches = [await self._find_by_email()]
            case (client,):
                searches = [_search(await self._read_client(client), self._patient.email, client.email)]
            case clients:
                searches = [_search(client, self._patient.email) for client in clients]
        found = [search for search in searches if search is not None]
        if not found and self._patient.clients:
            raise CannotAsk(_NO_EMAIL)
        if self._patient.clients:
            self._unread_clients = len(searches) - len(found)
        return list(_joined(found))

    async def _find_by_email(self) -> _Search | None:
        """Find the one client that has the patient's e-mail. Raises CannotAsk where it may be somebody else."""
        email = (self._patient.email or "").strip()
        if not email:
            raise CannotAsk(_NO_EMAIL)
        if self._patient.shares_email:
            raise CannotAsk(_AMBIGUOUS)
        self._begin("Looking for the client by the patient's e-mail")
        began_at, page = await self._first_page(Listing(kind=RecordKind.PATIENT, of_client=email))
        same = {upsert.entity.external_id: upsert for upsert, content in _clients(page) if _has_email(content, email)}
        others = await hold_while_away(
            partial(ruled_out, self._store.database, self._run.connection.id, self._patient.id, same.keys())
        )
        candidates = [upsert for external_id, upsert in same.items() if external_id not in others]
        await self._reader.write(list(same.values()), began_at)
        if len(same) > 1 or not page.is_last:
            raise CannotAsk(_AMBIGUOUS)
        if not candidates:
            self.warnings.append("No client at PracticeQ has this patient's e-mail.")
            return None
        return _Search(email, {candidates[0].entity.external_id}, is_email=True)

    async def _read_client(self, client: HeldClient) -> HeldClient:
        """Read a client by its id, and answer it as it is now. A client who is not there is absent, as refetched."""
        self._begin("Reading the client")
        began_at, page = await self._first_page(Listing(kind=RecordKind.PATIENT, of_client=client.external_id))
        entity = EntityRef(self._run.connection.id, RecordKind.PATIENT, client.external_id)
        for upsert, content in _clients(page):
            if upsert.entity == entity:
                await self._reader.write([upsert], began_at)
                name = full_name(content.first_name, content.last_name)
                return HeldClient(client.external_id, content.email, name)
        unread = [row.reason for row in page.rejected if row.external_id in (None, client.external_id)]
        if unread:
            self._run.tally.error(f"the client's record could not be understood ({unread[0]})")
        elif page.is_last:
            await self._reader.write([Absence(entity, milliseconds(began_at), ALWAYS_FROM, ALWAYS_TO)], began_at)
            self.warnings.append("The client is no longer there at PracticeQ.")
        return client

    async def _read_clients(self) -> None:
        """Spend what several clients' appointments have left of the calls on their names and e-mails."""
        unread = list(self._patient.clients)
        while unread and self._may_call():
            await self._read_client(unread.pop(0))
        if unread:
            self._warn_of_unread("names and e-mails", len(unread))

    def _warn_of_unread(self, what: str, clients: int) -> None:
        self.warnings.append(
            f"The {what} of {clients} of the patient's {len(self._patient.clients)} clients were not read: "
            f"a refresh makes {MAX_CALLS} calls, and asks by e-mail or name. A later sweep reads the rest."
        )

    async def _list(self, search: _Search) -> None:
        """Read the first page of the clients' appointments, latest first."""
        if not self._may_call():
            self._unread_clients += len(search.client_ids)
            return
        self._begin("Reading the appointments")
        search.began_at, page = await self._first_page(self._days.listing(search.text))
        search.is_complete = page.is_last and all(row.external_id is not None for row in page.rejected)
        search.listed = _listed(page)
        await self._take(search, page, search.began_at)
        self.lists_read += 1
        if not page.is_last:
            self.warnings.append(
                "PracticeQ lists more appointments for this patient's e-mail or name than one page holds: "
                "the next sweep reads the rest."
            )

    async def _look_for_unlisted(self, search: _Search) -> None:
        """Ask once more where the list lacked what the copy has; one that lacked nothing needs no second question."""
        if not search.unlisted:
            return
        if not self._may_call():
            self.warnings.append(f"Deletions were not asked for: a refresh makes {MAX_CALLS} calls.")
            return
        if search.former_email is not None:
            self._begin("Reading the appointments under the former e-mail")
            began_at, page = await self._first_page(self._days.listing(search.former_email))
            search.listed |= _listed(page)
        else:
            self._begin("Reading what was deleted")
            deleted = Listing(kind=RecordKind.APPOINTMENT, deleted=True, of_client=search.text)
            began_at, page = await self._first_page(deleted)
        await self._take(search, page, began_at)

    async def _take(self, search: _Search, page: Page[RecordChange], began_at: datetime) -> None:
        """Write what a page says of the clients, set apart what it does not, and keep what it lacked."""
        mine = [change for change in page.items if _client_id(change) in search.client_ids]
        seen = [change.entity.external_id for change in mine if change.entity.kind is RecordKind.APPOINTMENT]
        await self._set_apart(search, page.rejected)
        await self._reader.write(mine, began_at, also=partial(self._settle, search, seen, began_at))
        self.practitioner_ids |= set(_practitioner_ids(mine))

    async def _set_apart(self, search: _Search, rejected: Sequence[RejectedRow]) -> None:
        """Count the rows that could not be understood, but for those that are known to be others'."""
        if not rejected:
            return
        named = [row.external_id for row in rejected if row.external_id is not None]
        place = self._store.database, self._run.connection.id
        others = await hold_while_away(partial(appointments_of_others, *place, named, search.client_ids))
        mine = [row for row in rejected if row.external_id not in others]
        self._run.tally.add(Written(rejected=mine))
        self.reasons |= {row.external_id: row.reason for row in mine if row.external_id is not None}

    async def _settle(self, search: _Search, seen: Collection[str], began_at: datetime, session: Session) -> None:
        """Keep what this page lacked, in the transaction that writes what it says.

        Only a whole list by the e-mail that the client has, and had before, lets its gaps be suspected: an appointment
        may carry the name or the e-mail that its client had when it was booked.
        """
        window = ClientsWindow(
            self._run.connection.id, search.client_ids, _midnight(self._days.first), _midnight(self._days.last + _DAY)
        )
        await clear_suspicions(session, window.connection_id, seen, began_at)
        search.unlisted = await find_unlisted(session, window, search.listed)
        if search.is_complete and search.is_email and search.former_email is None:
            await suspect_absences(session, window.connection_id, search.unlisted, search.began_at or began_at)

    async def hold(self, session: Session) -> None:
        """Write the run's counts in a transaction of its own. Raises RunLost."""
        run, store = self._run, self._store
        await store.runs.hold(session, run.lease, run.tally.counts, run.progress, store.clock())

    async def _first_page(self, listing: Listing) -> tuple[datetime, Page[RecordChange]]:
        """Read one page, and tell when its read began; again where PostgreSQL went away with the budget."""
        client, purpose = self._run.account.client, self._run.purpose
        while True:
            began_at = self._store.clock()
            pages = client.pages(listing, read_began_ms=milliseconds(began_at), purpose=purpose)
            try:
                async with aclosing(pages):
                    return began_at, await anext(pages)
            except DatabaseAway:
                await hold_while_away(self._store.database.ping)

    def _may_call(self) -> bool:
        return self._run.account.spent.calls < MAX_CALLS

    def _begin(self, step: str) -> None:
        calls = self._run.account.spent.calls
        self._run.progress |= {
            "step": step,
            "step_number": calls + 1,
            "total_steps": MAX_CALLS,
            "percentage": 100 * calls // MAX_CALLS,
            "calls": calls,
            "expected_calls": MAX_CALLS,
            "records_seen": len(self._run.tally.found),
        }


def _search(client: HeldClient, patient_email: str | None, held_email: str | None = None) -> _Search | None:
    """Choose what finds a client's appointments; `held_email` is what was held of it before it was read."""
    text = client.email or client.name or (patient_email or "").strip()
    if not text:
        return None
    is_former = held_email is not None and _key(held_email) not in (_key(client.email or ""), _key(text))
    return _Search(text, {client.external_id}, client.email is not None, held_email if is_former else None)


def _joined(searches: Iterable[_Search]) -> Iterable[_Search]:
    """Ask but once for clients who share an e-mail."""
    by_text: dict[str, _Search] = {}
    for search in searches:
        by_text.setdefault(_key(search.text), search).client_ids.update(search.client_ids)
    return by_text.values()


def _clients(page: Page[RecordChange]) -> Iterable[tuple[Upsert, Patient]]:
    for change in page.items:
        if isinstance(change, Upsert) and isinstance(change.content, Patient):
            yield change, change.content


def _has_email(patient: Patient, email: str) -> bool:
    return patient.email is not None and _key(patient.email) == _key(email)


def _key(email: str) -> str:
    """Compare e-mails as SQL's email_key does."""
    return email.strip(" \t\r\n").lower()


def _client_id(change: RecordChange) -> str | None:
    """Tell whose the change is."""
    if change.entity.kind is RecordKind.PATIENT:
        return change.entity.external_id
    content = None if isinstance(change, Absence) else change.content
    return content.client_external_id if isinstance(content, Appointment) else None


def _listed(page: Page[RecordChange]) -> set[str]:
    understood = {change.entity.external_id for change in page.items if change.entity.kind is RecordKind.APPOINTMENT}
    return understood | {row.external_id for row in page.rejected if row.external_id is not None}


def _practitioner_ids(changes: Iterable[RecordChange]) -> Iterable[str]:
    for change in changes:
        content = change.content if isinstance(change, Upsert) else None
        if isinstance(content, Appointment) and content.practitioner_external_id is not None:
            yield content.practitioner_external_id


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
