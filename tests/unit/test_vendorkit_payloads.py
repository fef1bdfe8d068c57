from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.errors import Rejected
from eventsync.domain.payloads import MAX_DEPTH, MAX_INFLATED_BYTES, parse_json, read_object

GZIP = {"Content-Encoding": "gzip"}
DEFLATE = {"content-encoding": "deflate"}
OBJECT = {"Name": "Test Client 12", "Number": 12}
BODY = orjson.dumps(OBJECT)


def reason_of(body: bytes, headers: Mapping[str, str] | None = None) -> str:
    with pytest.raises(Rejected) as caught:
        read_object(body, headers or {})
    return caught.value.reason


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (BODY, {}),
        (BODY, {"Content-Encoding": "identity"}),
        (b"\xef\xbb\xbf" + BODY, {}),
        (gzip.compress(BODY), GZIP),
        (gzip.compress(BODY), {"CONTENT-ENCODING": "X-GZIP"}),
        (gzip.compress(BODY[:7]) + gzip.compress(BODY[7:]), GZIP),
        (zlib.compress(BODY), DEFLATE),
        (raw_deflate(BODY), DEFLATE),
        (gzip.compress(zlib.compress(BODY)), {"Content-Encoding": "deflate, gzip"}),
        (BODY, GZIP),  # inflated by a proxy that left the header
    ],
)
def test_an_object_is_read_however_it_was_packed(body: bytes, headers: Mapping[str, str]) -> None:
    assert read_object(body, headers) == OBJECT


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (b"", {}, "empty_body"),
        (b"", GZIP, "empty_body"),
        (gzip.compress(b""), GZIP, "empty_body"),
        (b"   ", {}, "not_json"),
        (BODY[:-3], {}, "not_json"),
        (b"EventType=AppointmentCreated", {}, "not_json"),
        (b"<html></html>", {}, "not_json"),
        (b'{"a":NaN}', {}, "not_json"),
        (b'{"a":1e999}', {}, "not_json"),
        (b'{"a":"\\ud800","b":1e999}', {}, "not_json"),
        (b'{"a":"\xff"}', {}, "invalid_utf8"),
        (json.dumps(OBJECT).encode("utf-16"), {}, "invalid_utf8"),
        (b"[1]", {}, "not_an_object"),
        (b"null", {}, "not_an_object"),
        (b'"text"', {}, "not_an_object"),
        (BODY, {"Content-Encoding": "br"}, "unknown_content_encoding"),
        (gzip.compress(BODY), {"Content-Encoding": "gzip, zstd"}, "unknown_content_encoding"),
        (gzip.compress(BODY)[:-9], GZIP, "not_inflatable"),
        (b"PK\x03\x04", GZIP, "not_inflatable"),
        (b"PK\x03\x04", DEFLATE, "not_inflatable"),
        (gzip.compress(bytes(MAX_INFLATED_BYTES + 1)), GZIP, "body_too_large"),
        (zlib.compress(bytes(64 * MAX_INFLATED_BYTES)), DEFLATE, "body_too_large"),
        (b'{"a":"' + b"x" * MAX_INFLATED_BYTES + b'"}', {}, "body_too_large"),
    ],
)
def test_what_cannot_be_read_is_rejected_with_a_reason_of_its_own(
    body: bytes, headers: Mapping[str, str], reason: str
) -> None:
    assert reason_of(body, headers) == reason


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500, 5_000, 200_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting_is_rejected_as_such(depth: int, opening: bytes, closing: bytes) -> None:
    assert reason_of(opening * depth + b"1" + closing * depth) == "nested_too_deeply"


def test_nesting_up_to_the_bound_is_read() -> None:
    assert read_object(b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}", {})


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (rb'{"a\u0000b":"c\u0000d"}', {"a\ufffdb": "c\ufffdd"}),
        (rb'["cut \ud83d"]', ["cut \ufffd"]),
        (rb'["\ude00 cut"]', ["\ufffd cut"]),
        (rb'["\ud83d\ude00","\ud83d"]', ["\U0001f600", "\ufffd"]),
        (rb'["\ud83d", 18446744073709551615, 18446744073709551616]', ["\ufffd", 2**64 - 1, float(2**64)]),
        (rb'["\ud83d", -9223372036854775809]', ["\ufffd", float(-(2**63) - 1)]),
    ],
)
def test_text_that_postgresql_cannot_hold_is_replaced(body: bytes, value: Any) -> None:
    assert parse_json(body) == value
    orjson.dumps(parse_json(body))


@given(st.binary(max_size=200), st.sampled_from([{}, GZIP, DEFLATE, {"Content-Encoding": "gzip,gzip"}]))
def test_no_bytes_raise_anything_but_rejected(body: bytes, headers: dict[str, str]) -> None:
    assert outcome(body, headers) != ""


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()), st.lists))
def test_whatever_json_a_sender_writes_is_read_and_can_be_written_again(value: object) -> None:
    assert outcome(json.dumps({"value": value}).encode(), {}) in ("read", "not_json")


def outcome(body: bytes, headers: Mapping[str, str]) -> str:
    try:
        value = read_object(body, headers)
    except Rejected as error:
        return error.reason
    orjson.dumps(value)
    return "read"
