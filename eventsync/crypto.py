"""Keys: sealing what must be shown or read again, hashing what only needs comparing.

A sealed value is `key id (4 bytes) + nonce (12) + AES-256-GCM ciphertext and tag`, bound to a context, so that
a value cut out of one row and pasted into another does not open.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from eventsync.domain.errors import Misconfigured

KEY_BYTES = 32
_KEY_ID_BYTES = 4
_NONCE_BYTES = 12


class Keyring:
    """The encryption keys: the first seals, all of them open."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise Misconfigured("EVENTSYNC_ENCRYPTION_KEYS is empty: set it to the output of `openssl rand -base64 32`")
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._sealing_id = _key_id(keys[0])

    @classmethod
    def parse(cls, text: str) -> Keyring:
        """Read comma-separated base64 keys of 32 bytes each. Raises Misconfigured, never quoting a key."""
        return cls([_parse_key(place, part) for place, part in enumerate(text.split(","), start=1) if part.strip()])

    def seal(self, plaintext: bytes, context: str) -> bytes:
        """Encrypt, so that only `open` with the same context gives it back."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return self._sealing_id + nonce + self._ciphers[self._sealing_id].encrypt(nonce, plaintext, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """Decrypt. Raises Misconfigured when no key of ours fits or the value was tampered with or misplaced."""
        cipher = self._ciphers.get(sealed[:_KEY_ID_BYTES])
        if cipher is None:
            raise Misconfigured(
                "a stored value was sealed with a key that is missing: add the earlier key to EVENTSYNC_ENCRYPTION_KEYS"
            )
        nonce, body = sealed[_KEY_ID_BYTES:][:_NONCE_BYTES], sealed[_KEY_ID_BYTES + _NONCE_BYTES :]
        try:
            return cipher.decrypt(nonce, body, context.encode())
        except (InvalidTag, ValueError) as error:  # ValueError: cut short within the nonce
            raise Misconfigured("a stored value does not open: it was changed or moved outside eventsync") from error


def new_key() -> str:
    """Make a key, as base64 text for EVENTSYNC_ENCRYPTION_KEYS."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def new_token() -> str:
    """Make a URL-safe secret of 256 bits, for a webhook's path or a bearer token."""
    return secrets.token_urlsafe(32)


def hash_token(token: str) -> bytes:
    """Hash a token of ours for look-up (SHA-256; our tokens are random, so no slow hash is needed).

    Any str has a hash: a caller's header with invalid UTF-8 arrives with lone surrogates, and is merely wrong.
    """
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def fingerprint(secret: str) -> str:
    """Name a secret without telling it: 16 hex digits, to key a ledger or to show which key is in use."""
    return sha256(b"eventsync:fingerprint:" + secret.encode()).hexdigest()[:16]


def _key_id(key: bytes) -> bytes:
    return sha256(b"eventsync:key-id:" + key).digest()[:_KEY_ID_BYTES]


def _parse_key(place: int, text: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:  # not base64, or not even ASCII
        key = b""
    if len(key) != KEY_BYTES:
        raise Misconfigured(
            f"EVENTSYNC_ENCRYPTION_KEYS: key {place} is not {KEY_BYTES} bytes of base64;"
            " make one with `openssl rand -base64 32`"
        )
    return key
