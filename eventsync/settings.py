"""The settings, read from the environment and a `.env` file; every problem is told at once, secrets masked."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from eventsync.domain.errors import Misconfigured


class LogFormat(StrEnum):
    """How logs are written: for people, or a JSON object a line."""

    CONSOLE = "console"
    JSON = "json"


def _networks(text: str) -> str:
    for part in filter(None, (part.strip() for part in text.split(","))):
        ip_network(part)  # raises ValueError, which names the part: an address is no secret
    return text


def _postgres_url(url: SecretStr | None) -> SecretStr | None:
    return _with_scheme(url, ("postgresql://", "postgres://"))


def _amqp_url(url: SecretStr | None) -> SecretStr | None:
    return _with_scheme(url, ("amqp://", "amqps://"))


def _secret_of_a_header(secret: SecretStr | None) -> SecretStr | None:
    text = "" if secret is None else secret.get_secret_value().strip()  # a file's last newline does not belong to it
    if not (text.isascii() and text.isprintable()):
        raise ValueError("must be printable ASCII, as `openssl rand -base64 32` makes it: it is sent in a header")
    return SecretStr(text) if text else None


def _http_url(url: str | None) -> str | None:
    text = "" if url is None else url.strip()
    if not text:
        return None
    try:
        parts = urlsplit(text)
        is_plain = bool(parts.hostname) and not (parts.query or parts.fragment or parts.username or parts.password)
        is_usable = parts.scheme in ("http", "https") and is_plain and (parts.port is None or parts.port > 0)
    except ValueError:  # brackets that do not close, a port that is no number
        is_usable = False
    if not is_usable:
        raise ValueError("must be an address such as https://host/path, without query or credentials")
    return text


def _with_scheme(url: SecretStr | None, schemes: tuple[str, ...]) -> SecretStr | None:
    if url is not None and not url.get_secret_value().startswith(schemes):
        raise ValueError(f"must begin with {' or '.join(schemes)}")
    return url


class Settings(BaseSettings):
    """What an operator sets; connections (keys, zones, schedules, vendors' URLs) live in the database instead."""

    model_config = SettingsConfigDict(
        env_prefix="EVENTSYNC_", env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    database_url: Annotated[SecretStr | None, AfterValidator(_postgres_url)] = None
    listen_database_url: Annotated[SecretStr | None, AfterValidator(_postgres_url)] = None
    amqp_url: Annotated[SecretStr | None, AfterValidator(_amqp_url)] = None
    data_dir: Path = Path(".eventsync")
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    public_url: str | None = None
    encryption_keys: SecretStr | None = None
    log_format: LogFormat = LogFormat.CONSOLE
    trusted_proxies: Annotated[str, NoDecode, AfterValidator(_networks)] = ""
    raw_retention_days: int = Field(default=30, ge=1)
    history_retention_days: int = Field(default=400, ge=1)
    cron_secret: Annotated[SecretStr | None, AfterValidator(_secret_of_a_header)] = Field(
        default=None, validation_alias="CRON_SECRET"
    )
    colectiva_url: Annotated[str | None, AfterValidator(_http_url)] = Field(
        default=None, validation_alias="COLECTIVA_URL"
    )
    colectiva_api_key: Annotated[SecretStr | None, AfterValidator(_secret_of_a_header)] = Field(
        default=None, validation_alias="COLECTIVA_API_KEY", validate_default=True
    )

    @field_validator("colectiva_api_key")
    @classmethod
    def _key_for_the_url(cls, key: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """Want a key where there is an address; a validator of the field, so that it is told with all others."""
        if key is None and info.data.get("colectiva_url") is not None:
            raise ValueError(
                "is not set although COLECTIVA_URL is: set it to the key that Colectiva gave, or set neither"
            )
        return key

    @property
    def trusted_networks(self) -> tuple[str, ...]:
        """The networks of the proxies whose X-Forwarded-For is believed."""
        return tuple(filter(None, (part.strip() for part in self.trusted_proxies.split(","))))


def load_settings() -> Settings:
    """Read the settings. Raises Misconfigured with every problem, one a line, values never quoted."""
    try:
        return Settings()
    except ValidationError as error:
        problems = [
            f"{_variable(problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
        raise Misconfigured("the settings need mending:\n  " + "\n  ".join(problems)) from None


def _variable(location: tuple[int | str, ...]) -> str:
    """Name the variable where a problem is; those of other systems, which are honoured, stand without our prefix."""
    name = "_".join(str(part) for part in location)
    field = Settings.model_fields.get(name)  # by its name where the problem is that nothing was given
    if field is not None and isinstance(field.validation_alias, str):
        return field.validation_alias
    return name if name.isupper() else f"EVENTSYNC_{name.upper()}"
