"""The loader of named statements refuses what does not fit, instead of failing at the first use."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest

from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class Linked:
    """What retention.sql holds."""

    lock_partitions: str
    ensure_partitions: str
    covered_until: str
    expired_partitions: str
    drop_event_partition: str


@dataclass(frozen=True, slots=True)
class Missing(Linked):
    """One more than the file holds."""

    drop_everything: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    """All but one."""

    lock_partitions: str
    ensure_partitions: str
    covered_until: str
    expired_partitions: str


def test_every_field_gets_the_statement_of_its_name_without_its_semicolon() -> None:
    loaded = load_statements(Linked, "retention.sql")
    assert loaded.ensure_partitions == "SELECT ensure_event_partitions($1, $2)"
    assert all(getattr(loaded, entry.name) for entry in fields(loaded))


@pytest.mark.parametrize(("kind", "name"), [(Missing, "drop_everything"), (Forgotten, "drop_event_partition")])
def test_a_field_without_a_statement_and_a_statement_without_a_field_are_refused_by_name(
    kind: type[object], name: str
) -> None:
    with pytest.raises(LookupError, match=name):
        load_statements(kind, "retention.sql")


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(FileNotFoundError):
        load_statements(Linked, "nothing.sql")
