"""Diagrams in Markdown files: the fenced block after `<!-- diagram: NAME -->` holds this diagram."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from deployments.diagrams import mermaid
from deployments.diagrams.characters import workflow_boxes
from flows.order_saga import ORDER_SAGA

_BLOCK = re.compile(r"(?<=^<!-- diagram: )([\w-]+)( -->\n```\w+\n)(.*?)(?=^```$)", re.MULTILINE | re.DOTALL)
DIAGRAMS: dict[str, Callable[[], str]] = {
    "workflow": lambda: mermaid.workflow(ORDER_SAGA),
    "workflow-text": lambda: workflow_boxes(ORDER_SAGA),
    "sequence": lambda: mermaid.sequence(ORDER_SAGA),
    "states": mermaid.states,
    "architecture": lambda: mermaid.architecture(ORDER_SAGA),
}


def out_of_date(home: Path = mermaid.HOME) -> dict[Path, str]:
    """Returns the Markdown files whose diagrams are out of date, with the text that they should have."""
    texts = {path: path.read_text(encoding="utf-8") for path in _documents(home)}
    fresh = {path: _BLOCK.sub(lambda found: f"{found[1]}{found[2]}{DIAGRAMS[found[1]]()}", text) for path, text in texts.items()}
    return {path: text for path, text in fresh.items() if text != texts[path]}


def _documents(home: Path) -> Iterator[Path]:
    yield from sorted(home.glob("*.md"))
    yield from sorted((home / "docs").rglob("*.md"))
