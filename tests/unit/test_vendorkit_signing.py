from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.connections import HmacCheck, SignatureEncoding
from eventsync.vendorkit.signing import sign, verify

BODY = b'{"EventType":"AppointmentCreated"}'
HEX = HmacCheck("X-Signature", ("first secret",))
CHECKS = [
    HEX,
    replace(HEX, prefix="sha256="),
    replace(HEX, encoding=SignatureEncoding.BASE64),
    replace(HEX, encoding=SignatureEncoding.BASE64, prefix="v1="),
    replace(HEX, secrets=("new secret", "old secret")),
]


@pytest.mark.parametrize("check", CHECKS)
def test_what_was_signed_is_verified_whatever_the_case_of_the_header_name(check: HmacCheck) -> None:
    assert verify(check, {"x-SIGNATURE": sign(check, BODY)}, BODY)


@pytest.mark.parametrize("check", CHECKS)
@given(body=st.binary(max_size=64))
def test_another_body_is_never_verified(check: HmacCheck, body: bytes) -> None:
    assert verify(check, {"X-Signature": sign(check, BODY)}, body) == (body == BODY)


def test_the_digest_is_that_of_sha256_over_the_raw_bytes() -> None:
    digest = hmac.new(b"first secret", BODY, hashlib.sha256).hexdigest()
    assert sign(HEX, BODY) == digest


def test_hex_digits_count_in_either_case() -> None:
    assert verify(HEX, {"X-Signature": sign(HEX, BODY).upper()}, BODY)


def test_any_secret_of_a_rotation_will_do() -> None:
    rotating = replace(HEX, secrets=("new secret", "old secret"))
    old = replace(HEX, secrets=("old secret",))
    assert verify(rotating, {"X-Signature": sign(old, BODY)}, BODY)
    assert not verify(rotating, {"X-Signature": sign(HEX, BODY)}, BODY)


def test_a_missing_header_is_a_no() -> None:
    assert not verify(HEX, {}, BODY)


def test_a_header_that_comes_twice_is_a_no() -> None:
    signature = sign(HEX, BODY)
    assert not verify(HEX, {"X-Signature": signature, "x-signature": signature}, BODY)


def test_a_signature_without_its_prefix_is_a_no() -> None:
    assert not verify(replace(HEX, prefix="sha256="), {"X-Signature": sign(HEX, BODY)}, BODY)


def test_an_empty_secret_lets_nobody_in() -> None:
    empty = replace(HEX, secrets=("",))
    assert not verify(empty, {"X-Signature": sign(empty, BODY)}, BODY)


@given(text=st.text(max_size=100))
def test_no_header_value_breaks_the_check(text: str) -> None:
    for check in CHECKS:
        assert not verify(check, {"X-Signature": text}, BODY)
