"""A connection to a vendor that signs its webhooks: what need not be said of the signature, and what is advised."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cli.runs import Cli
from eventsync.crypto import Keyring
from eventsync.domain.connections import HmacCheck, SignatureEncoding
from eventsync.postgres.database import Database
from eventsync.postgres.webhook_tokens import WebhookTokens
from web.webhook_door import utc_now

OF = ("--org", "practice-7", "--api-key", "secret-key-1")
COLECTIVA = ("connections", "add", "colectiva", *OF)
INTAKEQ = ("connections", "add", "intakeq", *OF)

StoredCheck = Callable[[], Awaitable[HmacCheck | None]]


@pytest.fixture
def stored_check(pool: Database, keyring: Keyring) -> StoredCheck:
    """Reads what the only connection's webhooks must be signed with."""

    async def read() -> HmacCheck | None:
        (verifier,) = await WebhookTokens(pool, keyring).load_verifiers(utc_now())
        return verifier.hmac

    return read


async def test_a_secret_alone_is_enough_for_a_vendor_that_signs(
    cli: Cli, organization: dict[str, Any], stored_check: StoredCheck
) -> None:
    added = await cli(*COLECTIVA, "--hmac-secret", "s1", "--hmac-secret", "s2", "--json")
    assert added.exit_code == 0, added.stderr
    assert added.json["requires_signature"] is True
    assert await stored_check() == HmacCheck("x-colectiva-signature", ("s1", "s2"), SignatureEncoding.HEX, "sha256=")


async def test_what_is_said_of_the_signature_goes_before_the_vendors_own(
    cli: Cli, organization: dict[str, Any], stored_check: StoredCheck
) -> None:
    words = ("--hmac-header", "X-Gateway", "--hmac-prefix", "", "--hmac-encoding", "base64")
    added = await cli(*COLECTIVA, "--hmac-secret", "s1", *words)
    assert added.exit_code == 0, added.stderr
    assert await stored_check() == HmacCheck("X-Gateway", ("s1",), SignatureEncoding.BASE64, "")


async def test_without_a_secret_webhooks_are_known_by_their_token_and_the_advice_says_so(
    cli: Cli, organization: dict[str, Any], stored_check: StoredCheck
) -> None:
    added = await cli(*COLECTIVA)
    assert added.exit_code == 0, added.stderr
    assert "/api/webhooks/colectiva/" in added.stdout
    assert "--hmac-secret" in added.stderr
    assert await stored_check() is None


async def test_a_vendor_that_signs_nothing_needs_the_header_of_whoever_does(
    cli: Cli, organization: dict[str, Any], stored_check: StoredCheck
) -> None:
    refused = await cli(*INTAKEQ, "--hmac-secret", "s1")
    assert refused.exit_code == 2
    assert "--hmac-header" in refused.stderr
    assert (await cli(*INTAKEQ, "--hmac-secret", "s1", "--hmac-header", "X-Signature")).exit_code == 0
    assert await stored_check() == HmacCheck("X-Signature", ("s1",))


@pytest.mark.parametrize("words", [("--hmac-header", "X-Gateway"), ("--hmac-secret", "")], ids=" ".join)
async def test_a_signature_without_a_secret_is_refused(
    cli: Cli, organization: dict[str, Any], words: tuple[str, ...]
) -> None:
    refused = await cli(*COLECTIVA, *words)
    assert refused.exit_code == 2
    assert "--hmac-secret" in refused.stderr


async def test_the_limit_of_calls_is_ours_until_it_is_set(cli: Cli, organization: dict[str, Any]) -> None:
    await cli(*COLECTIVA)
    (row,) = (await cli("budget", "--json")).json
    assert (row["left_this_minute"], row["left_today"]) == (300, None)
    await cli("connections", "update", "1", "--set", "calls_per_minute=40")
    (row,) = (await cli("budget", "--json")).json
    assert (row["left_this_minute"], row["left_today"]) == (40, None)
