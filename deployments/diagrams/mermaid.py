"""Draws the saga, an order's states, an order over time and the components as Mermaid text.

The sources are the table of steps, `shop.orders.outcomes`, `deployments/prefect.yaml` and
`deployments/automations.yaml`.
Only the external systems of steps are listed here; a step that is not listed is drawn without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import yaml

from deployments.automations import FILE as AUTOMATIONS
from deployments.prefect_file import described
from saga.definition import Kind, Saga, Step
from shop.orders.outcomes import TRANSITIONS, Outcome

_SYSTEMS = {
    "check_inventory": ("inventory", "inventory service"),
    "process_payment": ("payments", "payment gateway"),
    "generate_confirmation": ("model", "language model"),
    "fulfill_order": ("carrier", "carrier"),
}
"""The external system that a step calls: its id in a diagram, and its name."""
_BUILT_IN = {"check_inventory", "fulfill_order"}
"""Steps that use the shop's own tables unless an external system is configured."""
_RUN_THE_SAGA = {"orders", "recovery", "review", "webhooks"}
"""Tags of the deployments that run the saga."""
_STARTS = {
    "ui": "a person in the Prefect UI",
    "python": "Python, command line",
    "web": "web app<br>POST /orders, webhooks",
}
_ARROWS = """
    ui --> prefect
    python --> prefect
    python --> database
    web --> prefect
    web --> database
    prefect --> flows
    flows --> database
    flows --> mail
    saga --> database
""".strip("\n").splitlines()


def overview(saga: Saga) -> str:
    """The saga in short: the steps in their sequence, and the compensations in theirs."""
    lines = ["flowchart LR"]
    for step in saga:
        left, right = ("[[", "]]") if step.kind is Kind.PIVOT else ("[", "]")
        lines.append(f"    {step.name}{left}{step.name}{right}")
    lines += [f"    {here.name} --> {there.name}" for here, there in pairwise(saga)]
    lines += [f"    {step.name} -.->|undone by| {undo_name(step)}" for step in saga if step.undo is not None]
    return "\n".join(lines) + "\n"


def workflow(saga: Saga) -> str:
    """Draws the saga as a flowchart: steps, refusals with an outcome of their own, compensations."""
    lines = ["flowchart TD", '    order(["order"])']
    for step in saga:
        left, right = ("[[", "]]") if step.kind is Kind.PIVOT else ("[", "]")
        lines.append(f'    {step.name}{left}"{step.name}<br>{"<br>".join(limits(step))}"{right}')
    undone = [step for step in reversed(saga.steps) if step.undo is not None]
    lines += [
        f'    {undo_name(step)}[/"{undo_name(step)}<br>undoes {step.name}<br>{retries(step.undo_retries)}"\\]'
        for step in undone
    ]
    lines += [f'    {outcome}(["{outcome}"])' for outcome in Outcome]
    for here, there in pairwise(["order", *(step.name for step in saga), Outcome.COMPLETED]):
        lines.append(
            f'    {here} ==>|"the point of no return"| {there}'
            if here == saga.pivot
            else f"    {here} --> {there}"
        )
    previous: Step | None = None
    for step in saga:
        if saga.is_past_pivot(step.name):
            break
        lines += [f'    {step.name} -.->|"{reason}"| {outcome}' for outcome, reason in refusals(step)]
        if step.kind is Kind.COMPENSATABLE:
            lines.append(f'    {step.name} -.->|"fails, or is unclear"| {undo_name(step)}')
        elif previous is not None:
            lines.append(f'    {step.name} -.->|"fails"| {undo_name(previous)}')
        if step.kind is Kind.PIVOT and step.undo is not None:
            lines.append(f'    {step.name} -.->|"is unclear"| {undo_name(step)}')
            lines.append(f'    {Outcome.COMPLETED} -.->|"a person sends it back"| {undo_name(step)}')
        previous = step if step.undo is not None else previous
    lines += [f"    {undo_name(later)} -.-> {undo_name(earlier)}" for later, earlier in pairwise(undone)]
    if undone:
        lines.append(f'    {undo_name(undone[-1])} -.->|"every compensation is done"| {Outcome.COMPENSATED}')
        lines.append(f'    {undo_name(undone[-1])} -.->|"a compensation failed"| {Outcome.NEEDS_ATTENTION}')
    return "\n".join(lines) + "\n"


