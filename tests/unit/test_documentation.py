"""What the documentation names exists: links, anchors,
commands, options, files, imports. No test compares prose."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclopts import App, CycloptsError, MissingArgumentError

from deployments.cli import make_app
from shop.alerts.rules import Rule
from shop.payments.gateway import GatewayClient, NewPayment
from tests.how_to import HOME, blocks, pages, prose

MAKEFILE = (HOME / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([\w-]+):(?!=)", MAKEFILE, re.MULTILINE))
RUNBOOK = HOME / "docs" / "operations" / "runbook.md"
GATEWAY_PAGE = HOME / "docs" / "how-to" / "replace-the-gateway.md"
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
PATH = re.compile(r"(?:benchmarks|deployments|docs|examples|flows|locks|saga|shop|tasks|tests)/[\w./-]*")
ANY_PAGE = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(HOME)))
# The changelog is about earlier versions.
CURRENT_PAGE = pytest.mark.parametrize(
    "page",
    [page for page in pages() if page.name != "CHANGELOG.md"],
    ids=lambda page: str(page.relative_to(HOME)),
)


def anchors(page: Path) -> set[str]:
    """The anchors of the page's headings, as GitHub makes them."""
    headings = re.findall(r"^#{1,6} (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def problem(page: Path, link: str) -> str | None:
    """What is wrong with a link of the page."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return f"{link}: no such file"
    return f"{link}: no such heading" if anchor and anchor not in anchors(target) else None


@ANY_PAGE
def test_every_relative_link_and_picture_resolves(page: Path) -> None:
    text = prose(page)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [found for link in local if (found := problem(page, link))] == []


@CURRENT_PAGE
def test_every_file_that_is_named_exists(page: Path) -> None:
    created = {block.created for block in blocks(page)}
    named = [span for span in SPAN.findall(prose(page)) if PATH.fullmatch(span) and span not in created]
    assert [name for name in named if not (HOME / name).exists() and not (page.parent / name).exists()] == []


def commands(page: Path) -> Iterator[tuple[list[str], bool]]:
    """The words of each command that the page names, and whether it is complete (a line of a console)."""
    consoles = [block.text for block in blocks(page) if block.language == "console"]
    lines = [(line[2:], True) for text in consoles for line in text.splitlines() if line.startswith("$ ")]
    lines += [(span, False) for span in SPAN.findall(prose(page))]
    for line, complete in lines:
        if "make " not in line and "order-saga" not in line:
            continue
        for part in re.split(r"&&|[;|]", re.sub(r"\s#\s.*", "", line)):
            words = shlex.split(part)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and words[0].removeprefix(".venv/bin/") in {"make", "order-saga"}:
                yield [words[0].removeprefix(".venv/bin/"), *words[1:]], complete


@CURRENT_PAGE
def test_every_command_exists_and_takes_its_options(page: Path) -> None:
    app = make_app()
    found = [
        (words, wrong)
        for words, complete in commands(page)
        if (wrong := wrong_target(words) if words[0] == "make" else wrong_command(app, words, complete))
    ]
    assert found == []


def wrong_target(words: list[str]) -> str | None:
    for word in words[1:]:
        name, is_variable, _ = word.partition("=")
        if not (f"$({name}" in MAKEFILE or f"{name} ?=" in MAKEFILE if is_variable else name in TARGETS):
            return f"the Makefile has no {name}"
    return None


def wrong_command(app: App, words: list[str], complete: bool) -> str | None:
    if words[1:2] == ["COMMAND"]:
        return None
    try:
        app.parse_args(words[1:], exit_on_error=False, print_error=False)
    except MissingArgumentError as error:
        return str(error) if complete else None
    except CycloptsError as error:
        return str(error)
    return None


@CURRENT_PAGE
def test_every_python_snippet_compiles_and_its_imports_resolve(page: Path) -> None:
    snippets = [block for block in blocks(page) if block.language == "python"]
    trees = [(ast.parse(textwrap.dedent(block.text)), block) for block in snippets]
    assert [wrong for tree, block in trees if not block.is_applied for wrong in unresolved(tree)] == []


def unresolved(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                is_module = hasattr(module, "__path__") and find_spec(f"{node.module}.{name}") is not None
                if not hasattr(module, name) and not is_module:
                    yield f"from {node.module} import {name}"
        elif isinstance(node, ast.Import):
            for name in (alias.name for alias in node.names):
                importlib.import_module(name)


def test_every_alert_is_in_the_runbook() -> None:
    groups = yaml.safe_load((HOME / "deployments" / "monitoring" / "alerts.yml").read_text(encoding="utf-8"))[
        "groups"
    ]
    names = [*Rule, *(rule["alert"] for group in groups for rule in group["rules"])]
    text = RUNBOOK.read_text(encoding="utf-8")
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_section_of_the_runbook_states_what_to_do() -> None:
    parts = ("**Symptom.**", "**Look.**", "**Do.**", "**Verify.**", "**Escalate**")
    sections = RUNBOOK.read_text(encoding="utf-8").split("\n## ")[1:]
    assert len(sections) >= len(Rule)
    missing = {
        (section.splitlines()[0], part) for section in sections for part in parts if part not in section
    }
    assert not missing


def test_the_example_of_a_gateway_has_the_methods_of_the_port() -> None:
    (example,) = [block for block in blocks(GATEWAY_PAGE) if block.language == "python"]
    names: dict[str, Any] = {}
    exec(compile(example.text, str(GATEWAY_PAGE), "exec"), names)

    def methods(kind: type) -> dict[str, set[str]]:
        found = {name: getattr(kind, name) for name in dir(kind) if name[0] != "_"}
        return {name: set(signature(each).parameters) for name, each in found.items() if callable(each)}

    expected = methods(GatewayClient)
    expected["create"] = (expected["create"] - {"new"}) | NewPayment.__annotations__.keys()
    assert methods(names["AcmeGateway"]) == expected
