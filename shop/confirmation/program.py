"""Selects the program that asks the language model: the plain one, or the optimised one from a file.

The file is the JSON that DSPy saves. Only its instructions and demonstrations are used, which are text:
nothing in it is executed, and it selects no other model or address. An unusable file never fails an order.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from dataclasses import dataclass
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path

from shop.confirmation.optimising.examples import demonstrations
from shop.confirmation.settings import LOCAL
from shop.confirmation.signature import INPUTS, OUTPUTS, ConfirmationWriter
from shop.runtime.files import write_atomic
from shop.settings import Settings

PLAIN = "plain"
"""The version of the program that was not optimised."""
_LOCAL_DEMONSTRATIONS = 3
"""Limits the demonstrations per language for a local model."""
_MOST_BYTES = 1_000_000


class UnusableProgram(Exception):
    """The file is not a program for this signature. The message quotes nothing of the file."""


@dataclass(frozen=True, slots=True)
class Program:
    """A writer of texts with slots, and its origin."""

    writer: ConfirmationWriter
    version: str = PLAIN
    """`plain`, or the first characters of the file's SHA-256."""
    warning: str | None = None
    """Why the file was not used, if there is one."""


def save(writer: ConfirmationWriter, path: Path) -> Program:
    """Replaces the file atomically. Raises OSError."""
    with tempfile.TemporaryDirectory() as folder:
        writer.save(file := Path(folder, "program.json"))
        data = file.read_bytes()
    write_atomic(path, data, durable=True)
    return Program(writer, _version(data))


def load(path: Path) -> Program:
    """Returns the program in this file. Raises UnusableProgram, OSError, or any other error that an
    invalid file causes."""
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise UnusableProgram("the file is too large")
    state, writer = json.loads(data)["write"], ConfirmationWriter()
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
    return Program(writer, _version(data))


def plain(settings: Settings) -> Program:
    """Returns the program without a file. Only a local model needs examples."""
    writer = ConfirmationWriter()
    if (settings.language_model.model or "").startswith(LOCAL):
        languages = groupby(demonstrations(settings), attrgetter("language"))
        writer.write.demos = [
            shown for _, group in languages for shown in islice(group, _LOCAL_DEMONSTRATIONS)
        ]
    return Program(writer)


_reading = threading.Lock()
_read: dict[Path, tuple[object, Program | str]] = {}
"""For each path, the file's state when it was read, and the program or why it cannot be used."""


def in_use(settings: Settings) -> Program:
    """Returns the program for the next order. Reads the file only after it changed. Never raises."""
    path = settings.confirmation.program
    try:
        found = os.stat(path)  # noqa: PTH116 - for every order
        state: object = (found.st_ino, found.st_size, found.st_mtime_ns)
    except FileNotFoundError:
        return plain(settings)
    except OSError as error:
        return _fallback(settings, type(error).__name__)
    with _reading:
        if (known := _read.get(path)) is None or known[0] != state:
            known = _read[path] = (state, _loaded(path))
    return known[1] if isinstance(known[1], Program) else _fallback(settings, known[1])


def _fallback(settings: Settings, why: str) -> Program:
    return Program(plain(settings).writer, warning=f"confirmation program not used: {why}")


def _loaded(path: Path) -> Program | str:
    try:
        return load(path)
    except UnusableProgram as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - an invalid file must not fail orders
        return type(error).__name__


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
