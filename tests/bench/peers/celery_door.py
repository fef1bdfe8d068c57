"""FastAPI's side of "FastAPI + Celery + RabbitMQ": checks token and signature, sends the task, answers.

For uvicorn: `bench.peers.celery_door:app`. Sending is a blocking call of Celery's, so it goes to the thread pool.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

from fastapi import FastAPI, HTTPException, Request  # type: ignore[import-not-found]  # in the peers' environment only
from fastapi.concurrency import run_in_threadpool  # type: ignore[import-not-found]  # in the peers' environment only

from bench.peers.celery_tasks import apply_webhook
from bench.practice import bench_keyring
from eventsync.crypto import hash_token
from eventsync.domain.connections import WebhookVerifier
from eventsync.postgres.database import Database
from eventsync.postgres.webhook_tokens import WebhookTokens
from eventsync.vendorkit.signing import verify
from eventsync.wiring import utc_now


def make_app(verifiers: Mapping[bytes, WebhookVerifier]) -> FastAPI:
    """Make the application; its functions are given to it by calls, since its decorators are not typed here."""
    app = FastAPI()

    async def receive(token: str, request: Request) -> dict[str, str]:
        verifier, body = verifiers.get(hash_token(token)), await request.body()
        if verifier is None or (verifier.hmac is not None and not verify(verifier.hmac, request.headers, body)):
            raise HTTPException(status_code=401)
        await run_in_threadpool(apply_webhook.delay, str(verifier.connection_id), body.decode())
        return {"status": "accepted"}

    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    app.post("/api/webhooks/intakeq/{token}")(receive)
    app.get("/readyz")(ready)
    return app


async def _load_verifiers(database_url: str) -> Mapping[bytes, WebhookVerifier]:
    database = Database(database_url)
    await database.open()
    known = await WebhookTokens(database, bench_keyring()).load_verifiers(utc_now())
    await database.close()
    return {each.token_hash: each for each in known}


app = make_app(asyncio.run(_load_verifiers(os.environ["EVENTSYNC_DATABASE_URL"])))
