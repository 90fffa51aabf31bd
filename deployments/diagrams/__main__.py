"""`make diagrams`: python -m deployments.diagrams [--check]. It also writes the reference of the settings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from deployments.diagrams.documents import out_of_date
from deployments.diagrams.settings_page import stale_page
from shop.runtime.home import HOME


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns exit code 1 with `--check` if a diagram or the page of the settings is out of date."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.diagrams",
        description="Refreshes what is generated in README.md and docs/.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 if something is out of date"
    )
    check: bool = parser.parse_args(arguments).check
    stale = {**out_of_date(), **stale_page()}
    for path, text in stale.items():
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        sys.stdout.write(
            f"{path.relative_to(HOME)}: {'it is out of date: run make diagrams' if check else 'refreshed'}\n"
        )
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
