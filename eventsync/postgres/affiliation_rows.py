"""Rows of an affiliations file, read with checks (pure): each is either understood or a problem without its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum

from eventsync.domain.errors import Rejected

COLUMNS = (
    "organization",
    "email",
    "intakeq_client_id",
    "first_name",
    "last_name",
    "affiliation_type",
    "start_date",
    "end_date",
    "consent_expires_on",
)
_MAX_CHARS = 320  # the longest e-mail address


class AffiliationType(StrEnum):
    """Why a partner follows a patient."""

    CASE_MANAGEMENT = "case_management"
    REFERRAL_SOURCE = "referral_source"
    TREATMENT_PROGRAM = "treatment_program"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class AffiliationTerms:
    """What an affiliation says: both ends and the consent's last day are inclusive, None means open."""

    affiliation_type: AffiliationType = AffiliationType.CASE_MANAGEMENT
    start_date: date | None = None
    end_date: date | None = None
    consent_expires_on: date | None = None

    def __post_init__(self) -> None:
        if self.start_date and self.end_date and self.end_date < self.start_date:
            raise Rejected("invalid_row", "end_date lies before start_date")


@dataclass(frozen=True, slots=True)
class AffiliationRow:
    """One row: whom it means, which partner (None where the file has no such column), and the terms."""

    organization: str | None
    email: str | None = field(repr=False)
    intakeq_client_id: str | None = field(repr=False)
    first_name: str | None = field(repr=False)
    last_name: str | None = field(repr=False)
    terms: AffiliationTerms


def read_row(row: Mapping[str, str | None]) -> AffiliationRow:
    """Understand one row by its column names. Raises Rejected("invalid_row"), naming the column and never its value."""
    if not row.keys() <= set(COLUMNS):
        raise Rejected("invalid_row", f"there are columns that are none of {', '.join(COLUMNS)}")
    email, client_id = _email(row), _text(row, "intakeq_client_id")
    if email is None and client_id is None:
        raise Rejected("invalid_row", "neither email nor intakeq_client_id says who is meant")
    return AffiliationRow(
        organization=_text(row, "organization"),
        email=email,
        intakeq_client_id=client_id,
        first_name=_text(row, "first_name"),
        last_name=_text(row, "last_name"),
        terms=AffiliationTerms(
            affiliation_type=_type(row),
            start_date=_date(row, "start_date"),
            end_date=_date(row, "end_date"),
            consent_expires_on=_date(row, "consent_expires_on"),
        ),
    )


def _text(row: Mapping[str, str | None], column: str) -> str | None:
    text = " ".join((row.get(column) or "").split())
    if len(text) > _MAX_CHARS:
        raise Rejected("invalid_row", f"{column} is longer than {_MAX_CHARS} characters")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise Rejected("invalid_row", f"{column} has characters that no text has")
    return text or None


def _email(row: Mapping[str, str | None]) -> str | None:
    email = _text(row, "email")
    if email is None:
        return None
    name, _, domain = email.rpartition("@")
    if not (name and domain) or " " in email:
        raise Rejected("invalid_row", "email is not an e-mail address")
    return email


def _type(row: Mapping[str, str | None]) -> AffiliationType:
    text = _text(row, "affiliation_type")
    if text is None:
        return AffiliationType.CASE_MANAGEMENT
    try:
        return AffiliationType(text.lower())
    except ValueError:
        raise Rejected("invalid_row", f"affiliation_type is none of {', '.join(AffiliationType)}") from None


def _date(row: Mapping[str, str | None], column: str) -> date | None:
    text = _text(row, column)
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Rejected("invalid_row", f"{column} is not a date such as 2026-03-31") from None
