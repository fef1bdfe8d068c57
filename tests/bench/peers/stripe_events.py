"""Webhooks as Stripe sends and signs them, for its sync engine: `customer.updated` of customers that are all new. Pure.

The event's members are those of Stripe's API reference ("The Customer object", "Verify webhook signatures manually");
padded by metadata to the size of our own webhooks, about 1.5 kB.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

import orjson

SECRET = "whsec_of_the_benchmark"


def customer_id(number: int) -> str:
    """Name customer `number`."""
    return f"cus_Bench{number:09d}"


def customer_updated(number: int, created_s: int) -> bytes:
    """Make the event of customer `number`, created at `created_s` (Unix seconds)."""
    event = {
        "id": f"evt_Bench{number:015d}",
        "object": "event",
        "api_version": "2020-08-27",
        "created": created_s,
        "data": {"object": _customer(number, created_s), "previous_attributes": {"phone": None}},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": f"req_Bench{number:09d}", "idempotency_key": None},
        "type": "customer.updated",
    }
    return orjson.dumps(event)


def signing(now_s: int) -> Callable[[bytes], bytes]:
    """Make what writes the signature's header line for a body; `now_s` is when it is sent (Unix seconds)."""

    def header_line(body: bytes) -> bytes:
        digest = hmac.digest(SECRET.encode(), b"%d.%b" % (now_s, body), "sha256")
        return f"Stripe-Signature: t={now_s},v1={digest.hex()}\r\n".encode()

    return header_line


def _customer(number: int, created_s: int) -> dict[str, Any]:
    return {
        "id": customer_id(number),
        "object": "customer",
        "address": {
            "city": "Denver",
            "country": "US",
            "line1": f"{number} Test Street",
            "line2": None,
            "postal_code": "80202",
            "state": "CO",
        },
        "balance": 0,
        "created": created_s,
        "currency": "usd",
        "default_source": None,
        "delinquent": False,
        "description": f"Test Client {number}",
        "discount": None,
        "email": f"client{number}@example.test",
        "invoice_prefix": f"B{number:08d}",
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": {f"note_{place}": f"invented text {number} " * 4 for place in range(5)},
        "name": f"Test Client {number}",
        "next_invoice_sequence": 1,
        "phone": f"202555{number % 10_000:04d}",
        "preferred_locales": ["en-US"],
        "shipping": None,
        "tax_exempt": "none",
    }
