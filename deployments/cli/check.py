"""`order-saga check` (`make check`): shows what the shop is connected to."""

from __future__ import annotations

from deployments import terminal
from deployments.check import report


def check() -> int:
    """Show what the shop is connected to, and what is misconfigured.

    Exit codes: 0; 1, something is misconfigured.
    """
    console = terminal.console(width=130)
    with console.status("Checking every part ..."):
        findings = report.check()
    console.print(report.table(findings))
    wrong = sum(finding.wrong for finding in findings)
    console.print(
        "Nothing is misconfigured." if not wrong else f"[bold red]{wrong} misconfigured.[/]", highlight=False
    )
    return int(wrong > 0)
