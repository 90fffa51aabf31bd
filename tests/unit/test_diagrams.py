"""The diagrams that are committed are those of the code as it is, and Mermaid's own parser takes them."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from deployments.diagrams import characters, code, draw, events, mermaid, order_states, story, svg
from deployments.diagrams.deployed import deployed
from deployments.diagrams.graph import Block, Edge, Line, Look, Message, Node, without_shortcuts
from deployments.diagrams.graph import Graph as Boxes
from deployments.diagrams.workflow import workflow
from flows.saga import ORDER_SAGA
from shop.outcomes import Outcome
from shop.saga import Kind, Saga, Step
from shop.under_way import OrderUnderWay
from tasks.step import outside_step
from tasks.tell_alerts import CLEARED, RAISED
from tests.node import node

HOME = Path(__file__).resolve().parent.parent.parent
SIX_STEPS = ("validate_order", "check_inventory", "process_payment", "generate_confirmation", "fulfill_order", "notify_customer")
_FENCE = re.compile(r"^```mermaid\n(.*?)^```", re.MULTILINE | re.DOTALL)


async def anything(work: object) -> None:
    """Does nothing."""


def a_step(name: str, kind: Kind, undo: object = None) -> Step:
    return Step(name, anything, undo, kind, 10, 1)  # type: ignore[arg-type]


OTHER = Saga(
    a_step("look", Kind.READ_ONLY),
    a_step("reserve", Kind.COMPENSATABLE, anything),
    a_step("ship", Kind.PIVOT),
    a_step("tell", Kind.RETRIABLE),
)


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return draw.drawn()


def documents() -> Iterator[Path]:
    for folder, inside, names in os.walk(HOME):
        inside[:] = [name for name in inside if not name.startswith(".") and name not in {"node_modules", "var"}]
        yield from (Path(folder) / name for name in names if name.endswith((".md", ".mmd")))


def mermaids() -> dict[str, str]:
    """Every Mermaid text in the project, by where it stands."""
    found = {}
    for path in sorted(documents()):
        inside = path.relative_to(HOME).parts
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".mmd":
            found["/".join(inside)] = text
        found |= {f"{'/'.join(inside)} {number}": chart for number, chart in enumerate(_FENCE.findall(text))}
    return found


class TestCommitted:
    def test_are_up_to_date(self, files: dict[str, str]) -> None:
        """And so the same in every process, on every machine."""
        assert draw.out_of_date(HOME, files) == [], "make diagrams"

    def test_the_readme_has_the_workflow(self, files: dict[str, str]) -> None:
        assert files["diagrams/workflow.mmd"] in (HOME / "README.md").read_text(encoding="utf-8")

    def test_what_nobody_draws_is_out_of_date(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(draw, "drawn", lambda home: {"diagrams/a.mmd": "new"})
        (tmp_path / "diagrams").mkdir()
        (tmp_path / "diagrams" / "a.mmd").write_text("old")
        (tmp_path / "diagrams" / "b.mmd").write_text("left over")
        assert draw.out_of_date(tmp_path) == ["diagrams/a.mmd", "diagrams/b.mmd"]
        draw.write(tmp_path)
        assert draw.out_of_date(tmp_path) == []


class TestMermaid:
    def test_takes_every_text_that_the_project_has(self) -> None:
        texts = mermaids()
        assert {
            "README.md 0",
            "diagrams/workflow.mmd",
            "diagrams/events.mmd",
            "diagrams/states.mmd",
            "diagrams/architecture.mmd",
        } <= texts.keys()
        wrong = {place: why for place, why in zip(texts, node.run("parse.mjs", list(texts.values())), strict=True) if why}
        assert wrong == {}

    def test_says_no_to_what_is_none(self) -> None:
        broken = ["flowchart TD\n a([x] --> b", "sequenceDiagram\n A->>", "stateDiagram-v2\n a --> ", "nothing"]
        assert all(node.run("parse.mjs", broken))

    def test_takes_any_name(self) -> None:
        names = ['a "b"', "end", "x; y", "#1 <b>", "graph", "(c]", "`d` | e", "{f}", "über"]
        nodes = tuple(Node(name, name, look) for name in names for look in Look)[:: len(Look) + 1]
        boxes = Boxes("any", nodes, tuple(Edge(a.id, b.id, a.title, line) for line in Line for a, b in pairwise(nodes)))
        assert (
            node.run("parse.mjs", [mermaid.flowchart(boxes), mermaid.states(boxes), mermaid.flowchart(workflow(OTHER).graph)]) == [None] * 3
        )


class TestSvg:
    def test_is_xml_with_a_title_and_needs_nothing_from_elsewhere(self, files: dict[str, str]) -> None:
        for name in (name for name in files if name.endswith(".svg")):
            root = ET.fromstring(files[name])
            assert root.findtext("{http://www.w3.org/2000/svg}title")
            assert "http" not in files[name].replace("http://www.w3.org/2000/svg", "")
            assert "prefers-color-scheme: dark" in files[name]

    def test_everything_is_on_the_page(self, files: dict[str, str]) -> None:
        for name in (name for name in files if name.endswith(".svg")):
            root = ET.fromstring(files[name])
            wide, high = float(root.get("width", 0)), float(root.get("height", 0))
            for box in root.iter("{http://www.w3.org/2000/svg}rect"):
                if box.get("x"):
                    assert float(box.get("x", 0)) + float(box.get("width", 0)) <= wide + 0.1, name
                    assert float(box.get("y", 0)) + float(box.get("height", 0)) <= high + 0.1, name

    def test_boxes_do_not_overlap(self, files: dict[str, str]) -> None:
        for name in ("workflow", "architecture", "states"):
            root = ET.fromstring(files[f"diagrams/{name}.svg"])
            boxes = [
                tuple(float(rect.get(key, 0)) for key in ("x", "y", "width", "height"))
                for rect in root.iter("{http://www.w3.org/2000/svg}rect")
                if (rect.get("class") or "").startswith("box")
            ]
            assert len(boxes) > 5
            for place, (x, y, wide, high) in enumerate(boxes):
                for left, top, w, h in boxes[:place]:
                    assert x >= left + w or left >= x + wide or y >= top + h or top >= y + high, name

    @pytest.mark.parametrize("name", ["states", "architecture"])
    def test_labels_lie_on_no_box_and_on_no_other_label(self, files: dict[str, str], name: str) -> None:
        root = ET.fromstring(files[f"diagrams/{name}.svg"])
        taken = [
            tuple(float(rect.get(key, 0)) for key in ("x", "y", "width", "height"))
            for rect in root.iter("{http://www.w3.org/2000/svg}rect")
            if (rect.get("class") or "").startswith("box")
        ]
        for label in root.iter("{http://www.w3.org/2000/svg}text"):
            if label.get("class") == "label":
                wide = svg.text_width(label.text or "", 11)
                x, y, w, h = float(label.get("x", 0)) - wide / 2, float(label.get("y", 0)) - 9, wide, 11.0
                for left, top, across, down in taken:
                    assert x >= left + across or left >= x + w or y >= top + down or top >= y + h, label.text
                taken.append((x, y, w, h))


class TestWorkflow:
    def test_has_every_step_compensation_and_outcome(self, files: dict[str, str]) -> None:
        names = {step.name for step in ORDER_SAGA} | set(Outcome) | {step.undo.__name__ for step in ORDER_SAGA if step.undo}  # type: ignore[attr-defined]
        for name in names:
            assert name in files["diagrams/workflow.mmd"]
            assert name in files["diagrams/workflow.txt"]
            assert f">{name}<" in files["diagrams/workflow.svg"]

    def test_is_what_the_saga_does(self) -> None:
        """Of these six steps; a step that somebody adds is an own matter."""
        saga = Saga(*(ORDER_SAGA[name] for name in SIX_STEPS))
        falls = {(fall.step, fall.undone, fall.outcome) for fall in story.falls(saga)}
        assert falls == {
            ("validate_order", (), Outcome.REJECTED),
            ("check_inventory", (), Outcome.OUT_OF_STOCK),
            ("check_inventory", ("check_inventory",), Outcome.COMPENSATED),
            ("process_payment", ("process_payment", "check_inventory"), Outcome.COMPENSATED),
            ("generate_confirmation", ("process_payment", "check_inventory"), Outcome.COMPENSATED),
            ("fulfill_order", ("process_payment", "check_inventory"), Outcome.COMPENSATED),
            ("fulfill_order", ("fulfill_order", "process_payment", "check_inventory"), Outcome.COMPENSATED),
        }
        assert story.sent_back(saga) == ("fulfill_order", "process_payment", "check_inventory")
        assert (story.at_the_end(saga), story.after_undoing_failed(saga)) == (Outcome.COMPLETED, Outcome.NEEDS_ATTENTION)

    def test_of_another_saga_is_another(self) -> None:
        way = workflow(OTHER)
        assert [node.id for node in way.graph.nodes][:6] == ["order", "look", "reserve", "ship", "tell", "completed"]
        assert ("ship", "anything", "fails") in {(edge.start, edge.end, edge.label) for edge in way.graph.edges}
        assert ("ship", "tell", Line.STRONG) in {(edge.start, edge.end, edge.line) for edge in way.graph.edges}
        assert "reserve" in characters.draw(way)
        ET.fromstring(svg.workflow(way))

    def test_has_whole_boxes_of_characters(self, files: dict[str, str]) -> None:
        text = files["diagrams/workflow.txt"].rpartition("\n\n")[0]
        assert text.count("┏") == text.count("┛") == sum(step.undo is not None for step in ORDER_SAGA)
        assert text.count("╔") == text.count("╝") == 1
        assert text.count("╭") == text.count("╯") == len(Outcome) + 1


class TestStates:
    def test_every_outcome_can_be_reached(self) -> None:
        graph = order_states.order_states(ORDER_SAGA, HOME)
        ways = {(edge.start, edge.end) for edge in graph.edges}
        reached, todo = {order_states.START}, [order_states.START]
        while todo:
            here = todo.pop()
            new = {end for start, end in ways if start == here} - reached
            reached |= new
            todo += new
        assert reached == {node.id for node in graph.nodes}

    def test_a_shipped_order_is_never_undone_by_a_failure(self) -> None:
        ways = {(edge.start, edge.end) for edge in order_states.order_states(ORDER_SAGA, HOME).edges}
        assert ("shipped", "undoing") not in ways
        assert {("shipped", "completed"), ("completed", "waiting"), ("needs_attention", "waiting"), ("in_hand", "undoing")} <= ways

    def test_is_in_words_for_people(self) -> None:
        found = {
            name
            for statement in order_states.statements(HOME)
            for name in statement.functions
            if list(order_states._arrows(statement, ORDER_SAGA))
        }
        assert {name.removesuffix("_sync") for name in found} <= order_states._WORDS.keys(), "it has no words yet"

    def test_what_is_shipped_holds_no_stock_that_could_run_out(self) -> None:
        labels = {(edge.start, edge.end): edge.label for edge in order_states.order_states(ORDER_SAGA, HOME).edges}
        assert "its reservation runs out" in labels["in_hand", "waiting"]
        assert "reservation" not in labels["shipped", "waiting"]
        assert all(labels.values())

    def test_what_ended_for_good_only_leads_to_a_person(self) -> None:
        ways = {(edge.start, edge.end) for edge in order_states.order_states(ORDER_SAGA, HOME).edges}
        for end in (Outcome.REJECTED, Outcome.OUT_OF_STOCK, Outcome.COMPENSATED):
            assert {there for start, there in ways if start == end} == {Outcome.NEEDS_ATTENTION}


class TestArchitecture:
    def test_no_import_points_against_the_arrows(self) -> None:
        assert code.against_the_arrows(HOME) == []

    def test_one_that_does_is_found(self, tmp_path: Path) -> None:
        for name, text in {
            "shop/a.py": "import flows.b\nimport prefect\n",
            "flows/b.py": "from deployments import c\n",
            "deployments/c.py": "",
        }.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        assert code.against_the_arrows(tmp_path) == ["flows.b imports deployments.c", "shop.a imports flows.b", "shop.a imports prefect"]

    def test_has_every_deployment_with_its_schedule(self, files: dict[str, str]) -> None:
        for each in deployed(HOME):
            assert each.name in files["diagrams/architecture.mmd"]
            assert all(f"{each.name}<br>{when}" in files["diagrams/architecture.mmd"] for when in each.schedules)

    def test_leaves_out_what_is_also_a_longer_way(self) -> None:
        assert without_shortcuts([("a", "b"), ("b", "c"), ("a", "c"), ("c", "d"), ("d", "c")]) == [
            ("a", "b"),
            ("b", "c"),
            ("c", "d"),
            ("d", "c"),
        ]


class TestEvents:
    def test_have_the_steps_in_their_sequence_and_undo_in_reverse(self) -> None:
        said = list(texts(events.order_events(ORDER_SAGA, HOME).items))
        places = [next(at for at, text in enumerate(said) if text.startswith(step.name)) for step in ORDER_SAGA]
        assert places == sorted(places)
        undone = [text.partition(":")[0] for text in said if text.startswith(("return_", "refund_", "release_")) and "result" not in text]
        assert undone[-3:] == ["return_shipment", "refund_payment", "release_inventory"]

    def test_a_step_that_speaks_to_nothing_that_is_known_is_drawn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Such as README's fraud check."""

        @outside_step()
        async def look_around(order: OrderUnderWay) -> dict[str, Any]:
            """Raises `PaymentRefused`."""
            return {}

        monkeypatch.setattr(look_around, "__module__", "tasks.limits", raising=False)
        first, second, *others = ORDER_SAGA
        saga = Saga(first, second, Step("look_around", look_around, None, Kind.READ_ONLY, 10, 3), *others)
        assert any("look_around" in said for said in texts(events.order_events(saga, HOME).items))

    def test_have_what_prefect_does_by_itself(self) -> None:
        said = " ".join(texts(events.order_events(ORDER_SAGA, HOME).items))
        assert "prefect.flow-run.Crashed" in said
        assert "payment.gateway.unavailable" in said
        assert all(each.name in said for each in deployed(HOME) if each.schedules)

    def test_only_the_automation_that_waits_for_silence_is_called_so(self) -> None:
        (line,) = [said for said in texts(events.order_events(ORDER_SAGA, HOME).items) if said.startswith("no heartbeat")]
        assert line == "no heartbeat: change flow run state"

    def test_alerts_are_emitted_by_another_flow(self) -> None:
        items = events.order_events(ORDER_SAGA, HOME).items
        (noticed,) = [inside for item in items if isinstance(item, Block) for what, inside in item.sections if what.startswith("something")]
        told = {(each.sender, each.text) for each in noticed if isinstance(each, Message)}
        assert {(events.LATER, f"event {name}") for name in (RAISED, CLEARED)} <= told
        assert (events.FLOW, "event payment.gateway.unavailable") in told

    def test_an_event_is_seen_however_it_is_emitted(self, tmp_path: Path) -> None:
        (tmp_path / "tasks").mkdir()
        (tmp_path / "tasks" / "a.py").write_text(
            "ONE, TWO = 'one', 'two'\nTHREE = 'three'\n"
            "emit_event(THREE)\nemit_event(event='four')\nEvent(id=1, event=ONE if x else TWO)\nother(event='five')\n"
        )
        assert events.emitted(tmp_path, ["tasks.a", "tasks.gone", "shop.a"]) == ["four", "one", "three", "two"]


def texts(items: tuple[Message | Block, ...]) -> list[str]:
    """What is said, in sequence."""
    said = []
    for item in items:
        said += [item.text] if isinstance(item, Message) else [text for _, inside in item.sections for text in texts(inside)]
    return said
