"""A request's or an answer's body, made safe to read: inflated within a bound, parsed, free of what PostgreSQL refuses.

Pure. Every error is a Rejected whose reason tells apart what is wrong and whose message holds nothing of the body.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, NoReturn

import orjson

from eventsync.domain.errors import Rejected

MAX_INFLATED_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 64  # the records of every vendor we know nest less than ten deep

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ESCAPED_NUL = b"\\u0000"  # JSON has no other way to write it
_ANY_WRAPPER = zlib.MAX_WBITS | 32  # zlib tells gzip and zlib headers apart by itself
_NO_WRAPPER = -zlib.MAX_WBITS  # "deflate" as some senders understand it
_SMALLEST_INTEGER, _LARGEST_INTEGER = -(2**63), 2**64 - 1  # what orjson can write again


def read_object(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """Inflate, parse and clean `body`, which must hold one JSON object.

    Raises Rejected: empty_body, body_too_large, unknown_content_encoding, not_inflatable, invalid_utf8, not_json,
    nested_too_deeply, not_an_object.
    """
    value = parse_json(inflate(body, headers))
    if not isinstance(value, dict):
        raise Rejected("not_an_object", "The body is JSON, but not an object.")
    return value


def inflate(body: bytes, headers: Mapping[str, str]) -> bytes:
    """Undo the request's Content-Encoding (gzip and deflate), to at most MAX_INFLATED_BYTES."""
    for coding in reversed(_content_codings(headers)):
        body = _undo(coding, body)
    if not body:
        raise Rejected("empty_body", "The body is empty.")
    if len(body) > MAX_INFLATED_BYTES:
        raise _too_large()
    return body


def parse_json(body: bytes) -> Any:
    """Parse JSON and clean every text in it.

    NUL characters and lone surrogates, which PostgreSQL can hold in neither text nor jsonb, become U+FFFD. Numbers
    that are not finite, and nesting deeper than MAX_DEPTH, are rejected.
    """
    body = body.removeprefix(_BYTE_ORDER_MARK)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _clean(_parse_with_surrogates(body), MAX_DEPTH)
    return _clean(value, MAX_DEPTH) if _may_need_cleaning(body) else value


def _may_need_cleaning(body: bytes) -> bool:
    """Look at what orjson took: it has refused surrogates and infinities, so that NUL and depth are left."""
    if b"\\" in body and _ESCAPED_NUL in body:  # one byte is found ten times as fast as six
        return True
    return body.count(b"{") + body.count(b"[") > MAX_DEPTH


def _content_codings(headers: Mapping[str, str]) -> list[str]:
    value = ",".join(text for name, text in headers.items() if name.lower() == "content-encoding")
    codings = [coding.strip().lower() for coding in value.split(",")]
    return [coding for coding in codings if coding not in ("", "identity")]


def _undo(coding: str, body: bytes) -> bytes:
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise Rejected("unknown_content_encoding", "The Content-Encoding is none of gzip, deflate and identity.")
    windows = [_ANY_WRAPPER, _NO_WRAPPER] if coding == "deflate" else [_ANY_WRAPPER]
    for window_bits in windows:
        try:
            return _inflate_members(body, window_bits)
        except zlib.error:
            continue
    if body.lstrip()[:1] == b"{":
        return body  # a proxy on the way inflated it and left the header
    raise Rejected("not_inflatable", "The body is not what its Content-Encoding says.")


def _inflate_members(body: bytes, window_bits: int) -> bytes:
    """Inflate one compressed stream, or several in a row as gzip allows. Raises zlib.error when cut short."""
    inflated = bytearray()
    while body:
        stream = zlib.decompressobj(window_bits)
        inflated += stream.decompress(body, MAX_INFLATED_BYTES + 1 - len(inflated))
        if len(inflated) > MAX_INFLATED_BYTES:
            raise _too_large()
        if not stream.eof:
            raise zlib.error("cut short")
        body = stream.unused_data
    return bytes(inflated)


def _too_large() -> Rejected:
    return Rejected("body_too_large", f"The body is larger than {MAX_INFLATED_BYTES} bytes once inflated.")


def _parse_with_surrogates(body: bytes) -> Any:
    r"""Parse what orjson refuses: either not JSON, or with lone surrogates (`\ud83d`) as a text cut in half has."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise Rejected("invalid_utf8", "The body is not valid UTF-8.") from None
    try:
        return json.loads(text, parse_int=_integer, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise Rejected("not_json", "The body is not JSON, or was cut short.") from None


def _integer(digits: str) -> int | float:
    """Read an integer as orjson does: a float where 64 bits cannot hold it."""
    if len(digits) > 20:
        return float(digits)
    value = int(digits)
    return value if _SMALLEST_INTEGER <= value <= _LARGEST_INTEGER else float(value)


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _too_deep() -> Rejected:
    return Rejected("nested_too_deeply", f"The body nests more than {MAX_DEPTH} levels deep.")


def _clean(value: Any, levels_left: int) -> Any:
    cleaner = _CLEANERS.get(type(value))
    return value if cleaner is None else cleaner(value, levels_left)


def _clean_object(value: dict[str, Any], levels_left: int) -> dict[str, Any]:
    if not levels_left:
        raise _too_deep()
    return {_clean_text(key): _clean(item, levels_left - 1) for key, item in value.items()}


def _clean_array(value: list[Any], levels_left: int) -> list[Any]:
    if not levels_left:
        raise _too_deep()
    return [_clean(item, levels_left - 1) for item in value]


def _clean_float(value: float, _levels_left: int = 0) -> float:
    if not isfinite(value):
        raise Rejected("not_json", "The body holds a number that is too large for JSON.")
    return value


def _clean_text(value: str, _levels_left: int = 0) -> str:
    if "\0" in value:
        value = value.replace("\0", _REPLACEMENT)
    if value.isascii():
        return value
    # Halves of a pair that stand side by side are joined again on the way through UTF-16.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_CLEANERS: dict[type, Callable[[Any, int], Any]] = {
    dict: _clean_object,
    list: _clean_array,
    float: _clean_float,
    str: _clean_text,
}
