"""The commands that show the shop on this machine: `run`, `demo`, `samples`, `check` (`make run`, ...)."""

from __future__ import annotations

from deployments import terminal


def run() -> int:
    """Run everything on this machine, with sample orders, until Ctrl-C. The data is kept.

    Exit codes: 0, stopped by Ctrl-C; 1, something could not start, or is misconfigured.
    """
    from deployments.local.run import run as run_everything

    return run_everything(demo=False)


def demo() -> int:
    """Run everything on this machine, and stop when the sample orders have ended.

    Exit codes: 0, every sample ended as expected and the books balance; 1, otherwise, or something could not
    start.
    """
    from deployments.local.run import run as run_everything

    return run_everything(demo=True)


def samples() -> int:
    """Send the sample orders to a running system, show their outcomes, and the books.

    The system is that of the settings: the Prefect server with its workers, the database and the gateway. It
    needs the sandbox or a test mode of Stripe: with a live key nothing is sent. Sent again, orders keep their
    first outcome.

    Exit codes: 0, every sample ended as expected and the books balance; 1, otherwise.
    """
    from deployments.running import use_running_world

    use_running_world()
    from deployments.local.display import Display
    from deployments.samples.demonstration import as_expected, demonstration, send_samples

    console = terminal.console(width=130)
    with Display(console, []) as display:
        ended = send_samples(display)
    shown, books = demonstration(ended, ask_stripe=True)
    console.print(*shown)
    return int(not as_expected(ended, books))


def check() -> int:
    """Show what the shop is connected to, and what is misconfigured.

    Exit codes: 0; 1, something is misconfigured.
    """
    from deployments.check import report

    console = terminal.console(width=130)
    with console.status("Checking every part ..."):
        findings = report.check()
    console.print(report.table(findings))
    wrong = sum(finding.wrong for finding in findings)
    console.print(
        "Nothing is misconfigured." if not wrong else f"[bold red]{wrong} misconfigured.[/]", highlight=False
    )
    return int(wrong > 0)
