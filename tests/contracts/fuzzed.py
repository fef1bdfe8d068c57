"""What vendors might send when all goes wrong: their own samples, damaged at any depth, and things never seen."""

from __future__ import annotations

import copy
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import orjson
from hypothesis import strategies as st

from eventsync.vendorkit.vendor import Vendor

Path = tuple[str | int, ...]

_NUMBERS = (
    *(0, -1, 1, 1.5, -0.0, 1e308, 5e-324, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1),
    *(-62_135_596_800_001, 253_402_300_799_999, 253_402_300_800_000, 1_744_730_000_000.5, 9_999_999_999.999),
)
_TEXTS = (
    *("", " ", "text", "\0", "\ud83d", "9" * 40, "2025-13-45", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00"),
    *(
        "NaN",
        "Infinity",
        "1e999",
        "-1",
        "null",
        "x" * 3_000,
        "\U0001f9d1\u200d\u2695\ufe0f\u0301",
        "a@b",
        "'; --",
        "%00",
    ),
    *("../clients", "65f0c0ffee65f0c0ffee0011?x=1", "1122", "01122", "+1122", "\u0661\u0662"),
)
_WRONG: tuple[Any, ...] = (
    *_NUMBERS,
    *_TEXTS,
    *(True, False, None, [], [1], [[]], [{}], [None], {}, {"Id": None}, {"Id": []}, {"a": {"b": [None]}}),
)
_unstorable = st.text(st.sampled_from("a 1\0\ud83d\udc4d"), min_size=1, max_size=6)
wrong_values = st.sampled_from(_WRONG)
any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | wrong_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)
headers = st.lists(
    st.tuples(
        st.sampled_from(["Content-Type", "Content-Encoding", "User-Agent", "X-Any"]),
        st.sampled_from(["gzip", "deflate", "gzip, deflate", "br", "identity", "application/json", "text/plain", ""])
        | st.text(max_size=12),
    ),
    max_size=3,
    unique_by=lambda header: header[0],
).map(tuple)


def webhook_samples(vendor: Vendor) -> list[Any]:
    """Parse the vendor's sample webhooks, afresh."""
    return [sample for name, sample in _samples(vendor) if not name.startswith("api_")]


def api_samples(vendor: Vendor) -> list[Any]:
    """Parse the vendor's sample answers, afresh."""
    return [sample for name, sample in _samples(vendor) if name.startswith("api_")]


def webhook_bodies(vendor: Vendor) -> st.SearchStrategy[bytes]:
    """Bodies: damaged samples above all, cut or garbled ones, any JSON, any bytes, compressed or not."""
    damaged = _damaged(webhook_samples(vendor)).map(as_json)
    read = readable_bodies(vendor)
    plain = st.one_of(
        read, read, read, damaged, damaged, _garbled(read), any_json.map(as_json), st.binary(max_size=200)
    )
    return st.one_of(plain, plain, plain, plain.map(gzip.compress), plain.map(zlib.compress))


def readable_bodies(vendor: Vendor) -> st.SearchStrategy[bytes]:
    """Bodies that mostly can be understood: samples in which values became others of their kind, often extreme ones."""
    return _damaged(webhook_samples(vendor), replacement=_of_the_same_kind).map(as_json)


def api_answers(vendor: Vendor) -> st.SearchStrategy[Any]:
    """Answers as parsed JSON: damaged samples, alone or in a list, and any JSON."""
    damaged = _damaged(api_samples(vendor))
    readable = _damaged(api_samples(vendor), replacement=_of_the_same_kind)
    return st.one_of(readable, readable, damaged, st.lists(readable, max_size=3), any_json)


def _anything(_: Any) -> st.SearchStrategy[Any]:
    return wrong_values | any_json


def _of_the_same_kind(value: Any) -> st.SearchStrategy[Any]:
    match value:
        case bool():
            return st.booleans()
        case int() | float():
            return st.sampled_from(_NUMBERS) | st.integers(0, 2**42) | st.floats(-1e12, 1e12)
        case str():
            return st.one_of(
                st.sampled_from(_TEXTS), _unstorable, _unstorable, st.text(max_size=20), st.datetimes().map(str)
            )
        case _:
            return st.none()


@st.composite
def _damaged(
    draw: st.DrawFn, samples: list[Any], replacement: Callable[[Any], st.SearchStrategy[Any]] = _anything
) -> Any:
    """Replace or remove a few values of a sample, at any depth; sometimes none."""
    value = copy.deepcopy(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(0, 8))):
        paths = list(_paths(value))
        if not paths:
            break
        *way, last = draw(st.sampled_from(paths))
        holder = value
        for step in way:
            holder = holder[step]
        if draw(st.integers(0, 19)):
            holder[last] = copy.deepcopy(draw(replacement(holder[last])))  # the next damage may lie within it
        else:
            del holder[last]
    return value


@st.composite
def _garbled(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> bytes:
    body = bytearray(draw(bodies))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 12)))
        body[start:end] = draw(
            st.binary(max_size=6) | st.sampled_from([b"\\u0000", b"\\ud83d", b"\0", b"[" * 80, b"1e999"])
        )
    return bytes(body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body)


def _paths(value: Any, way: Path = ()) -> Iterator[Path]:
    steps: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for step in steps:
        yield (*way, step)
        yield from _paths(value[step], (*way, step))


def as_json(value: Any) -> bytes:
    """Write JSON as a careless sender does, lone surrogates included."""
    try:
        return orjson.dumps(value)
    except TypeError:  # orjson refuses what is no Unicode
        return json.dumps(value).encode()


def _samples(vendor: Vendor) -> Iterator[tuple[str, Any]]:
    folder = resources.files(f"eventsync.vendors.{vendor.name}") / "samples"
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        yield entry.name, orjson.loads(entry.read_bytes())
