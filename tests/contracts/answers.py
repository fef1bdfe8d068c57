"""A vendor's API that gives prepared answers, without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from eventsync.domain.errors import Rejected, Transient
from eventsync.domain.payloads import parse_json
from eventsync.vendorkit.budget import Purpose
from eventsync.vendorkit.http import NotFound, PostAnswer, VendorHttp


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


class PostAnswers(VendorHttp):
    """Answers every POST alike."""

    def __init__(self, answer: PostAnswer) -> None:
        self._answer = answer

    async def post_json(
        self,
        url: str,  # noqa: ARG002  # wherever it goes
        body: Any,
        *,
        headers: Mapping[str, str],  # noqa: ARG002  # as above
        purpose: Purpose,  # noqa: ARG002  # as above
    ) -> PostAnswer:
        """Answer, if the body can be written as JSON at all."""
        orjson.dumps(body)
        return self._answer
