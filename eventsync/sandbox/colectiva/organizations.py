"""Organizations as apps register them: what a registration must say, and how Colectiva tells of them.

What is known of the form comes from its callers (a registering script and bridge, and a list's format that an app
copied); the server's own checks are not public, so these are those that its callers' notes speak of.
"""

import re
from dataclasses import dataclass
from typing import Any

from eventsync.sandbox.arguments import Arguments
from eventsync.sandbox.errors import BadArgumentError

APP = "plenura"  # the app whose key this is
_APP_ORG_ID = re.compile(rf"{APP}_(therapist_)?[0-9a-f]{{32}}")
_REQUIRED = ("name", "app_org_id", "owner_email")
_BILLING_STATUSES = ("active", "inactive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What an app says of one of its organizations."""

    app_org_id: str
    name: str
    rfc: str | None  # Mexican tax id
    type: str
    owner_email: str
    rbs_org_id: str | None
    plan: str
    billing_status: str

    def as_body(self) -> dict[str, Any]:
        """As it is sent, but without `rbs_org_id`, which queues do not send."""
        return {
            "name": self.name,
            "rfc": self.rfc,
            "type": self.type,
            "app_org_id": self.app_org_id,
            "owner_email": self.owner_email,
            "billing": {"plan": self.plan, "status": self.billing_status},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """One organization at Colectiva as its last write left it; `writes` counts those."""

    id: str
    registration: Registration
    created_ms: int
    modified_ms: int
    writes: int = 1

    @property
    def app_org_id(self) -> str:
        """The app's id of it."""
        return self.registration.app_org_id


def read_registration(value: object) -> Registration:
    """Check a POST's body; members that are not known are ignored.

    Raises BadArgumentError with words that quote no value.
    """
    if not isinstance(value, dict):
        raise BadArgumentError("the body must be a JSON object")
    missing = [name for name in _REQUIRED if value.get(name) in (None, "")]
    if missing:
        raise BadArgumentError(f"required: {', '.join(missing)}")
    members = Arguments(value)
    plan, billing_status = _billing(members.mapping("billing"))
    return Registration(
        app_org_id=_app_org_id(members),
        name=members.text("name") or "",
        rfc=members.text("rfc"),
        type=members.text("type") or "business",
        owner_email=members.text("owner_email") or "",
        rbs_org_id=members.text("rbs_org_id"),
        plan=plan,
        billing_status=billing_status,
    )


def _app_org_id(members: Arguments) -> str:
    value = members.text("app_org_id") or ""
    if not _APP_ORG_ID.fullmatch(value):
        raise BadArgumentError(f"app_org_id must be {APP}_<32 hex digits> or {APP}_therapist_<32 hex digits>")
    return value


def _billing(value: dict[str, Any] | None) -> tuple[str, str]:
    members = Arguments(value)
    try:
        return members.text("plan") or "free", members.choice("status", _BILLING_STATUSES) or "active"
    except BadArgumentError as error:
        raise BadArgumentError(f"billing.{error}") from error


def organization_from_state(row: dict[str, Any]) -> Organization:
    """What a state file holds of one; raises KeyError or TypeError for anything else."""
    return Organization(**(row | {"registration": Registration(**row["registration"])}))
