"""The only composition root: makes a process out of settings and roles."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from eventsync.crypto import Keyring, new_key
from eventsync.domain.errors import Misconfigured
from eventsync.postgres.data_lock import prepare_data_dir
from eventsync.postgres.embedded import connect_or_start
from eventsync.settings import Settings


class Role(StrEnum):
    """What a process does; any mix of roles can share one."""

    INGRESS = "ingress"
    RELAY = "relay"
    CONSUMER = "consumer"
    WORKER = "worker"
    SCHEDULER = "scheduler"
    API = "api"


def utc_now() -> datetime:
    """Read the machine's clock."""
    return datetime.now(UTC)


def keyring_of(settings: Settings) -> Keyring:
    """Open the encryption keys: the setting's, or those of the data folder, made there at the first use.

    Raises Misconfigured where a database of one's own is named without keys: a key made by the way on one of several
    machines would seal what the others cannot open.
    """
    if settings.encryption_keys is not None:
        return Keyring.parse(settings.encryption_keys.get_secret_value())
    if settings.database_url is not None:
        raise Misconfigured("EVENTSYNC_ENCRYPTION_KEYS is not set: set it to the output of `openssl rand -base64 32`")
    prepare_data_dir(settings.data_dir)
    return Keyring.parse(_key_file(settings.data_dir / "encryption-keys"))


@asynccontextmanager
async def database_in_use(settings: Settings) -> AsyncIterator[str]:
    """Yield the URL of the database: the setting's, or the embedded server's, started for the while if need be."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    async with connect_or_start(settings.data_dir) as url:
        yield url


def _key_file(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return path.read_text(encoding="ascii")
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key := new_key())
        file.flush()
        os.fsync(file.fileno())
    return key
