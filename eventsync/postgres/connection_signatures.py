"""The signature that a connection's webhooks must carry: what a person says of it, completed and checked (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from eventsync.domain.connections import HmacCheck, SignatureEncoding
from eventsync.domain.errors import Misconfigured
from eventsync.vendorkit.vendor import SignatureForm

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")  # a token, RFC 9110, section 5.6.2


@dataclass(frozen=True, slots=True)
class HmacChange:
    """What is to be changed of the signature: None stays as it is, or is the vendor's own where there was none.

    `secrets` replace all those that there were: a rotation gives both, and later the new one alone.
    """

    secrets: tuple[str, ...] | None = field(default=None, repr=False)
    header: str | None = None
    encoding: SignatureEncoding | None = None
    prefix: str | None = None

    def applied_to(self, check: HmacCheck | None, vendors_own: SignatureForm | None) -> HmacCheck:
        """Make the check that holds from now on. Raises Misconfigured where a part is missing or cannot be."""
        if check is None:
            form = SignatureForm("") if vendors_own is None else vendors_own
            check = HmacCheck(form.header, (), prefix=form.prefix)
        return hmac_checked(
            HmacCheck(
                header=check.header if self.header is None else self.header,
                secrets=check.secrets if self.secrets is None else self.secrets,
                encoding=check.encoding if self.encoding is None else self.encoding,
                prefix=check.prefix if self.prefix is None else self.prefix,
            )
        )


def hmac_checked(check: HmacCheck) -> HmacCheck:
    """Answer the check. Raises Misconfigured for one that no webhook could pass, or that anybody's could."""
    if not check.secrets:
        raise Misconfigured("the signature has no secret: give --hmac-secret")
    if not all(secret.strip() for secret in check.secrets):
        raise Misconfigured("a secret of the signature is empty: give --hmac-secret anew")
    if not check.header:
        raise Misconfigured("this vendor signs nothing itself: say with --hmac-header which header has the signature")
    if not _HEADER_NAME.fullmatch(check.header):
        raise Misconfigured("no header has such a name: give --hmac-header as in X-Signature")
    if not all(_is_text(part) for part in (*check.secrets, check.prefix)):
        raise Misconfigured("the signature's secret or prefix is not UTF-8 text: give it anew")
    return check


def _is_text(part: str) -> bool:
    """Tell whether it can be stored: bytes of the command line that are no UTF-8 arrive as lone surrogates."""
    try:
        part.encode()
    except UnicodeEncodeError:
        return False
    return True
