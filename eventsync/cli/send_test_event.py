"""`eventsync send-test-event`: a webhook with invented data to a running instance, and what became of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import aiohttp
import click
import orjson

from eventsync.cli.output import Row, examples, json_option, show_record
from eventsync.cli.session import Installation, with_installation
from eventsync.cli.specimen import Specimen, specimen
from eventsync.cli.webhook_urls import public_base_url, webhook_url
from eventsync.crypto import hash_token
from eventsync.domain.connections import WebhookVerifier
from eventsync.domain.errors import Rejected, Transient
from eventsync.domain.events import QueueStatus
from eventsync.postgres.stored_events import EventState
from eventsync.postgres.tenants import ConnectionSummary
from eventsync.vendorkit.signing import sign

_ANSWER_TIMEOUT_S = 15.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    event_id: UUID


@click.command(
    "send-test-event",
    epilog=examples(
        "eventsync send-test-event",
        "eventsync send-test-event --connection 2 --event 'Note Locked'",
        "eventsync send-test-event --event AppointmentDeleted --record 1f0e...  # takes the invented one away again",
    ),
)
@click.option("--connection", help="Number or id; not needed where there is only one.")
@click.option("--event", default="AppointmentCreated", show_default=True, help="The vendor's name of the event.")
@click.option("--record", help="The id of the record that an earlier test event invented.")
@click.option("--url", help="Where eventsync answers, such as http://127.0.0.1:8080 (default: EVENTSYNC_PUBLIC_URL).")
@click.option("--wait", "wait_s", type=click.FloatRange(0, 600), default=15.0, show_default=True,
              help="Seconds to wait for the event's end.")  # fmt: skip
@json_option
def send_test_event_command(
    *, connection: str | None, event: str, record: str | None, url: str | None, wait_s: float, as_json: bool
) -> None:
    """Send a correctly formed webhook to a running eventsync, wait for its end, and tell how long it took.

    The data is the vendor's sample with invented ids: it becomes a record of an invented client in the connection's
    data. An AppointmentDeleted with the same --record takes an appointment away again.
    """

    async def send(at: Installation) -> Row:
        return await _send(at, connection, event, record_id=record, base_url=url, wait_s=wait_s)

    result = with_installation(send)
    show_record(result, as_json=as_json)
    if result["state"] is None:
        raise Transient(
            f"the event was stored, but had not ended after {wait_s:g} s: do the roles relay and consumer run?"
        )
    if result["state"] == QueueStatus.PARKED:
        raise Rejected(
            "parked", f"the event was set aside for a person ({result['reason']}): see `eventsync events show`"
        )


async def _send(
    at: Installation,
    reference: str | None,
    event_type: str,
    *,
    record_id: str | None,
    base_url: str | None,
    wait_s: float,
) -> Row:
    connection = await at.only_connection(reference)
    token, verifier = await _door_key(at, connection)
    made = specimen(
        connection.vendor,
        event_type,
        nonce=uuid4(),
        now=at.clock(),
        record_id=record_id,
        practice_id=connection.practice_id,
    )
    url = webhook_url((base_url or public_base_url(at.settings)).rstrip("/"), connection.vendor, token)
    answer = await _post(url, made, verifier)
    end = await _end_of(at, answer.event_id, wait_s)
    return {
        "connection": connection.number,
        "event": event_type,
        "record": made.record_id,
        "answer": answer.status,
        **end,
    }


async def _door_key(at: Installation, connection: ConnectionSummary) -> tuple[str, WebhookVerifier]:
    token = (await at.webhook_tokens.reveal(connection.id, None, at.actor, at.clock()))[0].token
    verifier = await at.webhook_tokens.find_verifier(hash_token(token), at.clock())
    if verifier is None:
        raise Rejected("connection_disabled", "the connection is disabled: its webhooks are turned away")
    return token, verifier


async def _post(url: str, made: Specimen, verifier: WebhookVerifier) -> _Answer:
    headers = {"Content-Type": "application/json", "User-Agent": "eventsync-test-event"}
    if verifier.hmac is not None:
        headers[verifier.hmac.header] = sign(verifier.hmac, made.body)
    timeout = aiohttp.ClientTimeout(total=_ANSWER_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.post(url, data=made.body, headers=headers) as answer,
        ):
            return _understood(answer.status, await answer.read())
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        # The error's own text holds the URL, and thereby the token.
        raise Transient(
            f"eventsync does not answer ({type(error).__name__}): does `eventsync up` or `eventsync run ingress` run? "
            "Say where with --url"
        ) from None


def _understood(status: int, body: bytes) -> _Answer:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if status == 200 and isinstance(answer, dict) and answer.get("status") == "accepted":
        return _Answer(status, UUID(answer["event_id"]))
    code = (
        (answer.get("details") or {}).get("error_code", "no reason given") if isinstance(answer, dict) else "not JSON"
    )
    raise Rejected(
        "not_accepted", f"the test event was not accepted: HTTP {status} ({code}); is the --url eventsync's?"
    )


async def _end_of(at: Installation, event_id: UUID, wait_s: float) -> Row:
    """Wait until the event has ended; a state of None tells that it had not within `wait_s` seconds."""
    give_up_at = at.clock() + timedelta(seconds=wait_s)
    while True:
        found = (await at.stored_events.states([event_id])).get(event_id)
        if found is not None and (found.finished_at is not None or found.state == QueueStatus.PARKED):
            return _told(event_id, found)
        if at.clock() >= give_up_at:
            return {"event_id": event_id, "state": None, "reason": None, "changed_fields": [], "latency_ms": None}
        await asyncio.sleep(_POLL_S)


def _told(event_id: UUID, found: EventState) -> Row:
    latency = None if found.finished_at is None else (found.finished_at - found.received_at) / timedelta(milliseconds=1)
    return {
        "event_id": event_id,
        "state": found.state,
        "reason": found.reason,
        "changed_fields": list(found.changed_fields),
        "latency_ms": latency,
    }
