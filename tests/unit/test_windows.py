"""What lists of days prove, held against a model of days whose midnight is anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta

from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.windows import DaysRead, Proved, is_proved, joined, proved_by

_DAY = timedelta(days=1)
_FIRST = date(2026, 3, 1)
_NOON = datetime(2026, 3, 20, 12, tzinfo=UTC)
_OFFSETS = [timedelta(hours=hours) for hours in (-12, -10, -7, 0, 5.75, 13, 14)]

days = st.builds(
    lambda first, length, minutes: DaysRead(
        _FIRST + first * _DAY, _FIRST + (first + length) * _DAY, _NOON + timedelta(minutes=minutes)
    ),
    st.integers(0, 12),
    st.integers(0, 5),
    st.integers(0, 60),
)


@st.composite
def tilings(draw: st.DrawFn) -> list[DaysRead]:
    """Lists of neighbouring days, as a run cuts its window, in any order and some of them left out."""
    lengths = draw(st.lists(st.integers(0, 4), min_size=1, max_size=6))
    lists, first = [], _FIRST
    for place, length in enumerate(lengths):
        last = first + length * _DAY
        lists.append(DaysRead(first, last, _NOON + timedelta(minutes=place)))
        first = last + _DAY
    return draw(st.permutations(lists))[: draw(st.integers(1, len(lists)))]


def listed_since(moment: datetime, offset: timedelta, lists: Sequence[DaysRead]) -> datetime | None:
    """Tell when the latest list was begun that shows a moment, where the vendor's days begin by `offset`."""
    day = (moment + offset).date()
    return max((entry.began_at for entry in lists if entry.first <= day <= entry.last), default=None)


def moments(piece: Proved) -> list[datetime]:
    """Name moments of a piece, its first and nearly its last among them."""
    hours = int((piece.end - piece.start) / timedelta(hours=1))
    inside = [piece.start + timedelta(hours=number) for number in range(hours)]
    return [*inside, piece.end - timedelta(milliseconds=1)]


def require_listed(proved: Sequence[Proved], lists: Sequence[DaysRead]) -> None:
    """Fail where something is said to be proved that, with the vendor's midnight somewhere, no list has shown."""
    for piece in proved:
        assert piece.start < piece.end
        for offset in _OFFSETS:
            for moment in moments(piece):
                since = listed_since(moment, offset, lists)
                assert since is not None, (piece, offset, moment)
                assert piece.began_at <= since


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


@given(days)
def test_one_list_proves_nothing_that_some_midnight_leaves_unlisted(entry: DaysRead) -> None:
    require_listed(proved_by(entry), [entry])


@given(days)
def test_one_list_proves_all_but_its_first_and_last_day(entry: DaysRead) -> None:
    proved = proved_by(entry)
    if entry.last - entry.first < 2 * _DAY:
        assert proved == ()
    else:
        assert proved == (Proved(midnight(entry.first + _DAY), midnight(entry.last), entry.began_at),)


@given(st.lists(days, max_size=5))
def test_joined_lists_prove_nothing_that_some_midnight_leaves_unlisted(lists: list[DaysRead]) -> None:
    require_listed(joined(lists), lists)


@given(tilings())
def test_the_lists_of_a_whole_window_prove_all_of_it_but_the_first_and_last_day(lists: list[DaysRead]) -> None:
    first, last = min(entry.first for entry in lists), max(entry.last for entry in lists)
    whole = sum((entry.last - entry.first).days + 1 for entry in lists) == (last - first).days + 1
    if whole and last - first >= 2 * _DAY:
        (piece,) = joined(lists)
        assert (piece.start, piece.end) == (midnight(first + _DAY), midnight(last))


@given(days, st.lists(days, max_size=5))
def test_days_are_proved_only_where_every_moment_of_them_is(entry: DaysRead, lists: list[DaysRead]) -> None:
    kept = [piece for other in lists for piece in proved_by(other)]
    wanted = proved_by(entry)
    everywhere = all(any(piece.start <= m < piece.end for piece in kept) for one in wanted for m in moments(one))
    assert is_proved(entry, kept) == (bool(wanted) and everywhere)


def test_nothing_is_proved_by_no_list() -> None:
    assert joined([]) == ()
    assert not is_proved(DaysRead(_FIRST, _FIRST + 5 * _DAY, _NOON), [])
