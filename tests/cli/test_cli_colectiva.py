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

UPDATE = ("connections", "update", "1")

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


async def test_a_second_account_is_told_that_the_queue_goes_to_the_first_until_that_is_disabled(
    cli: Cli, organization: dict[str, Any]
) -> None:
    told = "The outbound queue goes to connection 1"
    assert told not in (await cli(*COLECTIVA)).stderr
    second = await cli(*COLECTIVA, "--json")
    (note,) = [note for note in second.json["notes"] if told in note]
    assert "`eventsync connections disable 1`" in note
    assert (await cli("connections", "disable", "1")).exit_code == 0
    assert told not in (await cli(*COLECTIVA)).stderr


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


async def test_a_connection_without_a_signature_gets_the_vendors_own_by_a_secret_alone(
    cli: Cli, organization: dict[str, Any], stored_check: StoredCheck
) -> None:
    added = (await cli(*COLECTIVA, "--json")).json
    assert added["requires_signature"] is False
    updated = await cli(*UPDATE, "--hmac-secret", "-", "--json", given="signing-1\n")
    assert updated.exit_code == 0, updated.stderr
    assert updated.json == {name: added[name] for name in updated.json} | {"requires_signature": True}
    assert await stored_check() == HmacCheck("x-colectiva-signature", ("signing-1",), prefix="sha256=")


async def test_a_rotation_gives_both_secrets_and_later_the_new_one_and_keeps_the_form(
    cli: Cli, organization: dict[str, Any], stored_check: StoredCheck
) -> None:
    await cli(*COLECTIVA, "--hmac-secret", "s1", "--hmac-header", "X-Gateway", "--hmac-encoding", "base64")
    both = ("--hmac-secret", "s1", "--hmac-secret", "s2")
    for words, secrets in ((both, ("s1", "s2")), (both[2:], ("s2",))):
        assert (await cli(*UPDATE, *words)).exit_code == 0
        assert await stored_check() == HmacCheck("X-Gateway", secrets, SignatureEncoding.BASE64, "sha256=")


async def test_the_form_of_a_signature_is_corrected_without_its_secrets(
    cli: Cli, organization: dict[str, Any], stored_check: StoredCheck
) -> None:
    await cli(*COLECTIVA, "--hmac-secret", "s1", "--hmac-secret", "s2")
    await cli(*UPDATE, "--hmac-prefix", "", "--hmac-encoding", "base64")
    await cli(*UPDATE, "--hmac-header", "X-Gateway")
    assert await stored_check() == HmacCheck("X-Gateway", ("s1", "s2"), SignatureEncoding.BASE64, "")


async def test_a_change_of_something_else_leaves_the_signature_and_no_hmac_takes_it_away(
    cli: Cli, organization: dict[str, Any], stored_check: StoredCheck
) -> None:
    await cli(*COLECTIVA, "--hmac-secret", "s1")
    assert (await cli(*UPDATE, "--timezone", "Europe/Berlin", "--json")).json["requires_signature"] is True
    assert await stored_check() == HmacCheck("x-colectiva-signature", ("s1",), prefix="sha256=")
    assert (await cli(*UPDATE, "--no-hmac", "--json")).json["requires_signature"] is False
    assert await stored_check() is None


@pytest.mark.parametrize("words", [COLECTIVA[:-1], UPDATE + OF[2:3]], ids=["add", "update"])
async def test_key_and_secrets_are_lines_of_the_standard_input_and_are_not_printed(
    cli: Cli, organization: dict[str, Any], stored_check: StoredCheck, words: tuple[str, ...]
) -> None:
    if words[1] == "update":
        await cli(*COLECTIVA)
    given = "renewed-key\nsigning-1\r\nsigning-2"
    ended = await cli(*words, "-", "--hmac-secret", "-", "--hmac-secret", "-", given=given)
    assert ended.exit_code == 0, ended.stderr
    assert await stored_check() == HmacCheck("x-colectiva-signature", ("signing-1", "signing-2"), prefix="sha256=")
    assert not any(secret in ended.stdout + ended.stderr for secret in given.split())


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("--hmac-secret", ""), "--hmac-secret"),
        (("--hmac-secret", "signing-1", "--hmac-secret", " "), "--hmac-secret"),
        (("--hmac-secret", "-"), "--hmac-secret"),
        (("--hmac-secret", "signing-\udcff"), "UTF-8"),
        (("--hmac-header", "X Gateway"), "--hmac-header"),
        (("--hmac-header", ""), "--hmac-header"),
        (("--hmac-encoding", "base32"), "--hmac-encoding"),
        (("--no-hmac", "--hmac-secret", "signing-1"), "--no-hmac"),
    ],
    ids=ascii,
)
async def test_a_signature_that_cannot_be_ends_with_2_and_leaves_what_there_was(
    cli: Cli, organization: dict[str, Any], stored_check: StoredCheck, words: tuple[str, ...], advice: str
) -> None:
    await cli(*COLECTIVA, "--hmac-secret", "s1")
    ended = await cli(*UPDATE, "--timezone", "Europe/Berlin", *words, given="")
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert advice in ended.stderr
    assert "signing-" not in ended.stderr
    assert await stored_check() == HmacCheck("x-colectiva-signature", ("s1",), prefix="sha256=")
    assert (await cli("connections", "show", "1", "--json")).json["timezone"] == "UTC"


async def test_a_form_without_a_secret_makes_no_signature(
    cli: Cli, organization: dict[str, Any], stored_check: StoredCheck
) -> None:
    await cli(*COLECTIVA)
    ended = await cli(*UPDATE, "--hmac-header", "X-Gateway")
    assert ended.exit_code == 2
    assert "--hmac-secret" in ended.stderr
    assert await stored_check() is None


async def test_a_vendor_that_signs_nothing_needs_the_header_at_a_change_too(
    cli: Cli, organization: dict[str, Any], stored_check: StoredCheck
) -> None:
    await cli(*INTAKEQ)
    refused = await cli(*UPDATE, "--hmac-secret", "s1")
    assert refused.exit_code == 2
    assert "--hmac-header" in refused.stderr
    assert (await cli(*UPDATE, "--hmac-secret", "s1", "--hmac-header", "X-Signature")).exit_code == 0
    assert (await cli(*UPDATE, "--hmac-secret", "s2")).exit_code == 0
    assert await stored_check() == HmacCheck("X-Signature", ("s2",))


@pytest.mark.parametrize(
    "command",
    [("backfill", "1"), ("drift", "--connection", "1"), ("providers", "list", "--connection", "1")],
)
async def test_what_is_about_records_refuses_a_connection_that_has_none(
    cli: Cli, organization: dict[str, Any], command: tuple[str, ...]
) -> None:
    assert (await cli(*COLECTIVA)).exit_code == 0
    refused = await cli(*command)
    assert refused.exit_code == 1
    assert "of which no records are copied" in " ".join(refused.stderr.split())
