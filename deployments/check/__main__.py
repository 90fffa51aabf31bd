"""`make check`: is what the shop is connected to what was meant? Exit code 1 if something is misconfigured."""

from __future__ import annotations

import argparse
import sys

from deployments import terminal
from deployments.check.report import check, table


def main() -> int:
    """Returns the exit code."""
    argparse.ArgumentParser(prog="python -m deployments.check", description="What the shop is connected to.").parse_args()
    console = terminal.console(width=130)
    with console.status("Asking every part ..."):
        findings = check()
    console.print(table(findings))
    wrong = sum(finding.wrong for finding in findings)
    console.print("Nothing is misconfigured." if not wrong else f"[bold red]{wrong} misconfigured.[/]", highlight=False)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
