"""Celery's side of "FastAPI + Celery + RabbitMQ": one task a webhook, which maps it and upserts its appointment.

Settings beyond the defaults: a quorum queue, publisher confirms and late acknowledgement, without which accepted
webhooks can be lost; no results kept; 64 messages prefetched a process instead of 4, as its guide on optimizing says
for short tasks; a process a core, each with a connection of its own that commits each statement.
"""

from __future__ import annotations

import os
import secrets
from functools import cache
from typing import Any
from uuid import UUID

import psycopg  # type: ignore[import-not-found]  # in the peers' environment only
from celery import Celery  # type: ignore[import-not-found]  # in the peers' environment only

from bench.plain_upsert import UPSERT, values
from eventsync.domain.connections import ConnectionId
from eventsync.domain.events import new_event_id
from eventsync.domain.webhooks import WebhookContext
from eventsync.vendorkit.vendor import Vendor
from eventsync.vendors import load_vendors
from eventsync.wiring import utc_now

# Celery finds its application by importing it, so that this module is set up by the environment.
app = Celery("bench", broker=os.environ["EVENTSYNC_AMQP_URL"])
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    task_acks_late=True,
    task_default_queue_type="quorum",
    task_ignore_result=True,
    worker_prefetch_multiplier=64,
)


def apply(connection_id: str, body: str) -> None:
    """Map and upsert one webhook."""
    reading = _vendor().read_webhook(body.encode(), {}, WebhookContext(ConnectionId(UUID(connection_id))))
    _cursor().execute(UPSERT, values(new_event_id(utc_now(), secrets.token_bytes(10)), reading))


apply_webhook: Any = app.task(apply, name="apply")


@cache
def _vendor() -> Vendor:
    return load_vendors()["intakeq"]


@cache
def _cursor() -> Any:
    """Connect, once in each of the worker's processes."""
    connection = psycopg.connect(os.environ["EVENTSYNC_DATABASE_URL"], autocommit=True)
    return psycopg.RawCursor(connection)
