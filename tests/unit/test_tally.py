"""A run's figures: told before they are committed as they are after, and no appointment counted twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.changes import Absence, Authority, Delete, EntityRef, RecordChange, Source, Upsert, Version
from eventsync.domain.connections import ConnectionId
from eventsync.domain.events import Outcome
from eventsync.domain.merging import Merged, RecordState
from eventsync.domain.records import Appointment, AppointmentStatus, Patient, RecordKind
from eventsync.domain.runs import RunCounts
from eventsync.postgres.coverage import FoundBefore
from eventsync.stages.tally import Finding, Tally, Written, surprises
from eventsync.vendorkit.listing import RejectedRow

CONNECTION = ConnectionId(UUID(int=1))
START = datetime(2026, 3, 1, 15, tzinfo=UTC)
CONTENT = Appointment(
    status=AppointmentStatus.CONFIRMED,
    vendor_status="Confirmed",
    start_time=START,
    end_time=START + timedelta(hours=1),
)
IDS = ["a", "b", "c"]


def version(authority: Authority = Authority.RECORD, *, deleted: bool = False) -> Version:
    return Version(authority, 1, deleted, Source.API, 1, 1, b"hash")


def upsert(external_id: str) -> Upsert:
    return Upsert(EntityRef(CONNECTION, RecordKind.APPOINTMENT, external_id), version(), CONTENT)


def delete(external_id: str) -> Delete:
    return Delete(EntityRef(CONNECTION, RecordKind.APPOINTMENT, external_id), version(deleted=True))


def absence(external_id: str) -> Absence:
    return Absence(EntityRef(CONNECTION, RecordKind.APPOINTMENT, external_id), 1, START, START + timedelta(days=1))


def client(external_id: str, authority: Authority = Authority.RECORD) -> Upsert:
    entity = EntityRef(CONNECTION, RecordKind.PATIENT, external_id)
    return Upsert(entity, version(authority), Patient("Test", "Client"))


def merged(outcome: Outcome, *, is_new: bool = False) -> Merged:
    return Merged(RecordState(), outcome, is_new=is_new)


NEW, UPDATED = merged(Outcome.APPLIED, is_new=True), merged(Outcome.APPLIED)
UNCHANGED, STALE = merged(Outcome.UNCHANGED), merged(Outcome.STALE)

changes: st.SearchStrategy[RecordChange] = st.one_of(
    [st.sampled_from(IDS).map(make) for make in (upsert, delete, absence, client)]
)
rows = st.builds(RejectedRow, st.sampled_from([*IDS, None]), st.just("missing_field"))
pages = st.builds(
    Written,
    st.lists(st.tuples(changes, st.sampled_from([NEW, UPDATED, UNCHANGED, STALE])), max_size=5),
    st.lists(rows, max_size=2),
    st.sampled_from([RecordKind.APPOINTMENT, RecordKind.PATIENT]),
)


def counted(tally: Tally) -> tuple[int, int, int]:
    counts = tally.counts
    return counts.appointments_new, counts.appointments_updated, counts.appointments_unchanged


def after(written: Sequence[Written]) -> Tally:
    tally = Tally()
    for page in written:
        tally.add(page)
    return tally


@given(st.lists(pages, max_size=5), pages)
def test_the_counts_told_before_a_page_is_committed_are_those_after_it(before: list[Written], page: Written) -> None:
    tally = after(before)
    told = tally.counts_with(page)
    tally.add(page)
    assert tally.counts == told
    assert min(astuple(told)) >= 0


@given(st.lists(pages, max_size=8))
def test_an_appointment_is_counted_once_by_the_most_that_any_list_has_found(written: list[Written]) -> None:
    tally = after(written)
    best: dict[str, Finding] = {}
    for page in written:
        for external_id, finding in page.appointments():
            best[external_id] = max(finding, best.get(external_id, finding))
    found = [*best.values()]
    assert counted(tally) == (found.count(Finding.NEW), found.count(Finding.UPDATED), found.count(Finding.UNCHANGED))
    assert {key: tally.found[key] for key in tally.found} == best


@given(st.lists(pages, max_size=8))
def test_a_row_that_could_not_be_read_is_one_error_however_often_it_is_listed(written: list[Written]) -> None:
    tally = Tally()
    ids: set[str] = set()
    nameless = 0
    for page in written:
        if page.kind is RecordKind.APPOINTMENT:
            nameless += sum(row.external_id is None for row in page.rejected)
            ids |= {row.external_id for row in page.rejected if row.external_id is not None} - tally.rejected
        tally.add(page)
    assert tally.counts.appointments_errors == len(ids) + nameless
    assert len(tally.errors) <= 10


def test_the_order_in_which_lists_tell_of_an_appointment_makes_no_difference() -> None:
    first = after([Written([(upsert("a"), UNCHANGED)]), Written([(upsert("a"), UPDATED)])])
    second = after([Written([(upsert("a"), UPDATED)]), Written([(upsert("a"), UNCHANGED)])])
    assert counted(first) == counted(second) == (0, 1, 0)


def test_what_came_and_went_unseen_is_neither_new_nor_deleted() -> None:
    tally = after([Written([(delete("a"), NEW), (delete("b"), UNCHANGED), (absence("c"), STALE)])])
    assert tally.counts == RunCounts()
    assert tally.deleted == set()


def test_a_deletion_is_an_update_and_is_named() -> None:
    tally = after([Written([(delete("a"), UPDATED), (absence("b"), UPDATED)])])
    assert counted(tally) == (0, 2, 0)
    assert tally.deleted == {"a", "b"}


def test_a_client_that_is_only_mentioned_is_new_but_not_listed() -> None:
    mention = client("7", Authority.MENTION)
    tally = after([Written([(mention, NEW), (client("8"), NEW), (client("9"), UNCHANGED)])])
    assert tally.new_patients == {"7", "8"}
    assert tally.listed == {RecordKind.PATIENT: {"8", "9"}}
    assert counted(tally) == (0, 0, 0)


def test_a_surprise_is_what_a_reader_sees_otherwise_since() -> None:
    results: list[tuple[RecordChange, Merged]] = [
        (upsert("new"), NEW),
        (upsert("changed"), UPDATED),
        (upsert("same"), UNCHANGED),
        (delete("gone"), UPDATED),
        (delete("came and went"), NEW),
        (client("mentioned", Authority.MENTION), NEW),
    ]
    assert [change.entity.external_id for change, _ in surprises(results)] == ["new", "changed", "gone"]


def test_a_run_that_is_gone_on_with_counts_again_what_was_unchanged_and_nothing_else() -> None:
    found = [
        FoundBefore("new", is_new=True, is_changed=True, is_gone=False),
        FoundBefore("updated", is_new=False, is_changed=True, is_gone=False),
        FoundBefore("deleted", is_new=False, is_changed=True, is_gone=True),
        FoundBefore("same", is_new=False, is_changed=False, is_gone=False),
    ]
    counts = RunCounts(appointments_new=1, appointments_updated=2, appointments_unchanged=5, appointments_errors=1)
    tally = Tally.resumed(counts, found)
    assert counted(tally) == (1, 2, 1)
    assert tally.deleted == {"deleted"}
    tally.add(Written([(upsert(external_id), UNCHANGED) for external_id in ("new", "updated", "same", "another")]))
    assert counted(tally) == (1, 2, 2)
    assert tally.counts.appointments_errors == 1
