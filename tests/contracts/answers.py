"""A vendor's API that gives prepared answers, without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eventsync.domain.errors import Rejected, Transient
from eventsync.domain.payloads import parse_json
from eventsync.vendorkit.budget import Purpose
from eventsync.vendorkit.http import NotFound, VendorHttp


class Answers(VendorHttp):
    """Answers with what was drawn, one call after the other, then that there is nothing (any more)."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        self._answers = list(answers)

    async def get_json(
        self,
        url: str,  # noqa: ARG002  # whatever is asked for
        *,
        params: Mapping[str, str],  # noqa: ARG002  # as above
        headers: Mapping[str, str],  # noqa: ARG002  # as above
        purpose: Purpose,  # noqa: ARG002  # as above
    ) -> Any:
        """Answer the next call, failing as VendorHttp does. Raises Transient, NotFound."""
        if not self._answers:
            raise NotFound
        try:
            return parse_json(self._answers.pop(0))
        except Rejected:
            raise Transient("the answer is not JSON") from None
