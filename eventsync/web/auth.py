"""Who calls the management API, and for which organization: asked before anything else of a request is looked at."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from multidict import CIMultiDictProxy

from eventsync.crypto import hash_token
from eventsync.domain.clock import Clock
from eventsync.domain.connections import OrganizationId
from eventsync.postgres.access import ApiTokens, Principal, Role
from eventsync.postgres.tenants import Organization, Organizations
from eventsync.web.api_errors import ApiError

ORGANIZATION_HEADER = "X-Organization-ID"
_CRON = Principal("cron", Role.ADMIN, None)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and for whom: `organization_id` of None is an admin who means every organization."""

    principal: Principal
    organization_id: OrganizationId | None

    @property
    def actor(self) -> str:
        """How the access log names the caller."""
        return self.principal.actor

    def owns(self, organization_id: OrganizationId) -> bool:
        """Whether what belongs to the organization may be shown in full, raw payloads included."""
        return self.organization_id in (None, organization_id)

    def require(self, roles: Collection[Role]) -> None:
        """Go on with one of these roles only. Raises ApiError."""
        if self.principal.role not in roles:
            names = " or ".join(sorted(role.value for role in roles))
            raise ApiError(403, "role_not_allowed", f"this needs a token with the role {names}")


class Authenticator:
    """Turns a request's headers into its caller. `cron_secret_hash` of None: nobody calls by CRON_SECRET."""

    def __init__(
        self,
        tokens: ApiTokens,
        organizations: Organizations,
        clock: Clock,
        *,
        cron_secret_hash: bytes | None = None,
    ) -> None:
        self._tokens = tokens
        self._organizations = organizations
        self._clock = clock
        self._cron_secret_hash = cron_secret_hash

    async def caller(self, headers: CIMultiDictProxy[str], *, takes_cron_secret: bool = False) -> Caller:
        """Tell who calls; by CRON_SECRET only where the endpoint `takes_cron_secret`.

        Raises ApiError: 401 for no token or one that is nobody's, 403 for an organization that the token is not bound
        to, 404 for one that an admin names and that is not there.
        """
        principal = await self._principal(hash_token(_bearer_token(headers)), takes_cron_secret=takes_cron_secret)
        named = headers.getall(ORGANIZATION_HEADER, [])
        if len(named) > 1:
            raise ApiError(400, "several_organizations", f"send one {ORGANIZATION_HEADER} header, not several")
        if not named:
            return Caller(principal, principal.organization_id)
        return Caller(principal, await self.organization(principal, named[0].strip()))

    async def _principal(self, token_hash: bytes, *, takes_cron_secret: bool) -> Principal:
        if takes_cron_secret and self._is_cron_secret(token_hash):
            return _CRON
        principal = await self._tokens.authenticate(token_hash, self._clock())
        if principal is None:
            advice = "see `eventsync tokens add`" + (", or send CRON_SECRET" if takes_cron_secret else "")
            raise ApiError(401, "invalid_token", f"this token is unknown or was revoked: {advice}")
        return principal

    def _is_cron_secret(self, token_hash: bytes) -> bool:
        """Compare in constant time."""
        return self._cron_secret_hash is not None and hmac.compare_digest(token_hash, self._cron_secret_hash)

    async def organization(self, principal: Principal, reference: str) -> OrganizationId:
        """Find the organization that is named, by a header or a path. Raises ApiError as `caller` does."""
        if principal.organization_id is None:
            return await self._any_organization(reference)
        own = await self._organizations.find(str(principal.organization_id))
        if own is None or not _is_named(own, reference):  # also where there is none: nobody learns who else is here
            raise ApiError(403, "other_organization", "this token belongs to another organization")
        return own.id

    async def _any_organization(self, reference: str) -> OrganizationId:
        found = await self._organizations.find(reference)
        if found is None:
            raise ApiError(404, "unknown_organization", "there is no such organization: see `eventsync orgs list`")
        return found.id


def _bearer_token(headers: CIMultiDictProxy[str]) -> str:
    given = headers.getall("Authorization", [])
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise ApiError(
            401, "missing_token", "send one header `Authorization: Bearer TOKEN`: see `eventsync tokens add`"
        )
    return token.strip()


def _is_named(organization: Organization, reference: str) -> bool:
    try:
        return UUID(reference) == organization.id
    except ValueError:
        return reference == organization.external_id
