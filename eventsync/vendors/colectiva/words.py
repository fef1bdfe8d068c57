"""The words in an answer of Colectiva's (pure), short and plain enough to stand in a row of the queue.

What its errors look like is unknown, so that several forms are read: JSON with `message`, `error`, `errors` or
`detail` as text, list or object; plain text; and pages for people, as proxies on the way write them.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from eventsync.domain.errors import Rejected
from eventsync.domain.payloads import parse_json

MAX_WORDS_CHARS = 500
_MAX_PAGE_CHARS = 150
_MIN_SECRET_CHARS = 8  # a shorter one is no real key, and would blot out ordinary words
_READ_CHARS = 20_000  # whatever is worth reading stands at the beginning
_SPEAKING = ("message", "error", "errors", "detail", "details", "reason", "title")
_MAX_TEXTS = 50
_TITLE = re.compile(r"<title[^<>]{0,200}>([^<]{1,500})", re.IGNORECASE)
_SILENT = re.compile(r"<(script|style|head)\b.*?(</\1>|\Z)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^<>]*>?")


def words_of(body: bytes, *, secret: str) -> str:
    """Find what an answer says, in at most MAX_WORDS_CHARS characters; empty where it says nothing.

    Control characters and surplus space are taken out, and `secret`, which a careless server may repeat, is masked.
    """
    if body.lstrip()[:1] == b"<":
        return _bounded(_of_page(_decoded(body)), secret, _MAX_PAGE_CHARS)
    try:
        texts = _texts(parse_json(body))
    except Rejected:
        return _bounded(_decoded(body), secret, MAX_WORDS_CHARS)
    # A text that stands there twice, as `error` and `message` often are, is said once.
    unique = dict.fromkeys(text for _, text in zip(range(_MAX_TEXTS), texts, strict=False))
    return _bounded("; ".join(unique), secret, MAX_WORDS_CHARS)


def _texts(value: Any, name: str = "", levels_left: int = 4) -> Iterator[str]:
    """Walk to the texts of an error: of an object that has speaking members, only those are read."""
    match value:
        case str() if value.strip():
            yield f"{name}: {value.strip()}" if name else value.strip()
        case bool() | None:
            return
        case int() | float():
            yield f"{name}: {value}" if name else str(value)
        case list() if levels_left:
            for item in value:
                yield from _texts(item, name, levels_left - 1)
        case dict() if levels_left:
            yield from _texts_of_object(value, name, levels_left - 1)


def _texts_of_object(value: dict[str, Any], name: str, levels_left: int) -> Iterator[str]:
    speaking = [key for key in _SPEAKING if value.get(key)]
    field = next((value[key] for key in ("field", "path", "param") if isinstance(value.get(key), str)), name)
    if speaking:
        for key in speaking:
            yield from _texts(value[key], field, levels_left)
        return
    for key, item in value.items():
        yield from _texts(item, key, levels_left)


def _of_page(page: str) -> str:
    title = _TITLE.search(page)
    return html.unescape(title.group(1) if title else _TAG.sub(" ", _SILENT.sub(" ", page)))


def _decoded(body: bytes) -> str:
    return body[:_READ_CHARS].decode("utf-8", "replace")


def _bounded(text: str, secret: str, max_chars: int) -> str:
    plain = "".join(" " if unicodedata.category(char).startswith(("C", "Z")) else char for char in text[:_READ_CHARS])
    text = " ".join(plain.split())
    if len(secret) >= _MIN_SECRET_CHARS:
        text = text.replace(secret, "***")  # before the cut, which could leave a part of it
    return text if len(text) <= max_chars else text[: max_chars - 1].rstrip() + "…"
