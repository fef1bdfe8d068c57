"""The words of a server's answer, as they may stand in a row of the queue."""

from __future__ import annotations

import unicodedata

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.fuzzed import any_json, as_json
from eventsync.vendors.colectiva.words import MAX_WORDS_CHARS, words_of

SECRET = "invented-colectiva-key"


def words(body: bytes) -> str:
    return words_of(body, secret=SECRET)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"message": "Name is missing"}, "Name is missing"),
        ({"error": "Name is missing", "code": 17}, "Name is missing"),
        ({"error": {"code": "invalid", "message": "Name is missing"}}, "Name is missing"),
        (
            {"statusCode": 400, "message": ["Name is missing", "RFC is wrong"], "error": "Bad Request"},
            "Name is missing; RFC is wrong; Bad Request",
        ),
        (
            {"errors": {"name": ["is missing"], "rfc": ["is wrong", "is short"]}},
            "name: is missing; rfc: is wrong; rfc: is short",
        ),
        (
            {"errors": [{"field": "rfc", "message": "is wrong"}, {"message": "Name is missing"}]},
            "rfc: is wrong; Name is missing",
        ),
        ({"error": "Name is missing", "message": "Name is missing"}, "Name is missing"),
        ({"detail": "Name is missing"}, "Name is missing"),
        ({"success": False, "status": "invalid"}, "status: invalid"),
        ("Name is missing", "Name is missing"),
        (["Name is missing", 17], "Name is missing; 17"),
        ({}, ""),
        (None, ""),
        ({"message": None, "error": ""}, ""),
    ],
)
def test_the_words_are_found_in_whatever_form_json_has(said: object, read: str) -> None:
    assert words(orjson.dumps(said)) == read


def test_text_is_taken_as_it_is() -> None:
    assert words("  Organización\r\n\tinválida ".encode()) == "Organización inválida"
    assert words(b"") == ""
    assert words(b'{"message":"cut') == '{"message":"cut'


@pytest.mark.parametrize(
    ("page", "read"),
    [
        ("<!DOCTYPE html><html><head><title>502 Bad\n Gateway</title></head><body>x</body></html>", "502 Bad Gateway"),
        ("<html><head><style>p{}</style></head><body><h1>Back &amp; soon</h1><script>x()</script>", "Back & soon"),
        ("<?xml version='1.0'?><Error><Code>Denied</Code></Error>", "Denied"),
        ("<html><script>never closed", ""),
    ],
)
def test_a_page_for_people_is_reduced_to_what_it_says(page: str, read: str) -> None:
    assert words(page.encode()) == read


def test_a_long_page_is_cut_shorter_than_the_words_of_a_program() -> None:
    assert len(words(b"<html><body>" + b"word " * 100_000)) <= 150
    assert len(words(b"word " * 100_000)) == MAX_WORDS_CHARS


def test_characters_that_steer_a_terminal_or_the_reading_direction_are_taken_out() -> None:
    assert words(orjson.dumps({"error": "a\x1b[31mb\u202ec\u0000d\u2028e"})) == "a [31mb c\N{REPLACEMENT CHARACTER}d e"


def test_a_secret_is_masked_even_where_the_cut_would_split_it() -> None:
    told = words(orjson.dumps({"error": "x" * (MAX_WORDS_CHARS - 10) + SECRET}))
    assert "invented" not in told
    assert words_of(b"wrong key: k", secret="k") == "wrong key: k"


@given(any_json.map(as_json) | st.binary(max_size=300) | st.text(max_size=300).map(lambda text: f"<{text}".encode()))
def test_any_answer_has_short_plain_words(body: bytes) -> None:
    told = words(body)
    assert len(told) <= MAX_WORDS_CHARS
    assert not any(unicodedata.category(char).startswith("C") for char in told)
    assert SECRET not in told
