"""What happens to an order in time: who writes what, who is told, and what Prefect does about it by itself."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from uuid import UUID

from prefect.events.schemas.automations import Posture

from deployments.automations import automations
from deployments.diagrams import story
from deployments.diagrams.architecture import reached
from deployments.diagrams.code import modules
from deployments.diagrams.deployed import deployed
from deployments.diagrams.graph import Block, Conversation, Message, words
from deployments.diagrams.workflow import undo_of
from flows.states import NAMES
from shop.saga import Kind, Saga, Step
from shop.signals import FINISHED, WAITING

CALLER, FLOW, DATABASE, PREFECT, LATER = "caller", "flow", "database", "prefect", "later"
_ORDER_LANE = "process-order"


def order_events(saga: Saga, home: Path) -> Conversation:
    """One order through `process-order`, and what becomes of it if a step or a machine fails."""
    outside = reached(home)
    parties = [(CALLER, "caller"), (FLOW, _ORDER_LANE), (DATABASE, "PostgreSQL")]
    for step in saga:
        if True in story.ways(step) and (party := _party(step, outside)) not in dict(parties):
            parties.append((party, f"{party}: {outside[party]}" if party in outside else party))
    parties += [("mail", "outbox: mail, CRM"), (PREFECT, "Prefect"), (LATER, "other flows")]
    straight = [item for step in saga for item in _step(step, outside)]
    end = story.at_the_end(saga)
    items: list[Message | Block] = [
        Message(CALLER, FLOW, "an order"),
        Message(FLOW, DATABASE, f"stored (NOTIFY {WAITING})"),
        Message(FLOW, DATABASE, "claimed under a lease"),
        *straight,
        Block("alt", (("every step is done", (Message(FLOW, DATABASE, f"{end} (NOTIFY {FINISHED})"),)), *_failures(saga, outside))),
        Message(FLOW, "mail", "deliver_outbox"),
        Message(FLOW, PREFECT, "state: " + ", ".join(NAMES.values())),
        Message(FLOW, CALLER, "outcome", answer=True),
    ]
    own = emitted(home, _part_of(home, f"flows.{words(_ORDER_LANE).replace(' ', '_')}"))
    others = sorted(set(emitted(home, modules(home))) - set(own))
    noticed = tuple(Message(who, PREFECT, f"event {name}") for who, names in ((FLOW, own), (LATER, others)) for name in names)
    if noticed:
        items.append(Block("opt", (("something is noticed on the way", noticed),)))
    for name, automation in automations(lambda _: UUID(int=0), lambda _: UUID(int=0)):
        if automation is None:
            continue
        expect: set[str] = getattr(automation.trigger, "expect", set())
        silent = getattr(automation.trigger, "posture", None) == Posture.Proactive
        expected = "no heartbeat" if silent else ", ".join(sorted(expect))
        actions = ", ".join(words(str(action.type)) for action in automation.actions)
        items.append(Block("opt", ((name, (Message(PREFECT, LATER, f"{expected}: {actions}"),)),)))
    scheduled = [Message(PREFECT, LATER, f"{each.name}, {when}") for each in deployed(home) for when in each.schedules]
    items.append(Block("loop", (("by schedule", tuple(scheduled)),)))
    return Conversation("What happens to an order", tuple(parties), tuple(items))


def emitted(home: Path, names: Iterable[str]) -> list[str]:
    """The events that these modules, as far as they are flows or tasks, emit: by `emit_event`, or as an `Event` that is built; where
    their names are plain."""
    found = set()
    for name in names:
        path = home.joinpath(*name.split(".")).with_suffix(".py")
        if name.partition(".")[0] not in {"flows", "tasks"} or not path.is_file():
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = dict(_constants(tree))
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id="emit_event"), args=[first, *_]):
                    found |= set(_texts(first, named))
                case ast.Call(func=ast.Name(id="emit_event" | "Event")):
                    found |= {text for each in node.keywords if each.arg == "event" for text in _texts(each.value, named)}
    return sorted(found)


def _part_of(home: Path, name: str) -> set[str]:
    """The module, and all that it leads to."""
    seen, todo = set[str](), [name]
    while todo:
        if (here := todo.pop()) not in seen:
            seen.add(here)
            todo += modules(home)[here].imports
    return seen


def _constants(tree: ast.Module) -> Iterator[tuple[str, object]]:
    """Names that the module gives to plain values, also several at once."""
    for node in tree.body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                match target, node.value:
                    case ast.Name(id=name), ast.Constant(value=value):
                        yield name, value
                    case ast.Tuple(elts=names), ast.Tuple(elts=values):
                        for each, given in zip(names, values, strict=False):
                            if isinstance(each, ast.Name) and isinstance(given, ast.Constant):
                                yield each.id, given.value


def _texts(node: ast.expr | None, named: Mapping[str, object]) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.Name(id=name) if isinstance(known := named.get(name), str):
            yield known
        case ast.IfExp(body=one, orelse=other):
            yield from _texts(one, named)
            yield from _texts(other, named)
        case ast.JoinedStr(values=parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in parts)
        case _:
            return


def _step(step: Step, outside: dict[str, str]) -> Iterator[Message | Block]:
    ways = story.ways(step)
    inside = Message(FLOW, DATABASE, f"{step.name}: " + ("looked up" if step.kind is Kind.READ_ONLY else "effect and journal, one commit"))
    if ways == (False,):
        yield inside
        return
    party = _party(step, outside)
    there: tuple[Message, ...] = (Message(FLOW, party, step.name), Message(party, FLOW, "answer, or none in time", answer=True))
    if step.kind is not Kind.READ_ONLY:
        there = (Message(FLOW, DATABASE, f"{step.name}: intent"), *there, Message(FLOW, DATABASE, f"{step.name}: result"))
    if ways == (True,):
        yield from there
    else:
        yield Block("alt", (("all in our database", (inside,)), (f"{party} is a service outside", there)))


def _failures(saga: Saga, outside: dict[str, str]) -> Iterator[tuple[str, tuple[Message | Block, ...]]]:
    """What else may happen, each way once."""
    for fall in dict.fromkeys((fall.undone, fall.outcome) for fall in story.falls(saga)):
        undone, outcome = fall
        steps = [each.step for each in story.falls(saga) if (each.undone, each.outcome) == fall]
        undoing = [message for name in undone for message in _undo(saga[name], outside)]
        condition = f"{' or '.join(dict.fromkeys(steps))} {'fails' if undone else 'says no'}"
        yield condition, (*undoing, Message(FLOW, DATABASE, f"{outcome} (NOTIFY {FINISHED})"))


def _undo(step: Step, outside: dict[str, str]) -> Iterator[Message]:
    if story.ways(step, undo=True) == (True,):
        yield Message(FLOW, _party(step, outside), f"{undo_of(step)}: looked up and undone")
        yield Message(FLOW, DATABASE, f"{undo_of(step)}: result")
    else:
        yield Message(FLOW, DATABASE, f"{undo_of(step)}: undone and journalled")


def _party(step: Step, outside: dict[str, str]) -> str:
    """The part of the domain that the step speaks through."""
    module = str(getattr(step.task, "__module__", ""))
    home = Path(__file__).resolve().parent.parent.parent
    used = {other.split(".")[1] for other in modules(home)[module].imports if other.startswith("shop.") and other.count(".") > 1}
    return min(used & outside.keys(), default="outside")
