"""What Colectiva is told of an organization (pure): the step between an item of the outbound queue and its POST.

Source of the names: Plenura's own client of Colectiva (sync-ecosystem-queue), since Colectiva's server is not public.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventsync.domain.deliveries import Action, OutboundItem
from eventsync.domain.fields import canonical

_DEFAULT_TYPE = "business"
_DEFAULT_PLAN = "free"
_FALSE_TEXTS = frozenset({"false", "f", "no", "n", "off", "0"})  # as PostgreSQL reads a boolean


def body_of(item: OutboundItem) -> Mapping[str, Any]:
    """Write the POST's body.

    A person may have edited the payload by SQL, so any JSON is taken: a number becomes text; a blank text, and what is
    neither (a list, an object, true), counts as missing. What is missing is null, but for the type ("business") and the
    plan ("free"). Only a clear no in `is_active` makes an organization inactive; `deactivate` always does.
    """
    payload = item.payload
    is_active = item.action is not Action.DEACTIVATE and not _is_no(payload.get("is_active"))
    return {
        "name": _text(payload.get("organization_name")),
        "rfc": _text(payload.get("tax_id")),
        "type": _text(payload.get("business_type")) or _DEFAULT_TYPE,
        "app_org_id": item.ecosystem_org_id,  # the row's: a payload that says otherwise is not what was queued
        "owner_email": _text(payload.get("email")),
        "billing": {
            "plan": _text(payload.get("subscription_tier")) or _DEFAULT_PLAN,
            "status": "active" if is_active else "inactive",
        },
    }


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(canonical(value)).strip() or None


def _is_no(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in _FALSE_TEXTS
    return isinstance(value, bool | int | float) and value == 0
