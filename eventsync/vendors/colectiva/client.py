"""One account at Colectiva: organizations are registered and updated by POST, one call an item.

Source: Plenura's own client of Colectiva (sync-ecosystem-queue, ecosystem-bridge), since Colectiva's server is not
public. Assumed of it: the POST is an upsert by `app_org_id`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from eventsync.domain.connections import Connection
from eventsync.domain.deliveries import Answer, Deferred, Failed, Halted, OutboundItem, Refused
from eventsync.domain.errors import Misconfigured, Transient
from eventsync.vendorkit.budget import BudgetSpent, Purpose
from eventsync.vendorkit.http import NoSuchAddress, NotSent, OutcomeUnknown, RateLimited, VendorHttp, is_html
from eventsync.vendors.colectiva.answers import meaning_of
from eventsync.vendors.colectiva.mapping import body_of

_PATH = "/api/ecosystem-orgs"
_PATH_GIVEN_ALREADY = re.compile(r"/api(/+ecosystem-orgs)?\Z")  # one of Plenura's own samples ends in /api
_PROVING_STATUSES = frozenset({400, 422})


class ColectivaClient:
    """One account, as vendorkit/registry's Registry. Raises Misconfigured for a key that no header can carry."""

    def __init__(self, connection: Connection, http: VendorHttp) -> None:
        key = connection.api_key.strip()
        if not (key.isascii() and key.isprintable() and key):
            raise Misconfigured("The connection's API key cannot be sent: enter it as Colectiva shows it (api_key).")
        self._key = key
        self._number = connection.number
        self._url = endpoint(connection.base_url)
        self._headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
        self._http = http

    async def check_credentials(self) -> None:
        """POST an empty object, which no registry can take: HTTP 400 or 422 proves the key and changes nothing.

        That is an assumption, since Colectiva's server is not public: that it looks at the key before the body, and
        refuses a registration without a name. Raises Misconfigured (wrong key, permission or address), Transient.
        """
        answer = await self._http.post_json(self._url, {}, headers=self._headers, purpose=Purpose.CHECK)
        match meaning_of(answer, secret=self._key, connection_number=self._number):
            case Halted(message):
                raise Misconfigured(message)
            case Refused() if answer.status in _PROVING_STATUSES and not is_html(answer.body):
                return
            case Deferred(message, retry_after_s=wait_s):
                raise RateLimited(message, retry_after_s=wait_s)
            case _:
                message = f"Colectiva's answer to a check proves nothing (HTTP {answer.status}): try again later."
                raise Transient(message, retry_after_s=answer.retry_after_s)

    async def deliver(self, item: OutboundItem) -> Answer:
        """Send one item, and tell what its answer means; raises nothing of the network or the other side.

        Raises Transient or Misconfigured where the budget's ledger is away or refuses us: nothing was sent.
        """
        headers = {**self._headers, "Idempotency-Key": str(item.idempotency_key)}
        try:
            answer = await self._http.post_json(self._url, body_of(item), headers=headers, purpose=Purpose.DELIVERY)
        except BudgetSpent as spent:
            return Deferred(str(spent), retry_after_s=spent.retry_after_s)
        except NotSent as error:
            return Deferred(str(error))
        except OutcomeUnknown as error:
            return Failed(str(error))
        except NoSuchAddress as error:
            return Halted(str(error))
        return meaning_of(answer, secret=self._key, connection_number=self._number)

    def body_of(self, item: OutboundItem) -> Mapping[str, Any]:
        """Write what `deliver` would send (pure)."""
        return body_of(item)


def endpoint(base_url: str) -> str:
    """Write the address of the POST, whether the base URL ends in `/api`, in the whole path or in neither."""
    return _PATH_GIVEN_ALREADY.sub("", base_url.strip().rstrip("/")).rstrip("/") + _PATH
