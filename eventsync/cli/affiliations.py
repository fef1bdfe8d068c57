"""`eventsync affiliations`: which partner organization follows, and thereby sees, which patient."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import TextIO
from uuid import UUID

import click
from rich.console import Console
from rich.progress import track

from eventsync.cli.output import Row, examples, json_option, show_json, show_record, show_rows
from eventsync.cli.session import Installation, with_installation
from eventsync.domain.errors import Rejected
from eventsync.postgres.affiliation_rows import COLUMNS, AffiliationTerms, AffiliationType
from eventsync.postgres.affiliations import Affiliation, Affiliations, ImportReport

_DATE = click.DateTime(["%Y-%m-%d"])
_ORG_HELP = "The organization that owns the patients (id, external id or number)."


@click.group(
    "affiliations",
    epilog=examples(
        "eventsync affiliations add --org 1 --partner 2 --email client12@example.test",
        "eventsync affiliations import partners.csv --org 1",
    ),
)
def affiliations_group() -> None:
    """Say which partner organization follows which patient: it sees no other patient's appointments."""


@affiliations_group.command(
    "add",
    epilog=examples(
        "eventsync affiliations add --org 1 --partner 2 --email client12@example.test",
        "eventsync affiliations add --org 1 --partner 2 --client 1122 --consent-until 2027-06-30",
    ),
)
@click.option("--org", required=True, help=_ORG_HELP)
@click.option("--partner", required=True, help="The organization that follows the patient.")
@click.option("--patient", type=click.UUID, help="The patient's id here.")
@click.option("--client", help="The patient's client id at IntakeQ.")
@click.option("--email", help="The patient's e-mail; somebody whom no vendor has named yet is kept until one does.")
@click.option("--type", "affiliation_type", type=click.Choice([entry.value for entry in AffiliationType]),
              default=AffiliationType.CASE_MANAGEMENT.value, show_default=True)  # fmt: skip
@click.option("--start", type=_DATE, help="First day (today).")
@click.option("--end", type=_DATE, help="Last day, where it is known.")
@click.option("--consent-until", type=_DATE, help="Last day of the patient's consent; nothing is shown after it.")
@json_option
def add_affiliation(*, org: str, partner: str, patient: UUID | None, as_json: bool, **given: object) -> None:
    """Let a partner organization follow a patient, named by --patient, --client or --email.

    Where it does already, the affiliation gets the new type and dates.
    """
    if [patient, given["client"], given["email"]].count(None) != 2:
        raise click.UsageError("say who is followed by one of --patient, --client and --email")

    async def add(at: Installation) -> Row:
        affiliations = Affiliations(at.database)
        owner, follower, now = await at.organization(org), await at.organization(partner), at.clock()
        if patient is not None:
            await affiliations.add(owner.id, patient, follower.id, _terms(given), now)
            report = ImportReport(1, 0, 0, ())
        else:
            report = await affiliations.import_rows(owner.id, [(1, _as_row(given))], now, partner_id=follower.id)
        if report.bad_rows:
            raise Rejected("not_affiliated", report.bad_rows[0].problem)
        return {"organization_id": follower.id, "patient_is_new": bool(report.patients_created)}

    show_record(with_installation(add), as_json=as_json)


@affiliations_group.command(
    "import",
    epilog=examples(
        "eventsync affiliations import partners.csv --org 1 --partner 2",
        "printf 'organization,email\\nnorth,client12@example.test\\n' | eventsync affiliations import - --org 1",
    ),
)
@click.argument("file", type=click.File("r", encoding="utf-8-sig"), metavar="CSV")
@click.option("--org", required=True, help=_ORG_HELP)
@click.option("--partner", help="The organization that follows, where the file has no such column.")
@json_option
@click.pass_context
def import_affiliations(ctx: click.Context, file: TextIO, org: str, partner: str | None, as_json: bool) -> None:
    """Take in affiliations from a CSV file (`-`: standard input) whose first line names its columns.

    Columns: organization, email, intakeq_client_id, first_name, last_name, affiliation_type, start_date, end_date,
    consent_expires_on; dates as 2026-03-31. Rows that are wrong are left out and told by line; the others are kept,
    and giving the file again changes nothing. Ends with 1 where a row was left out.
    """
    rows = _rows_of(file)

    async def take_in(at: Installation) -> ImportReport:
        owner = await at.organization(org)
        partner_id = None if partner is None else (await at.organization(partner)).id
        return await Affiliations(at.database).import_rows(owner.id, _tracked(rows), at.clock(), partner_id=partner_id)

    report = with_installation(take_in)
    counts = {"added": report.added, "updated": report.updated, "patients_created": report.patients_created}
    if as_json:
        show_json({**counts, "left_out": [asdict(bad) for bad in report.bad_rows]})
    else:
        show_record({**counts, "left_out": len(report.bad_rows)}, as_json=False)
        for bad in report.bad_rows:
            click.echo(f"line {bad.line}: {bad.problem}", err=True)
    ctx.exit(1 if report.bad_rows else 0)