def states() -> str:
    """Draws the states of an order and the transitions between them."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for transition in TRANSITIONS:
        reasons.setdefault((transition.source or "[*]", transition.target), []).append(transition.reason)
    lines = [
        "stateDiagram-v2",
        *(f"    {start} --> {end}: {', '.join(why)}" for (start, end), why in reasons.items()),
    ]
    left = {start for start, _ in reasons}
    lines += [f"    {outcome} --> [*]" for outcome in Outcome if outcome not in left]
    return "\n".join(lines) + "\n"


def sequence(saga: Saga) -> str:
    """Draws one order over time: `process-order`, failures, and what Prefect does automatically."""
    systems = dict(_SYSTEMS[step.name] for step in saga if step.name in _SYSTEMS)
    participants = {"caller": "caller", "flow": "process-order", "database": "PostgreSQL", **systems}
    participants |= {"mail": "mail server, CRM", "prefect": "Prefect server", "others": "other flows"}
    lines = [f"participant {name} as {title}" for name, title in participants.items()]
    lines += ["caller->>flow: an order", "flow->>database: stored, then claimed under a lease"]
    for step in saga:
        lines += _step_in_time(step)
    lines += ["alt every step is done", f"    flow->>database: outcome {Outcome.COMPLETED}"]
    for step in saga:
        for outcome, reason in refusals(step):
            lines += [f"else {step.name}: {reason}", f"    flow->>database: outcome {outcome}"]
    lines += [
        "else a step fails, or its result stays unclear",
        "    flow->>database: the failure is recorded",
    ]
    for step in reversed(saga.steps):
        if step.undo is not None:
            lines += [
                f"    opt {step.name} was begun",
                *(f"        {line}" for line in _undo_in_time(step)),
                "    end",
            ]
    lines += [
        (
            f"    flow->>database: outcome {Outcome.COMPENSATED}, "
            f"or {Outcome.NEEDS_ATTENTION} if a compensation failed"
        ),
        "end",
    ]
    lines += [
        "flow->>mail: messages of the outbox",
        "flow->>prefect: final state, named after the outcome",
        "flow-->>caller: outcome",
    ]
    for name, trigger, action in _automations():
        event = "no heartbeat" if trigger["posture"] == "Proactive" else ", ".join(trigger["expect"])
        lines += [f"opt {_text(name)}", f"    prefect->>others: {event}: {action}", "end"]
    lines.append("loop schedules")
    lines += [
        f"    prefect->>others: {deployment['name']}, {when}"
        for deployment in _deployments()
        for when in _schedules(deployment)
    ]
    return "\n".join(["sequenceDiagram", *(f"    {line}" for line in [*lines, "end"])]) + "\n"


def _step_in_time(step: Step) -> list[str]:
    own = f"flow->>database: {step.name}, journalled"
    if step.name not in _SYSTEMS:
        return [own]
    name, title = _SYSTEMS[step.name]
    calls = [f"flow->>{name}: {step.name}", f"{name}-->>flow: result, or none in time"]
    if step.kind is not Kind.READ_ONLY:
        calls = [f"flow->>database: {step.name}: intent", *calls]
    calls.append(f"flow->>database: {step.name}: result")
    if step.name not in _BUILT_IN:
        return calls
    return [
        "alt in the shop's own tables",
        f"    {own}",
        f"else by the {title}",
        *(f"    {line}" for line in calls),
        "end",
    ]


def _undo_in_time(step: Step) -> list[str]:
    own = f"flow->>database: {undo_name(step)}, journalled"
    if step.name not in _SYSTEMS:
        return [own]
    whether = " (if it was used)" if step.name in _BUILT_IN else ""
    return [f"flow->>{_SYSTEMS[step.name][0]}: {undo_name(step)}: look up, then undo{whether}", own]


def architecture(saga: Saga) -> str:
    """Draws the components: what starts what, the deployments of `prefect.yaml`, the steps, and the
    external systems."""
    lines = ["flowchart LR", '    subgraph starts["started by"]']
    lines += [f'        {name}["{title}"]' for name, title in _STARTS.items()]
    lines += [
        "    end",
        '    prefect["Prefect server<br>runs, schedules, automations"]',
        '    subgraph flows["flows, in prefect.yaml"]',
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for deployment in _deployments():
        groups.setdefault(deployment["tags"][-1], []).append(deployment)
    for tag, deployments in groups.items():
        lines.append(f'        subgraph tag_{tag}["{tag}"]')
        lines += [
            f'            {_id(each["name"])}["{"<br>".join([each["name"], *_schedules(each)])}"]'
            for each in deployments
        ]
        lines.append("        end")
    lines += [
        "    end",
        '    subgraph saga["the saga: tasks"]',
        *(f'        {step.name}["{step.name}"]' for step in saga),
        "    end",
    ]
    systems = dict(_SYSTEMS[step.name] for step in saga if step.name in _SYSTEMS)
    lines.append('    subgraph outside["outside"]')
    lines += [f'        {name}["{title}"]' for name, title in {**systems, "mail": "mail server, CRM"}.items()]
    lines += ["    end", '    database[("PostgreSQL<br>orders, journal, leases, outbox")]']
    lines += _ARROWS
    lines += [f"    tag_{tag} --> saga" for tag in groups if tag in _RUN_THE_SAGA]
    lines += [f"    {step.name} --> {_SYSTEMS[step.name][0]}" for step in saga if step.name in _SYSTEMS]
    return "\n".join(lines) + "\n"


def limits(step: Step) -> tuple[str, str]:
    """Returns the step's kind, and its time limit with its retries."""
    return step.kind.value, f"{step.time_limit:g} s, {retries(step.retries)}"


