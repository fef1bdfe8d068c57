"""COLECTIVA_URL and COLECTIVA_API_KEY: read as another system names them, judged with all others, never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventsync.domain.errors import Misconfigured
from eventsync.settings import Settings, load_settings

KEY = "rbs_live_0123456789"


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No .env file, and neither variable."""
    monkeypatch.chdir(tmp_path)
    for name in ("COLECTIVA_URL", "COLECTIVA_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def loaded(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_without_the_variables_there_is_nothing_to_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(monkeypatch)
    assert (settings.colectiva_url, settings.colectiva_api_key) == (None, None)


def test_both_are_read_without_our_prefix_and_the_key_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(monkeypatch, COLECTIVA_URL=" https://colectiva.example.test/api ", COLECTIVA_API_KEY=f"{KEY}\n")
    assert settings.colectiva_url == "https://colectiva.example.test/api"
    assert settings.colectiva_api_key is not None
    assert settings.colectiva_api_key.get_secret_value() == KEY
    assert KEY not in repr(settings)


def test_a_key_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(monkeypatch, COLECTIVA_API_KEY=KEY)
    assert settings.colectiva_url is None
    assert settings.colectiva_api_key is not None


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_empty_variables_as_a_compose_file_passes_them_count_as_unset(
    monkeypatch: pytest.MonkeyPatch, empty: str
) -> None:
    settings = loaded(monkeypatch, COLECTIVA_URL=empty, COLECTIVA_API_KEY=empty)
    assert (settings.colectiva_url, settings.colectiva_api_key) == (None, None)


@pytest.mark.parametrize("variables", [{}, {"COLECTIVA_API_KEY": ""}])
def test_an_address_without_a_key_is_told_with_all_other_problems(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    with pytest.raises(Misconfigured) as caught:
        loaded(monkeypatch, COLECTIVA_URL="https://colectiva.example.test", EVENTSYNC_PORT="high", **variables)
    assert "COLECTIVA_API_KEY: " in str(caught.value)
    assert "EVENTSYNC_COLECTIVA" not in str(caught.value)
    assert "EVENTSYNC_PORT" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "colectiva.example.test",
        "ftp://colectiva.example.test",
        "https://",
        "https://user:pass-word@colectiva.example.test",
        "https://colectiva.example.test/?key=pass-word",
        "https://colectiva.example.test:0",
        "https://[colectiva",
    ],
)
def test_what_is_no_address_is_refused_without_quoting_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    with pytest.raises(Misconfigured, match="COLECTIVA_URL: ") as caught:
        loaded(monkeypatch, COLECTIVA_URL=url, COLECTIVA_API_KEY=KEY)
    assert "pass-word" not in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["clé", "two\nlines"])
def test_a_key_that_no_header_can_carry_is_refused_without_quoting_it(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    with pytest.raises(Misconfigured, match="COLECTIVA_API_KEY: ") as caught:
        loaded(monkeypatch, COLECTIVA_API_KEY=key)
    assert key not in str(caught.value)
