"""Colectiva's side of a registration: who may write, what a key brought before, and the upsert. Pure.

The server is not public. Assumed: a POST is an upsert by `app_org_id`; the same Idempotency-Key with the same body is
answered as before and writes nothing, with another body it gets 422, as the IETF's draft of that header has it.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from eventsync.sandbox.colectiva.books import Books
from eventsync.sandbox.colectiva.organizations import Organization, Registration, read_registration
from eventsync.sandbox.errors import BadArgumentError

_REMEMBERED_KEYS = 100_000


@dataclass(frozen=True, slots=True)
class Reply:
    """What a POST is answered, and whether it wrote, or told again what the same key wrote before."""

    status: int
    body: dict[str, Any]
    is_committed: bool = False
    is_replayed: bool = False


@dataclass(frozen=True, slots=True)
class _Written:
    """What a key brought."""

    body_hash: str
    status: int
    body: dict[str, Any]


def error_body(words: str) -> dict[str, Any]:
    """A refusal."""
    return {"success": False, "error": words}


def hash_body(content: bytes) -> str:
    """The same for the same JSON value, however it is written."""
    with suppress(orjson.JSONDecodeError):  # no JSON: its bytes are all there is
        content = orjson.dumps(orjson.loads(content), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()


class Registry:
    """Takes registrations; `may_write` is the key's permission, `refuses_known` answers 409 for what exists already."""

    def __init__(self, books: Books) -> None:
        self.may_write = True
        self.refuses_known = False
        self._books = books
        self._written: dict[str, _Written] = {}  # by key, oldest first

    def register(self, content: bytes, key: str | None, now_ms: int) -> Reply:
        """Do what one POST asks; `key` is its Idempotency-Key."""
        if not self.may_write:
            return Reply(403, error_body("the key lacks the permission ecosystem:write"))
        try:
            registration = read_registration(orjson.loads(content))
        except orjson.JSONDecodeError:
            return Reply(400, error_body("the body must be JSON"))
        except BadArgumentError as refused:
            return Reply(400, error_body(str(refused)))
        body_hash = hash_body(content)
        before = None if key is None else self._written.get(key)
        if before is not None:
            return _again(before, body_hash)
        reply = self._upsert(registration, now_ms)
        if key is not None and reply.is_committed:
            self._remember(key, _Written(body_hash, reply.status, reply.body))
        return reply

    def _upsert(self, registration: Registration, now_ms: int) -> Reply:
        known = self._books.organizations.get(registration.app_org_id)
        if known is not None and self.refuses_known:
            told = error_body("the organization is registered already")
            return Reply(409, told | {"ecosystem_org_id": known.id})
        remote_id = self._books.remote_id(registration.app_org_id)
        organization = Organization(
            id=remote_id,
            registration=registration,
            created_ms=now_ms if known is None else known.created_ms,
            modified_ms=now_ms,
            writes=1 if known is None else known.writes + 1,
        )
        self._books.put_organization(organization)
        body = {"success": True, "ecosystem_org_id": remote_id, "created": known is None}
        return Reply(201 if known is None else 200, body, is_committed=True)

    def _remember(self, key: str, written: _Written) -> None:
        self._written[key] = written
        if len(self._written) > _REMEMBERED_KEYS:
            del self._written[next(iter(self._written))]

    def to_state(self) -> dict[str, Any]:
        """What is not in the books."""
        return {"may_write": self.may_write, "refuses_known": self.refuses_known, "written": self._written}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `to_state` wrote; raises KeyError or TypeError for anything else."""
        self.may_write, self.refuses_known = state["may_write"], state["refuses_known"]
        self._written = {key: _Written(**row) for key, row in state["written"].items()}


def _again(before: _Written, body_hash: str) -> Reply:
    if before.body_hash != body_hash:
        return Reply(422, error_body("this Idempotency-Key came with another body before"))
    return Reply(before.status, before.body, is_replayed=True)
