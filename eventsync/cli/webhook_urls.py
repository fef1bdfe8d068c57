"""The address of a connection's door, as a person pastes it into the vendor's page."""

from __future__ import annotations

from collections.abc import Sequence

from eventsync.settings import Settings

_ANY_ADDRESS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  # what a server binds to, and nobody can call

_ADVICE = {
    "intakeq": (
        "Paste it into IntakeQ at More > Settings > Integrations > Developer API, as the webhook of each kind wanted.",
        "IntakeQ has one webhook field per kind: pasting the URL replaces whatever receives that kind today.",
    ),
    "colectiva": (
        "The URL is for Colectiva's own webhooks, if you want them kept: organizations are sent there without it.",
        "Colectiva signs its webhooks: give the connection its secret (--hmac-secret), and only those are accepted.",
        "Without the secret, whatever comes with the URL's token is accepted.",
    ),
}


def public_base_url(settings: Settings) -> str:
    """Tell where vendors reach this installation: EVENTSYNC_PUBLIC_URL, or this machine's own address."""
    if settings.public_url is not None:
        return settings.public_url.rstrip("/")
    host = "localhost" if settings.host in _ANY_ADDRESS else settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def webhook_url(base_url: str, vendor: str, token: str) -> str:
    """Write the URL that carries the token."""
    return f"{base_url}/api/webhooks/{vendor}/{token}"


def advice(settings: Settings, vendor: str) -> Sequence[str]:
    """Say what to do with the URL, and what to beware of."""
    lines = list(_ADVICE.get(vendor, ("Enter the URL as the webhook address at the vendor.",)))
    lines.append("Whoever has the URL can send events: treat it as a password.")
    if settings.public_url is None:
        lines.append("EVENTSYNC_PUBLIC_URL is not set, so the URL leads to this machine only.")
    return lines
