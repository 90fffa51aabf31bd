"""All diagrams as files, made anew each time from what the project is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deployments.diagrams import characters, mermaid, svg
from deployments.diagrams.architecture import architecture
from deployments.diagrams.events import order_events
from deployments.diagrams.order_states import order_states
from deployments.diagrams.workflow import workflow
from flows.saga import ORDER_SAGA
from shop.saga import Saga

HOME = Path(__file__).resolve().parent.parent.parent
_README = "README.md"
_HEADING, _OPEN, _CLOSE = "## The saga\n", "```mermaid\n", "```\n"


def drawn(home: Path = HOME, saga: Saga = ORDER_SAGA) -> dict[str, str]:
    """The text of each file, by its path from the project's folder; README among them, with the saga's diagram in it."""
    way, parts, states, events = workflow(saga), architecture(home), order_states(saga, home), order_events(saga, home)
    chart = mermaid.flowchart(way.graph)
    files = {
        "workflow.mmd": chart,
        "workflow.txt": characters.draw(way),
        "workflow.svg": svg.workflow(way),
        "events.mmd": mermaid.sequence(events),
        "events.svg": svg.sequence(events),
        "architecture.mmd": mermaid.flowchart(parts, "LR"),
        "architecture.svg": svg.layered(parts, gap=70),
        "states.mmd": mermaid.states(states),
        "states.svg": svg.layered(states, gap=190, apart=38),
    }
    readme = with_chart((home / _README).read_text(encoding="utf-8"), chart)
    return {**{f"diagrams/{name}": text for name, text in files.items()}, _README: readme}


def with_chart(readme: str, chart: str) -> str:
    """The text with this diagram under the saga's heading. Raises ValueError if there is no place for it."""
    start = readme.index(_OPEN, readme.index(_HEADING)) + len(_OPEN)
    return readme[:start] + chart + readme[readme.index(_CLOSE, start) :]


def out_of_date(home: Path = HOME, wanted: Mapping[str, str] | None = None) -> list[str]:
    """The files that are not as they would be drawn now (or as `wanted`), and those in `diagrams/` that nothing draws."""
    wanted = drawn(home) if wanted is None else wanted
    there = {path.relative_to(home).as_posix() for path in (home / "diagrams").glob("*")}
    stale = [name for name, text in wanted.items() if not (home / name).is_file() or (home / name).read_text(encoding="utf-8") != text]
    return sorted({*stale, *(there - wanted.keys())})


def write(home: Path = HOME) -> list[str]:
    """Writes what has changed, and takes away what nothing draws. Returns the names."""
    wanted = drawn(home)
    changed = out_of_date(home, wanted)
    for name in changed:
        path = home / name
        if name in wanted:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[name], encoding="utf-8", newline="\n")
        else:
            path.unlink()
    return changed
