"""`make diagrams`: python -m deployments.diagrams [--check]."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from deployments.diagrams.draw import out_of_date, write


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 with `--check` if a diagram is out of date."""
    parser = argparse.ArgumentParser(prog="python -m deployments.diagrams", description="Draws the project's diagrams from its code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a diagram is out of date")
    check: bool = parser.parse_args(arguments).check
    changed = out_of_date() if check else write()
    for name in changed:
        sys.stdout.write(f"{name}: {'out of date' if check else 'drawn anew'}\n")
    if not changed:
        sys.stdout.write("All diagrams are as they should be.\n")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