@affiliations_group.command(
    "list", epilog=examples("eventsync affiliations list --org 2", "eventsync affiliations list --json --limit 1000")
)
@click.option("--org", help="Only those that concern this organization, as owner or partner.")
@click.option("--patient", type=click.UUID, help="Only this patient's.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--after", type=click.UUID, help="Go on after the id that ended the page before.")
@json_option
def list_affiliations(org: str | None, patient: UUID | None, limit: int, after: UUID | None, as_json: bool) -> None:
    """List affiliations, ended ones too; ids only, no names."""

    async def find(at: Installation) -> list[Affiliation]:
        organization_id = None if org is None else (await at.organization(org)).id
        return await Affiliations(at.database).of(organization_id, patient_id=patient, after_id=after, limit=limit)

    show_rows(
        [asdict(affiliation) for affiliation in with_installation(find)],
        [
            "id",
            "patient_id",
            "organization_id",
            "affiliation_type",
            "status",
            "start_date",
            "end_date",
            "consent_expires_on",
        ],
        as_json=as_json,
        empty="no affiliation: make one with `eventsync affiliations add`",
    )


@affiliations_group.command(
    "end", epilog=examples("eventsync affiliations end 6f0c...", "eventsync affiliations end 6f0c... --on 2026-12-31")
)
@click.argument("affiliation_id", type=click.UUID, metavar="ID")
@click.option("--on", "last_day", type=_DATE, help="The last day (today).")
@json_option
def end_affiliation(affiliation_id: UUID, last_day: datetime | None, as_json: bool) -> None:
    """End the affiliation with this ID: the partner sees the patient no more."""

    async def end(at: Installation) -> Row:
        day = (last_day or at.clock()).date()
        if not await Affiliations(at.database).end(affiliation_id, None, day, at.clock()):
            raise Rejected(
                "unknown_affiliation", "there is no such living affiliation: see `eventsync affiliations list`"
            )
        return {"id": affiliation_id, "end_date": day}

    show_record(with_installation(end), as_json=as_json)


def _terms(given: Mapping[str, object]) -> AffiliationTerms:
    return AffiliationTerms(
        affiliation_type=AffiliationType(str(given["affiliation_type"])),
        start_date=_day(given["start"]),
        end_date=_day(given["end"]),
        consent_expires_on=_day(given["consent_until"]),
    )


def _as_row(given: Mapping[str, object]) -> dict[str, str | None]:
    members = {
        "email": given["email"],
        "intakeq_client_id": given["client"],
        "affiliation_type": given["affiliation_type"],
        "start_date": _day(given["start"]),
        "end_date": _day(given["end"]),
        "consent_expires_on": _day(given["consent_until"]),
    }
    return {name: None if value is None else str(value) for name, value in members.items()}


def _day(moment: object) -> date | None:
    return moment.replace(tzinfo=UTC).date() if isinstance(moment, datetime) else None


def _rows_of(file: TextIO) -> list[tuple[int, dict[str, str | None]]]:
    """Read the whole file before anything is changed. Raises Rejected where it is no such file."""
    reader = csv.DictReader(file)
    try:
        if not set(reader.fieldnames or ()) & {"email", "intakeq_client_id"}:
            raise Rejected("invalid_file", f"the first line must name columns, of {', '.join(COLUMNS)}")
        return [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError:
        raise Rejected("invalid_file", "the file is not UTF-8 text: save it as CSV UTF-8") from None
    except csv.Error as error:
        raise Rejected("invalid_file", f"the file is not CSV ({error})") from None


def _tracked(rows: list[tuple[int, dict[str, str | None]]]) -> Iterator[tuple[int, dict[str, str | None]]]:
    console = Console(stderr=True)
    counted: Iterable[tuple[int, dict[str, str | None]]] = rows
    if console.is_terminal:
        counted = track(rows, description="Taking in", console=console, transient=True)
    yield from counted
