"""The optimised program as a file of plain JSON, and which program is in use.

Nothing in it is run: instructions and demonstrations are text. A file that cannot be used never fails an order.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from shop.confirmation.optimising.examples import demonstrations
from shop.confirmation.program import Program
from shop.confirmation.signature import FIELDS, OUTPUTS, fingerprint
from shop.files import write_atomic
from shop.settings import Settings

_MOST_BYTES = 1_000_000
_LOCAL_DEMONSTRATIONS = 3


class UnusableProgram(Exception):
    """The file is not a program for this signature. The message says why, and quotes nothing of the file."""


class Saved(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1] = 1
    version: str = Field(max_length=100)
    """When it was saved, and the beginning of its content's hash."""
    saved_at: AwareDatetime = Field(strict=False)
    signature: str
    """The fingerprint of the signature that it was made for."""
    model: str
    optimizer: str
    score_before: float
    score: float
    instructions: str = Field(min_length=1, max_length=20_000)
    demonstrations: list[dict[str, str | int]] = Field(max_length=50)


def save(path: Path, program: Program, *, model: str, optimizer: str, score_before: float, score: float) -> Program:
    """Puts the program in place of what was there, whole or not at all. Returns it with its version.
    Raises OSError if it cannot be written, ValueError if it has no instructions."""
    if not program.instructions:
        raise ValueError("a program to save has instructions")
    shown = [dict(demonstration) for demonstration in program.demonstrations]
    now = datetime.now(UTC)
    saved = Saved(
        version=f"{now:%Y%m%dT%H%M%SZ}-{_hash(program.instructions, shown)}",
        saved_at=now,
        signature=fingerprint(),
        model=model,
        optimizer=optimizer,
        score_before=score_before,
        score=score,
        instructions=program.instructions,
        demonstrations=shown,
    )
    write_atomic(path, saved.model_dump_json(indent=1).encode(), durable=True)
    return _program(saved)


def load(path: Path) -> Program:
    """The program in this file. Raises FileNotFoundError, OSError, or UnusableProgram."""
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise UnusableProgram("the file is too large")
    try:
        saved = Saved.model_validate_json(data)
    except ValidationError as error:
        where = ".".join(map(str, error.errors(include_input=False)[0]["loc"]))
        raise UnusableProgram(f"the file is not a program{f' (see {where[:40]})' if where.isprintable() and where else ''}") from None
    if saved.signature != fingerprint():
        raise UnusableProgram("it was made for another signature")
    if not saved.version.endswith(f"-{_hash(saved.instructions, saved.demonstrations)}"):
        raise UnusableProgram("its content is not what its version says")
    for shown in saved.demonstrations:
        if not set(shown) <= FIELDS or not all(str(shown.get(name, "")).strip() for name in OUTPUTS):
            raise UnusableProgram("a demonstration does not fit the signature")
    return _program(saved)


def plain(settings: Settings) -> Program:
    """The program without a file. A small model on this machine needs to be shown what is wanted; others are only told."""
    is_local = (settings.dspy_model or "").startswith("local/")
    return Program(demonstrations=demonstrations(_LOCAL_DEMONSTRATIONS, settings) if is_local else ())


_reading = threading.Lock()
_read: dict[Path, tuple[object, Program | None, str | None]] = {}


def in_use(settings: Settings) -> tuple[Program, str | None]:
    """The program for the next order, and why it is not the saved one, if there is one. Reads the file only when it has changed.
    Never raises."""
    path = settings.confirmation_program
    try:
        found = os.stat(path)  # noqa: PTH116 - for every order
        state: object = (found.st_ino, found.st_size, found.st_mtime_ns)
    except FileNotFoundError:
        return plain(settings), None
    except OSError as error:
        return plain(settings), _warning(type(error).__name__)
    with _reading:
        if (known := _read.get(path)) is None or known[0] != state:
            known = _read[path] = (state, *_loaded(path))
    _, program, warning = known
    return program or plain(settings), warning


def _loaded(path: Path) -> tuple[Program | None, str | None]:
    try:
        return load(path), None
    except UnusableProgram as error:
        return None, _warning(str(error))
    except Exception as error:  # noqa: BLE001 - whatever is in that file, orders go on
        return None, _warning(type(error).__name__)


def _warning(why: str) -> str:
    return f"confirmation program not used: {why}"


def _program(saved: Saved) -> Program:
    return Program(saved.version, saved.instructions, tuple(saved.demonstrations))


def _hash(instructions: str, shown: list[dict[str, str | int]]) -> str:
    content = json.dumps([instructions, shown], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]
