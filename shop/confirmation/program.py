"""The program that asks the language model: what it is told, and which demonstrations it sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PLAIN = "plain"
"""The version of the program that nothing was learned for."""

Demonstration = Mapping[str, str | int]
"""One example as the model sees it: the signature's inputs and outputs by name."""


@dataclass(frozen=True, slots=True)
class Program:
    """What differs between one program and another."""

    version: str = PLAIN
    instructions: str | None = None
    """None: those of the signature."""
    demonstrations: tuple[Demonstration, ...] = field(default=())
