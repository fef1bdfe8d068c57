from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventsync.vendors
from eventsync.domain.errors import Misconfigured
from eventsync.vendors import load_vendors
from eventsync.vendors.intakeq import VENDOR


@pytest.fixture
def vendor_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "newvendor"
    folder.mkdir()
    monkeypatch.setattr(eventsync.vendors, "__path__", [*eventsync.vendors.__path__, str(tmp_path)])
    yield folder
    sys.modules.pop("eventsync.vendors.newvendor", None)
    vars(eventsync.vendors).pop("newvendor", None)


def test_every_folder_is_found_under_its_own_name() -> None:
    assert load_vendors()["intakeq"] is VENDOR


def test_a_copied_folder_is_a_vendor_without_being_registered(vendor_folder: Path) -> None:
    (vendor_folder / "__init__.py").write_text("class New:\n    name = 'newvendor'\n\nVENDOR = New()\n")
    assert load_vendors().keys() >= {"intakeq", "newvendor"}


@pytest.mark.parametrize("content", ["", "class Other:\n    name = 'other'\n\nVENDOR = Other()\n"])
def test_a_folder_that_is_no_vendor_is_said_to_be_so(vendor_folder: Path, content: str) -> None:
    (vendor_folder / "__init__.py").write_text(content)
    with pytest.raises(Misconfigured, match="newvendor"):
        load_vendors()
