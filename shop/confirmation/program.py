"""Selects the program that asks the language model: the plain one, or the optimised one in the database.

Its content is the JSON that DSPy saves. Only its instructions and demonstrations are used, which are text:
nothing in it is executed, and it selects no other model or address. An unusable program never fails an order.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from shop.confirmation import program_versions
from shop.confirmation.program_versions import PLAIN
from shop.confirmation.settings import LOCAL
from shop.confirmation.signature import INPUTS, OUTPUTS, ConfirmationWriter, demonstrations
from shop.settings import Settings

LOOK_SECONDS = 5.0
"""How long a process uses a program before it asks the database which one is in use, in seconds."""
_LOCAL_DEMONSTRATIONS = 3
"""Limits the demonstrations per language for a local model."""
_LONGEST = 1_000_000
"""Limits the content, in characters."""


class UnusableProgram(Exception):
    """The content is not a program for this signature. The message quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Program:
    """A writer of texts with slots, and its origin."""

    writer: ConfirmationWriter
    version: str = PLAIN
    """`plain`, or the stored version."""
    warning: str | None = None
    """Why the stored version was not used, if there is one."""


def save(writer: ConfirmationWriter, settings: Settings, *, by: str, remark: str) -> Program:
    """Stores the program and puts it in use. Raises SQLAlchemyError."""
    with tempfile.TemporaryDirectory() as folder:
        writer.save(file := Path(folder, "program.json"))
        content = file.read_text(encoding="utf-8")
    version = program_versions.add_and_use(settings.database_url, content, by=by, remark=remark)
    look_again()
    return Program(writer, version)


def load(url: str, version: str) -> Program:
    """Returns a stored program of this database. Raises UnusableProgram, or any other error that invalid
    content causes."""
    content = program_versions.read_content(url, version)
    if len(content) > _LONGEST:
        raise UnusableProgram("it is too large")
    state, writer = json.loads(content)["write"], ConfirmationWriter()
    ours = writer.write.dump_state()
    if state["signature"]["fields"] != ours["signature"]["fields"]:
        raise UnusableProgram("it was made for another signature")
    instructions, shown = state["signature"]["instructions"], state["demos"]
    strings = [text for demo in shown for text in (*demo.keys(), *demo.values())]
    if not all(isinstance(text, str) for text in [instructions, *strings]) or not all(
        set(demo) == INPUTS | OUTPUTS for demo in shown
    ):
        raise UnusableProgram("a demonstration does not fit the signature")
    writer.write.load_state({**ours, "signature": state["signature"], "demos": shown})
    return Program(writer, version)


def plain(settings: Settings) -> Program:
    """Returns the program that was not optimised. Only a local model needs examples."""
    writer = ConfirmationWriter()
    if (settings.language_model.model or "").startswith(LOCAL):
        languages = groupby(demonstrations(settings), attrgetter("language"))
        writer.write.demos = [
            shown for _, group in languages for shown in islice(group, _LOCAL_DEMONSTRATIONS)
        ]
    return Program(writer)


@dataclass(frozen=True, slots=True)
class _Known:
    """What this process knows of one database's program."""

    until: float
    """When to look again, by the monotonic clock."""
    version: str
    loaded: Program | str | None
    """The program, or why it cannot be used. None: the plain one."""


_looking = threading.Lock()
_known: dict[str, _Known] = {}


def in_use(settings: Settings) -> Program:
    """Returns the program for the next order. Asks the database at most every `LOOK_SECONDS`, and keeps the
    known program while that does not answer. Never raises. Blocks: not for an event loop."""
    known = _known.get(settings.database_url)
    is_old = known is None or known.until <= time.monotonic()
    # Those who come meanwhile use the known one, and wait only if there is none.
    if is_old and _looking.acquire(blocking=known is None):
        try:
            known = _looked_up(settings.database_url)
        finally:
            _looking.release()
    assert known is not None
    if known.loaded is None:
        return plain(settings)
    if isinstance(known.loaded, Program):
        return known.loaded
    return Program(plain(settings).writer, warning=f"confirmation program not used: {known.loaded}")


def look_again() -> None:
    """Makes the next order of this process ask the database."""
    _known.clear()


def _looked_up(url: str) -> _Known:
    known = _known.get(url)
    if known is not None and known.until > time.monotonic():
        return known  # another thread was faster
    version, loaded = known.version if known else "", known.loaded if known else None
    try:
        found = program_versions.version_in_use(url)
        if known is None or found != version:
            version, loaded = found, None if found == PLAIN else _loaded(url, found)
    except Exception as error:  # noqa: BLE001 - the known program, or the plain one, writes the texts
        if known is None:
            loaded = type(error).__name__
    _known[url] = _Known(time.monotonic() + LOOK_SECONDS, version, loaded)
    return _known[url]


def _loaded(url: str, version: str) -> Program | str:
    try:
        return load(url, version)
    except UnusableProgram as error:
        return str(error)
    except SQLAlchemyError:
        raise
    except Exception as error:  # noqa: BLE001 - invalid content must not fail orders
        return type(error).__name__
