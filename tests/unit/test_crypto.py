"""Sealing, key rotation and hashing: what opens, what does not, and that refusals tell no secret."""

from __future__ import annotations

import base64
import logging
import traceback

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventsync.crypto import KEY_BYTES, Keyring, fingerprint, hash_token, new_key, new_token
from eventsync.domain.errors import Misconfigured

OLD_KEY = b"o" * KEY_BYTES
NEW_KEY = b"n" * KEY_BYTES


@given(plaintext=st.binary(max_size=2000), context=st.text(st.characters(codec="utf-8"), max_size=50))
def test_what_was_sealed_opens_with_the_same_context(plaintext: bytes, context: str) -> None:
    keyring = Keyring([NEW_KEY])
    assert keyring.open(keyring.seal(plaintext, context), context) == plaintext


def test_the_same_value_sealed_twice_looks_different() -> None:
    keyring = Keyring([NEW_KEY])
    assert keyring.seal(b"Test Client 12", "a") != keyring.seal(b"Test Client 12", "a")


def test_a_sealed_value_does_not_show_what_it_holds() -> None:
    assert b"Test Client 12" not in Keyring([NEW_KEY]).seal(b"Test Client 12", "a")


def test_a_value_pasted_into_another_place_does_not_open() -> None:
    keyring = Keyring([NEW_KEY])
    with pytest.raises(Misconfigured, match="changed or moved"):
        keyring.open(keyring.seal(b"value", "row 1"), "row 2")


@given(place=st.integers(min_value=0), change=st.integers(min_value=1, max_value=255))
def test_a_value_with_any_byte_changed_does_not_open(place: int, change: int) -> None:
    keyring = Keyring([NEW_KEY])
    sealed = bytearray(keyring.seal(b"value", "row"))
    sealed[place % len(sealed)] ^= change
    with pytest.raises(Misconfigured):
        keyring.open(bytes(sealed), "row")


@pytest.mark.parametrize("length", range(4 + 12 + 16 + 5))
def test_a_value_cut_short_at_any_byte_is_misconfigured_and_nothing_else(length: int) -> None:
    keyring = Keyring([NEW_KEY])
    with pytest.raises(Misconfigured):
        keyring.open(keyring.seal(b"value", "row")[:length], "row")


def test_after_a_rotation_the_new_key_seals_and_the_old_one_still_opens() -> None:
    sealed_before = Keyring([OLD_KEY]).seal(b"before", "row")
    rotated = Keyring([NEW_KEY, OLD_KEY])
    assert rotated.open(sealed_before, "row") == b"before"
    assert Keyring([NEW_KEY]).open(rotated.seal(b"after", "row"), "row") == b"after"


def test_a_value_of_a_removed_key_says_to_add_that_key_again() -> None:
    sealed = Keyring([OLD_KEY]).seal(b"before", "row")
    with pytest.raises(Misconfigured, match="add the earlier key to EVENTSYNC_ENCRYPTION_KEYS"):
        Keyring([NEW_KEY]).open(sealed, "row")


def test_keys_are_read_from_comma_separated_base64_with_spaces_allowed() -> None:
    old_text, new_text = base64.b64encode(OLD_KEY).decode(), base64.b64encode(NEW_KEY).decode()
    keyring = Keyring.parse(f" {new_text} , {old_text},")
    assert keyring.open(Keyring([OLD_KEY]).seal(b"x", "row"), "row") == b"x"
    assert Keyring([NEW_KEY]).open(keyring.seal(b"x", "row"), "row") == b"x"


def test_a_new_key_is_one_that_can_be_read() -> None:
    keyring = Keyring.parse(new_key())
    assert keyring.open(keyring.seal(b"x", "row"), "row") == b"x"


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_no_key_at_all_is_refused_with_the_command_that_makes_one(text: str) -> None:
    with pytest.raises(Misconfigured, match="openssl rand -base64 32"):
        Keyring.parse(text)


@pytest.mark.parametrize(
    "bad",
    [
        "not base64!",
        "c2hvcnQtc2VjcmV0",
        base64.b64encode(b"x" * 16).decode(),
        base64.b64encode(b"x" * 33).decode(),
        "schl\u00fcssel-secret",
        "\udcff",
    ],
)
def test_a_bad_key_is_named_by_its_place_and_never_quoted(bad: str) -> None:
    with pytest.raises(Misconfigured, match="key 2 is not 32 bytes of base64") as caught:
        Keyring.parse(f"{new_key()},{bad}")
    assert bad not in str(caught.value)
    assert bad not in "".join(traceback.format_exception_only(caught.value))


def test_a_keyring_does_not_show_its_keys_when_printed_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    keyring = Keyring([NEW_KEY])
    logging.getLogger(__name__).warning("%r %s", keyring, keyring)
    assert NEW_KEY.decode() not in caplog.text
    assert base64.b64encode(NEW_KEY).decode() not in caplog.text


def test_tokens_are_long_url_safe_and_never_repeat() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) >= 43 and token.replace("-", "").replace("_", "").isalnum() for token in tokens)


@example("\udcff")
@given(token=st.text(st.characters(), max_size=100))
def test_every_text_that_a_caller_can_send_as_a_token_has_a_hash(token: str) -> None:
    assert len(hash_token(token)) == 32


def test_a_token_hash_is_plain_sha256() -> None:
    assert hash_token("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_fingerprint_is_stable_short_and_not_the_hash_used_for_looking_tokens_up() -> None:
    assert fingerprint("abc") == fingerprint("abc") != fingerprint("abd")
    assert len(fingerprint("abc")) == 16
    assert not hash_token("abc").hex().startswith(fingerprint("abc"))
