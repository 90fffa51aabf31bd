"""The components and who uses whom: from the imports, and from `prefect.yaml`.

A module that only serves others of its own package is part of those. An arrow that is also a longer way is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deployments.diagrams.code import Module, modules
from deployments.diagrams.deployed import deployed
from deployments.diagrams.graph import Edge, Graph, Group, Look, Node, without_shortcuts

SAGA = "flows.saga"
_CORE = "shop"
_REACHES = {
    "aiosmtplib": "mail server",
    "dspy": "language model",
    "easypost": "EasyPost",
    "psycopg": "PostgreSQL",
    "sqlalchemy": "PostgreSQL",
    "stripe": "Stripe",
    "httpx": "HTTP: payment sandbox, inventory service, CRM",
}
"""What a library is for, when it is imported: only these lead outside."""


def architecture(home: Path) -> Graph:
    """Deployments, flows, the saga, tasks, domain, and what is outside."""
    code, flows = modules(home), deployed(home)
    components = _components(code, {flow.module for flow in flows})
    uses = _uses(code, components)
    for flow in flows:  # what a program starts by its name
        names = {f"{flow.name}/{flow.name}"}
        programs = [module for module in code.values() if module.name.startswith("deployments.")]
        uses |= {(components[program.name], flow.module) for program in programs if _mentions(program, code) & names}
    uses = {(a, b) for a, b in uses if a != b and a and b}
    columns = _columns({name for pair in uses for name in pair} | {flow.module for flow in flows})
    column_of = {name: number for number, (_, names) in enumerate(columns) for name in names}
    across = [pair for pair in sorted(uses) if column_of.get(pair[0], 99) < column_of.get(pair[1], 0)]
    kept = _without_the_core(without_shortcuts(across))
    schedules = {flow.module: flow.schedules for flow in flows}
    titles = {flow.module: flow.name for flow in flows}
    nodes = tuple(_node(name, titles.get(name), schedules.get(name, ())) for _, names in columns for name in names)
    groups = tuple(Group(f"group {number}", title, tuple(names)) for number, (title, names) in enumerate(columns))
    return Graph("The components", nodes, tuple(Edge(start, end) for start, end in kept), groups)


def _mentions(program: Module, code: Mapping[str, Module]) -> set[str]:
    """What stands in the program, and in the parts of `flows` that it imports."""
    return {*program.mentions, *(each for name in program.imports if name.startswith("flows.") for each in code[name].mentions)}


def _node(name: str, title: str | None, notes: tuple[str, ...]) -> Node:
    if "." not in name and name != _CORE:
        return Node(name, name.partition(": ")[0], Look.OUTSIDE, tuple(filter(None, name.partition(": ")[2].split(", "))))
    if name == _CORE:
        return Node(name, "shop", Look.PART, ("orders, journal, leases",))
    return Node(name, title or name.rpartition(".")[2], Look.PIVOT if name == SAGA else Look.PART, notes)


def _columns(names: set[str]) -> list[tuple[str, list[str]]]:
    def of(package: str) -> list[str]:
        return sorted(name for name in names if name.startswith(f"{package}.") and name != SAGA)

    outside = sorted(name for name in names if "." not in name and name != _CORE)
    columns = [
        ("deployments", of("deployments")),
        ("flows (prefect.yaml)", of("flows")),
        ("the saga", [SAGA]),
        ("tasks", of("tasks")),
        ("shop", [*of("shop"), _CORE]),
        ("outside", outside),
    ]
    return [(title, there) for title, there in columns if there]


def _components(code: Mapping[str, Module], flows: set[str]) -> dict[str, str]:
    """The component of each module; empty: it only serves others."""
    used_by_flows = {name for module in code.values() if module.name.startswith("flows.") for name in module.imports}
    part_of = {}
    for name, module in code.items():
        parts = name.split(".")
        two = ".".join(parts[:2])
        component = ""
        if parts[0] == "shop":
            component = two if len(parts) > 2 or any(other.startswith(f"{name}.") for other in code) else _CORE
        elif parts[0] == "deployments" and len(parts) > 1:
            package = [other for other in code if other == two or other.startswith(f"{two}.")]
            component = two if module.is_program or any(code[other].is_program for other in package) or _is_api(two, code) else ""
        elif (parts[0] == "flows" and (name in flows or name == SAGA)) or (
            parts[0] == "tasks" and name in used_by_flows and _is_task(name, code)
        ):
            component = name
        part_of[name] = component
    return part_of


def _is_api(name: str, code: Mapping[str, Module]) -> bool:
    """What nobody of ours uses is there for others to import."""
    return name in code and not any(name in module.imports for module in code.values())


def _is_task(name: str, code: Mapping[str, Module]) -> bool:
    return "tasks.step" in code[name].imports or (
        "prefect" in code[name].libraries and not any(name in code[other].imports for other in code if other.startswith("tasks."))
    )


def _uses(code: Mapping[str, Module], components: Mapping[str, str]) -> set[tuple[str, str]]:
    uses: set[tuple[str, str]] = set()
    for name, component in components.items():
        if component:
            module = code[name]
            uses |= {(component, reached) for reached in _reached(module) if name.startswith(_CORE)}
            uses |= {(component, components[other]) for other in module.imports}
            if _runs_the_saga(name, code):
                uses.add((component, SAGA))
    return uses


def _reached(module: Module) -> set[str]:
    """What is outside that it speaks with. A client that it imports beside httpx is what httpx is for."""
    libraries = module.libraries & _REACHES.keys()
    return {_REACHES[library] for library in (libraries - {"httpx"} if "easypost" in libraries else libraries)}


def _runs_the_saga(name: str, code: Mapping[str, Module]) -> bool:
    """Also by way of what flows share."""
    todo, seen = [name], {name}
    while todo:
        more = {other for other in code[todo.pop()].imports if other.startswith("flows.")} - seen
        if SAGA in more:
            return True
        seen |= more
        todo += more
    return False


def _without_the_core(uses: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Everything uses the domain's core, and the core the database: only said of those that use nothing else there."""
    special = {start for start, end in uses if end.startswith(f"{_CORE}.")} | {start for start, _ in uses if start.startswith(f"{_CORE}.")}
    base = _REACHES["sqlalchemy"]
    return [
        (start, end)
        for start, end in uses
        if not (end == _CORE and start in special)
        and not (end == base and start != _CORE)
        and not (end == _CORE and start.startswith("flows."))
    ]


def reached(home: Path) -> dict[str, str]:
    """The parts of the domain that lead outside, and where to."""
    ways: dict[str, set[str]] = {}
    for name, module in modules(home).items():
        parts = name.split(".")
        if parts[0] == _CORE and len(parts) > 2:
            ways.setdefault(parts[1], set()).update(_reached(module))
    base = _REACHES["sqlalchemy"]
    return {part: ", ".join(sorted(each.partition(":")[0] for each in there - {base})) for part, there in ways.items() if there - {base}}
