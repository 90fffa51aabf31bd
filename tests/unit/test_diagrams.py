"""Diagrams of any saga: they name everything in it,
Mermaid's own parser takes them, and stale ones in documents are found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deployments.diagrams import documents, mermaid
from deployments.diagrams.characters import workflow_boxes
from flows.order_saga import ORDER_SAGA
from saga.definition import Kind, Saga, Step
from shop.orders.outcomes import TRANSITIONS, OrderState, Outcome
from shop.runtime.home import HOME
from tests.node import node


async def anything(work: object) -> None:
    """Does nothing."""


async def undo_anything(work: object) -> None:
    """Does nothing, either."""


def a_step(name: str, kind: Kind, undo: object = None) -> Step:
    return Step(anything, undo, kind, 10, 1, name=name)  # type: ignore[arg-type]


OTHER = Saga(
    a_step("look", Kind.READ_ONLY),
    a_step("reserve", Kind.COMPENSATABLE, undo_anything),
    a_step("go", Kind.PIVOT),
)
SAGAS = [
    ORDER_SAGA,
    OTHER,
    Saga(a_step("go", Kind.PIVOT)),
    Saga(a_step("go", Kind.PIVOT, undo_anything), a_step("notify", Kind.RETRIABLE)),
]


@pytest.mark.parametrize("saga", SAGAS)
def test_everything_in_the_saga_is_drawn(saga: Saga) -> None:
    names = {step.name for step in saga} | {mermaid.undo_name(step) for step in saga if step.undo}
    for drawing in (
        mermaid.workflow(saga),
        mermaid.overview(saga),
        workflow_boxes(saga),
        mermaid.sequence(saga),
    ):
        assert [name for name in names if name not in drawing] == []
    assert all(step.name in mermaid.architecture(saga) for step in saga)


@pytest.mark.parametrize("saga", SAGAS)
def test_boxes_of_characters_are_whole_and_lines_meet(saga: Saga) -> None:
    rows = workflow_boxes(saga).splitlines()
    for y, row in enumerate(rows):
        for x, letter in enumerate(row):
            above = rows[y - 1].ljust(x + 1)[x] if y else " "
            assert letter not in "┴┘└" or above in "│┬║▲", (y, x, row)
    drawn = workflow_boxes(saga)
    assert (
        drawn.count("┌")
        == drawn.count("└")
        == len(saga.steps) + 2 + sum(step.undo is not None for step in saga)
    )


def test_a_failure_leads_to_the_compensation_of_the_nearest_step_that_has_one() -> None:
    assert 'go -.->|"fails"| undo_anything' in mermaid.workflow(OTHER)
    assert 'reserve -.->|"fails, or is unclear"| undo_anything' in mermaid.workflow(OTHER)
    assert not re.search(r"^    look -\.->", mermaid.workflow(OTHER), re.MULTILINE), "nothing is done yet"


def test_mermaid_takes_every_diagram() -> None:
    drawn = [
        draw(saga)
        for saga in SAGAS
        for draw in (mermaid.overview, mermaid.workflow, mermaid.sequence, mermaid.architecture)
    ]
    assert node.run("parse.mjs", [*drawn, mermaid.states()]) == [None] * (len(drawn) + 1)


def test_mermaid_refuses_what_is_none() -> None:
    broken = ["flowchart TD\n a([x] --> b", "sequenceDiagram\n A->>", "stateDiagram-v2\n a --> ", "nothing"]
    assert all(node.run("parse.mjs", broken))


def test_every_state_is_reached_and_only_outcomes_are_left_for_good() -> None:
    reached: set[str | None] = {None}
    for _ in TRANSITIONS:
        reached |= {transition.target for transition in TRANSITIONS if transition.source in reached}
    assert reached == {None, *OrderState, *Outcome}
    assert {*OrderState} <= {transition.source for transition in TRANSITIONS}


def test_stale_diagrams_are_found_and_other_text_stays(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    (tmp_path / "README.md").write_text("```mermaid\nflowchart TD\n```\n")
    page.write_text("before\n<!-- diagram: states -->\n```mermaid\nold\n```\nafter\n```text\nmine\n```\n")
    assert list(documents.out_of_date(tmp_path)) == [page]
    page.write_text(documents.out_of_date(tmp_path)[page])
    assert (
        page.read_text()
        == f"before\n<!-- diagram: states -->\n```mermaid\n{mermaid.states()}```\nafter\n```text\nmine\n```\n"
    )
    assert documents.out_of_date(tmp_path) == {}


def test_code_and_the_table_of_steps_are_included() -> None:
    marks = (
        "<!-- code: flows/process_order.py#process_order -->\n```python\nold\n```\n\n"
        "<!-- table: steps -->\n| old |\n\nafter\n"
    )
    text = documents.refreshed(marks)
    flow = documents.code("flows/process_order.py", "process_order")
    assert flow.startswith("@flow(")
    assert flow in (HOME / "flows" / "process_order.py").read_text()
    assert text.startswith(
        "<!-- code: flows/process_order.py#process_order -->\n```python\n" + flow + "```\n"
    )
    assert text.endswith(f"```\n\n<!-- table: steps -->\n{documents.steps(ORDER_SAGA)}\nafter\n")
    assert documents.refreshed(text) == text


@pytest.mark.parametrize(
    ("path", "name"), [("flows/process_order.py", "no_such_function"), ("flows/no_such_file.py", None)]
)
def test_code_that_does_not_exist_is_an_error(path: str, name: str | None) -> None:
    with pytest.raises(ValueError, match="there is no"):
        documents.code(path, name)


def test_the_table_has_every_step_and_compensation() -> None:
    for saga in SAGAS:
        rows = documents.steps(saga).splitlines()[2:]
        assert [row.split(" | ")[0] for row in rows] == [f"| `{step.name}`" for step in saga]
        assert all(
            f"`{mermaid.undo_name(step)}`" in row for step, row in zip(saga, rows, strict=True) if step.undo
        )
