"""Who we talk to: one folder a vendor, each found by itself, so that adding a vendor is copying a folder."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module

from eventsync.domain.errors import Misconfigured
from eventsync.vendorkit.registry import RegistryVendor
from eventsync.vendorkit.vendor import RecordVendor, Vendor


def load_vendors() -> Mapping[str, Vendor]:
    """Find the vendors by name: every folder here that exports `VENDOR` under its own name.

    Raises Misconfigured for a folder that does not.
    """
    folders = (module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)
    return {folder: _load(folder) for folder in sorted(folders)}


def record_vendors(vendors: Mapping[str, Vendor]) -> Mapping[str, RecordVendor]:
    """Choose those whose records we copy."""
    return {name: vendor for name, vendor in vendors.items() if isinstance(vendor, RecordVendor)}


def registry_vendors(vendors: Mapping[str, Vendor]) -> Mapping[str, RegistryVendor]:
    """Choose those that are told of our organizations."""
    return {name: vendor for name, vendor in vendors.items() if isinstance(vendor, RegistryVendor)}


def _load(folder: str) -> Vendor:
    vendor: Vendor | None = getattr(import_module(f"{__name__}.{folder}"), "VENDOR", None)
    if vendor is None or vendor.name != folder:
        raise Misconfigured(f"vendors/{folder}/__init__.py must export VENDOR, a Vendor whose name is {folder!r}.")
    return vendor
