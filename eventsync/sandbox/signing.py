"""Signs webhook bodies, as a signing gateway in front of the vendor would."""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum


class SignatureEncoding(StrEnum):
    """How the digest is written."""

    HEX = "hex"
    BASE64 = "base64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """HMAC-SHA256 over the raw body, in a header of that name, after an optional prefix such as `sha256=`."""

    secret: str
    header: str = "X-Signature"
    encoding: SignatureEncoding = SignatureEncoding.HEX
    prefix: str = ""

    def headers(self, body: bytes) -> dict[str, str]:
        """The header that proves this body."""
        digest = hmac.new(self.secret.encode(), body, hashlib.sha256).digest()
        text = digest.hex() if self.encoding is SignatureEncoding.HEX else base64.b64encode(digest).decode()
        return {self.header: self.prefix + text}
