"""Mail templates, compiled once per process. The .html ones escape their values, the .txt ones do not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shop.notifications.layout import wrapped

if TYPE_CHECKING:
    from jinja2 import Environment, Template

_FOLDER = Path(__file__).parent / "templates"
_EXCESS_BLANK_LINES = re.compile(r"\n{3,}")


def render(name: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """Renders the text and the HTML of the template with this name."""
    for_text, for_html = _templates(name)
    text = for_text.render(values).strip("\n") + "\n"
    return _EXCESS_BLANK_LINES.sub("\n\n", text) if "\n\n\n" in text else text, for_html.render(values)


@lru_cache
def _templates(name: str) -> tuple[Template, Template]:
    return _environment().get_template(f"{name}.txt"), _environment().get_template(f"{name}.html")


@lru_cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=select_autoescape(["html"], default_for_string=True, default=False),
        undefined=StrictUndefined,
        auto_reload=False,
        cache_size=-1,
        trim_blocks=True,
    )
    environment.filters["wrapped"] = wrapped
    environment.filters["text"] = lambda parts: "\n\n".join([wrapped(part) for part in parts])
    environment.filters["lines"] = lambda part: Markup("<br>\n").join(part.split("\n"))
    return environment
