"""The embedded PostgreSQL's files: made once by `initdb`, whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from eventsync.domain.errors import Misconfigured
from eventsync.postgres.data_lock import FileLock
from eventsync.postgres.server_place import ServerAccount

_INITDB_TIMEOUT_S = 120
_STANDALONE_TIMEOUT_S = 60
_BUILTIN_LOCALE_SINCE = 17

# A small machine, nothing given up of durability, and no personal data in the log: statements that fail
# are not logged at all (their messages quote values), and `terse` leaves out details and query texts.
DEFAULT_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "max_connections": "100",
        "shared_buffers": "128MB",
        "fsync": "on",
        "synchronous_commit": "on",
        "timezone": "UTC",
        "cluster_name": "eventsync",
        "logging_collector": "on",
        "log_timezone": "UTC",
        # One file a weekday, begun anew a week later: with what is logged, that bounds the log.
        "log_filename": "postgresql-%u.log",
        "log_rotation_age": "1d",
        "log_rotation_size": "0",
        "log_truncate_on_rotation": "on",
        "log_checkpoints": "off",
        "log_min_messages": "log",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
        "log_statement": "none",
        "log_min_duration_statement": "-1",
        "log_parameter_max_length": "0",
        "log_parameter_max_length_on_error": "0",
    }
)

# Only the product's own role may connect, only through the socket. The superuser has no way in but
# single-user mode, which needs the server's own account.
_ACCESS_RULES = "local all eventsync scram-sha-256\n"


@dataclass(frozen=True, slots=True)
class Cluster:
    """One embedded server's folder, the programs that serve it, and the user they run as (None: our own)."""

    folder: Path
    binaries: Path
    account: ServerAccount | None

    @property
    def data(self) -> Path:
        """PostgreSQL's own data directory; exists only when it is complete."""
        return self.folder / "data"

    @property
    def log_folder(self) -> Path:
        """Where the server's log files are."""
        return self.folder / "log"

    def create_if_missing(self, *, is_synced: bool, starting: FileLock) -> None:
        """Run `initdb` and make role and database, unless that has been done; blocks for half a second.

        All happens in a folder beside `data` that takes its name only when complete, so an interrupted
        attempt is simply done again. `starting` is the held lock that the programs inherit: where we are
        killed meanwhile, nobody begins anew before they have ended.
        """
        password_file = self.folder / "password"
        if self.data.exists() and password_file.exists():
            return
        password = _read_or_make_password(password_file)
        if self.data.exists():
            # The password's file was lost: the server's own account may set a new one.
            self._run_standalone(self.data, [f"ALTER ROLE eventsync PASSWORD '{password}'"], starting)
            return
        unfinished = self.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._run_initdb(unfinished, starting, is_synced=is_synced)
        # The password's alphabet (A-Z a-z 0-9 - _) needs no quoting; single-user mode knows no parameters.
        statements = [
            f"CREATE ROLE eventsync LOGIN CREATEDB PASSWORD '{password}'",
            "GRANT pg_monitor, pg_signal_backend, pg_checkpoint TO eventsync",
            "CREATE DATABASE eventsync OWNER eventsync",
        ]
        self._run_standalone(unfinished, statements, starting)
        (unfinished / "pg_hba.conf").write_text(_ACCESS_RULES)
        unfinished.rename(self.data)

    def _run_initdb(self, target: Path, starting: FileLock, *, is_synced: bool) -> None:
        options = ["--encoding=UTF8", "--auth=reject", "--username=postgres", *self._locale_options()]
        if not is_synced:
            options.append("--no-sync")
        command = [str(self.binaries / "initdb"), "--pgdata", str(target), *options]
        self._run(command, "", _INITDB_TIMEOUT_S, starting)

    def _locale_options(self) -> Sequence[str]:
        # PostgreSQL's own C.UTF-8 is the same on every machine; older servers take the system's.
        if self._major_version() >= _BUILTIN_LOCALE_SINCE:
            return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        return ["--locale=C.UTF-8"]

    def _major_version(self) -> int:
        answer = self._run([str(self.binaries / "postgres"), "--version"], "", _STANDALONE_TIMEOUT_S, None)
        return int(answer.split()[2].split(".")[0])

    def _run_standalone(self, data: Path, statements: Sequence[str], starting: FileLock) -> None:
        """Run statements without a server, as the superuser; each must stand on one line."""
        quiet = [option for name in ("log_min_messages=fatal", "exit_on_error=on") for option in ("-c", name)]
        command = [str(self.binaries / "postgres"), "--single", "-D", str(data), *quiet, "postgres"]
        self._run(command, "".join(f"{line}\n" for line in statements), _STANDALONE_TIMEOUT_S, starting)

    def _run(self, command: Sequence[str], text: str, timeout_s: float, inherited: FileLock | None) -> str:
        done: subprocess.CompletedProcess[str] = subprocess.run(  # noqa: S603  (the program is the wheel's or the caller's own)
            command,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            pass_fds=() if inherited is None else (inherited.descriptor,),
            cwd=self.folder,
            env=self.environment,
            user=self.account.uid if self.account else None,
            group=self.account.gid if self.account else None,
            extra_groups=() if self.account else None,
        )
        if done.returncode != 0:
            last_words = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
            raise Misconfigured(f"{Path(command[0]).name} failed in {self.folder}: {last_words or done.returncode}")
        return done.stdout

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables of the server's programs: none of ours, so that none of PostgreSQL's own."""
        return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def cluster_version(folder: Path) -> int | None:
    """Return the major version of PostgreSQL that made the cluster, None where there is none yet."""
    try:
        return int((folder / "data" / "PG_VERSION").read_text().split(".")[0])
    except FileNotFoundError:
        return None


def _read_or_make_password(path: Path) -> str:
    if path.exists():
        return path.read_text().strip()
    password = secrets.token_urlsafe(32)
    unfinished = path.with_name("password.unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(password + "\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    return password
