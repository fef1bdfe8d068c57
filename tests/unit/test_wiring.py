"""What a process may be made of: roles that reach each other, keys that open what others seal."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
from pydantic import SecretStr

from eventsync.domain.errors import Misconfigured
from eventsync.postgres.database import Database
from eventsync.postgres.retention import Retention
from eventsync.settings import Settings, load_settings
from eventsync.telemetry import Metrics
from eventsync.wiring import Role, keyring_of, utc_now
from eventsync.wiring.chores import make_chores
from eventsync.wiring.process import check_roles

DATABASE = SecretStr("postgresql://app@localhost/eventsync")
BROKER = SecretStr("amqp://guest@localhost/")
KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize("roles", [{Role.RELAY}, {Role.CONSUMER, Role.WORKER}, {Role.INGRESS, Role.RELAY}])
def test_roles_in_separate_processes_without_a_broker_are_refused_with_what_to_set(roles: set[Role]) -> None:
    with pytest.raises(Misconfigured, match="EVENTSYNC_AMQP_URL"):
        check_roles(roles, Settings(database_url=DATABASE))
    check_roles(roles, Settings(database_url=DATABASE, amqp_url=BROKER))


@pytest.mark.parametrize("roles", [set(Role), {Role.INGRESS}, {Role.API, Role.SCHEDULER}])
def test_roles_that_need_no_broker_run_without_one(roles: set[Role]) -> None:
    check_roles(roles, Settings(database_url=DATABASE))


def test_the_data_folder_makes_a_key_once_that_only_its_owner_may_read(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    sealed = keyring_of(settings).seal(b"secret", "here")
    assert keyring_of(settings).open(sealed, "here") == b"secret"
    assert stat.S_IMODE((tmp_path / "data/encryption-keys").stat().st_mode) == 0o600


def test_a_database_of_ones_own_needs_keys_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="openssl rand"):
        keyring_of(Settings(database_url=DATABASE, data_dir=tmp_path))
    keyring_of(Settings(database_url=DATABASE, data_dir=tmp_path, encryption_keys=SecretStr(KEY)))


def test_all_problems_of_the_settings_are_told_at_once_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENTSYNC_DATABASE_URL", "mysql://app:pass-word@db/eventsync")
    monkeypatch.setenv("EVENTSYNC_AMQP_URL", "http://guest:pass-word@broker")
    monkeypatch.setenv("EVENTSYNC_PORT", "high")
    monkeypatch.setenv("EVENTSYNC_TRUSTED_PROXIES", "10.0.0.0/8, nowhere")
    with pytest.raises(Misconfigured) as caught:
        load_settings()
    for name in ("DATABASE_URL", "AMQP_URL", "PORT", "TRUSTED_PROXIES"):
        assert f"EVENTSYNC_{name}" in str(caught.value)
    assert "pass-word" not in str(caught.value)


def test_the_scheduler_watches_for_webhooks_gone_silent(tmp_path: Path) -> None:
    database = Database("postgresql://app@127.0.0.1:9/eventsync")
    settings = Settings(data_dir=tmp_path)
    chores = make_chores(database, Retention(database), settings, Metrics(), utc_now)
    assert "webhook-silence" in [chore.name for chore in chores]
