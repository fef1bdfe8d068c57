"""How Colectiva writes things: organizations in its list, and the bodies of its webhooks.

The list's format is known from a copy of it in an app; the webhooks' from the app that receives them.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from eventsync.sandbox.colectiva.organizations import APP, Organization
from eventsync.sandbox.colectiva.payments import Payment
from eventsync.sandbox.vendor import Webhook

PAYMENT = "payment"  # the one kind of webhook, and of record beside organizations
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def iso(ms: int) -> str:
    """Unix milliseconds as `2026-09-21T12:53:20.000Z`."""
    moment = _EPOCH + timedelta(milliseconds=ms)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def listed(organization: Organization) -> dict[str, Any]:
    """An organization as the list shows it."""
    told = organization.registration
    return {
        "id": organization.id,
        "name": told.name,
        "rfc": told.rfc,
        "type": told.type,
        "linkedApps": {APP: {"org_id": told.app_org_id, "name": told.name, "syncEnabled": True}},
        "billing": {"plan": told.plan, "status": told.billing_status},
        "memberCount": 1,
        "createdAt": iso(organization.created_ms),
    }


def whole(organization: Organization) -> dict[str, Any]:
    """An organization with what the list leaves out; no API shows it so."""
    told = organization.registration
    return listed(organization) | {
        "app_org_id": told.app_org_id,
        "owner_email": told.owner_email,
        "rbs_org_id": told.rbs_org_id,
        "updatedAt": iso(organization.modified_ms),
        "writes": organization.writes,
    }


def payment_data(payment: Payment) -> dict[str, Any]:
    """A payment as webhooks tell of it: what it has not is left out."""
    data = {
        "id": payment.id,
        "external_id": payment.external_id,
        "user_id": payment.user_id,
        "status": payment.status,
        "amount_cents": payment.amount_cents,
        "metadata": None if payment.booking_id is None else {"booking_id": payment.booking_id},
    }
    return {name: value for name, value in data.items() if value is not None}


def payment_webhook(event: str, payment: Payment) -> Webhook:
    """One event about a payment; it has no id of its own."""
    body = {"event": event, "data": payment_data(payment), "timestamp": iso(payment.modified_ms)}
    return Webhook(PAYMENT, event, orjson.dumps(body), payment.id)
