"""Signatures over a webhook's raw bytes (HMAC-SHA256): judged at the door, made for test events. Pure."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping

from eventsync.domain.connections import HmacCheck, SignatureEncoding


def verify(check: HmacCheck, headers: Mapping[str, str], body: bytes) -> bool:
    """Tell whether `body` carries a signature by any of the secrets; a missing or malformed header is a no.

    Hex digits count in either case. The comparison takes the same time wherever two signatures differ.
    """
    given = _given_digest(check, headers)
    if given is None:
        return False
    # All secrets are tried, so that the time taken does not tell which one it was. An empty one would let anyone in.
    matches = [hmac.compare_digest(given, _digest(secret, body)) for secret in check.secrets if secret]
    return any(matches)


def sign(check: HmacCheck, body: bytes) -> str:
    """Write the header value that `verify` accepts for `body`, by the first secret."""
    digest = _digest(check.secrets[0], body)
    text = digest.hex() if check.encoding is SignatureEncoding.HEX else base64.b64encode(digest).decode()
    return check.prefix + text


def _digest(secret: str, body: bytes) -> bytes:
    return hmac.digest(secret.encode(), body, "sha256")


def _given_digest(check: HmacCheck, headers: Mapping[str, str]) -> bytes | None:
    wanted = check.header.lower()
    values = [value.strip() for name, value in headers.items() if name.lower() == wanted]
    if len(values) != 1 or not values[0].startswith(check.prefix):
        return None
    text = values[0].removeprefix(check.prefix)
    try:
        if check.encoding is SignatureEncoding.HEX:
            return bytes.fromhex(text)
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
