"""The vendors that there are: how each one's data comes to be, and what of the options concerns it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eventsync.sandbox.colectiva import vendor as colectiva
from eventsync.sandbox.errors import OptionsError
from eventsync.sandbox.intakeq import vendor as intakeq
from eventsync.sandbox.options import SandboxOptions
from eventsync.sandbox.quota import QuotaLimits
from eventsync.sandbox.vendor import PretendVendor


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A vendor's data is invented anew (at a time), or comes from what was saved.

    `quota` is the vendor's own; `foreign` names the options that say nothing of it.
    """

    new: Callable[[SandboxOptions, int], PretendVendor]
    saved: Callable[[dict[str, Any]], PretendVendor]
    quota: QuotaLimits
    foreign: frozenset[str] = frozenset()


_OPENINGS: Mapping[str, Opening] = {
    "intakeq": Opening(
        new=intakeq.open_intakeq,
        saved=intakeq.reopen_intakeq,
        quota=QuotaLimits(per_minute=10, per_day=500),  # the standard plan's
    ),
    "colectiva": Opening(
        new=colectiva.open_colectiva,
        saved=colectiva.reopen_colectiva,
        quota=QuotaLimits(per_minute=None, per_day=None),  # its limits are not known
        foreign=frozenset({"clients", "appointments", "practice_id"}),
    ),
}
VENDORS = tuple(_OPENINGS)


def opening_of(vendor: str) -> Opening:
    """How to open it. Raises OptionsError for a vendor that there is not."""
    opening = _OPENINGS.get(vendor)
    if opening is None:
        raise OptionsError(f"unknown vendor {vendor!r}; known: {', '.join(VENDORS)}")
    return opening
