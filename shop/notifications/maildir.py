"""Maildir for mails without a mail server. Mail programs can open the folder, and each mail is a file that
can be opened.

A mail's file name is derived from its order, try and kind, so that writing it again changes nothing, even
after a mail program has moved it to the read ones.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from shop.notifications.message import Mail
from shop.orders.names import file_stems
from shop.orders.tries import marked
from shop.runtime.files import PRIVATE_FILE, has_exact_name, make_private

_PARTS = ("tmp", "new", "cur")
_counter = itertools.count()


def mail_name(order_id: str, kind: str, try_number: int = 1) -> str:
    """Returns the unique file name of the order's mail, without separators, leading dots and colons."""
    return mail_names(order_id, kind, try_number)[0]


def mail_names(order_id: str, kind: str, try_number: int = 1) -> list[str]:
    """Returns the file name, and then those of earlier versions if they were different."""
    return [f"{name}.{marked(kind, try_number)}.eml" for name in file_stems(order_id)]


def find_mail(folder: Path, order_id: str, kind: str, try_number: int = 1) -> Path | None:
    """Returns the path of the order's mail. A mail program moves read mails, and appends flags to their
    names."""
    name, *before = names = mail_names(order_id, kind, try_number)
    if (new := folder / "new" / name).exists():
        return new
    for old in before:
        if has_exact_name(folder / "new" / old):
            return folder / "new" / old
    with suppress(OSError):
        for each in os.listdir(folder / "cur"):  # noqa: PTH208  (only names)
            if each.partition(":")[0] in names:
                return folder / "cur" / each
    return None


class Maildir:
    """Writes one batch of mails. Any number of processes may write to the same folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: set[str] | None = None

    def write(self, name: str, mail: Mail, *, before: Sequence[str] = ()) -> None:
        """Writes the mail atomically: into `tmp`, then renamed into `new`. Raises OSError if that fails.
        `before`: names under which it may already exist."""
        new = f"{self._folder}/new/{name}"
        if name in self._known() or os.path.exists(new):  # noqa: PTH110  (hundreds a second)
            return
        if any(old in self._known() or has_exact_name(self._folder / "new" / old) for old in before):
            return
        temporary = f"{self._folder}/tmp/{name}.{os.getpid()}.{next(_counter)}"  # noqa: S108  (a Maildir's own)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
            try:
                view = memoryview(mail.data)
                while view:
                    view = view[os.write(descriptor, view) :]
            finally:
                os.close(descriptor)
            os.rename(temporary, new)  # noqa: PTH104
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise

    def _known(self) -> set[str]:
        """Returns the names of mails that a mail program has moved, without their flags."""
        if self._read is None:
            for part in _PARTS:
                make_private(Path(self._folder, part))
            self._read = {name.partition(":")[0] for name in os.listdir(f"{self._folder}/cur")}  # noqa: PTH208
        return self._read