def retries(number: int) -> str:
    """Returns `1 retry`, `3 retries`."""
    return "1 retry" if number == 1 else f"{number} retries"


def undo_name(step: Step) -> str:
    """Returns the name of the step's compensation."""
    return str(getattr(step.undo, "__name__", step.name))


def refusals(step: Step) -> Iterator[tuple[Outcome, str]]:
    """Yields the outcomes that only this step leads to, with the reason."""
    for transition in TRANSITIONS:
        if transition.step == step.name and isinstance(transition.target, Outcome):
            yield transition.target, transition.reason


def _deployments() -> list[dict[str, Any]]:
    deployments: list[dict[str, Any]] = described()["deployments"]
    return deployments


def _automations() -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yields the name of each automation, its trigger and what it does."""
    for deployment in _deployments():
        for trigger in deployment.get("triggers", ()):
            yield trigger["name"], trigger, deployment["name"]
    for each in yaml.safe_load(AUTOMATIONS.read_text(encoding="utf-8"))["automations"]:
        yield each["name"], each["trigger"], ", ".join(action["type"] for action in each["actions"])


def _schedules(deployment: dict[str, Any]) -> list[str]:
    """Returns `every 5 min`, `cron 17 3 * * * SHOP_TIMEZONE`."""
    return [
        f"cron {each['cron']} SHOP_TIMEZONE" if "cron" in each else f"every {each['interval'] / 60:g} min"
        for each in deployment.get("schedules", ())
    ]


def _id(name: str) -> str:
    return name.replace("-", "_")


def _text(text: str) -> str:
    """Removes what would end a line of Mermaid."""
    return text.replace(";", ",").replace("#", "")
