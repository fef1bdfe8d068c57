"""Signs webhook bodies, as the vendor itself or a signing gateway in front of it would."""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum


class SignatureEncoding(StrEnum):
    """How the digest is written."""

    HEX = "hex"
    BASE64 = "base64"


@dataclass(frozen=True, slots=True)
class SignatureForm:
    """The header that a signature stands in, and what stands before it; the default is a signing gateway's."""

    header: str = "X-Signature"
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """HMAC-SHA256 over the raw body, in a header of that name, after a prefix such as `sha256=`.

    Where header or prefix are None, they are the vendor's own.
    """

    secret: str
    header: str | None = None
    encoding: SignatureEncoding = SignatureEncoding.HEX
    prefix: str | None = None

    def headers(self, body: bytes, form: SignatureForm) -> dict[str, str]:
        """The header that proves this body, in the vendor's form but for what is set here."""
        digest = hmac.new(self.secret.encode(), body, hashlib.sha256).digest()
        text = digest.hex() if self.encoding is SignatureEncoding.HEX else base64.b64encode(digest).decode()
        prefix = form.prefix if self.prefix is None else self.prefix
        return {self.header or form.header: prefix + text}
