"""`make demo`, as a user runs it: everything is started,
the samples go through the deployment and a worker, everything is stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.private import open_to_others

HOME = Path(__file__).resolve().parent.parent.parent
_OURS = (
    "DATABASE_URL",
    "PREFECT_API_URL",
    "PAYMENT_GATEWAY",
    "PAYMENT_GATEWAY_URL",
    "STRIPE_API_KEY",
    "PREFECT_HOME",
)


@pytest.mark.slow
def test_the_demo_ends_as_it_should_and_leaves_nothing_behind(world_dir: Path) -> None:
    var = world_dir / "demo"  # as root PostgreSQL runs as another user, who cannot enter tmp_path
    environment = {name: value for name, value in os.environ.items() if name not in _OURS}
    environment |= {
        "VAR_DIR": str(var),
        "PREFECT_API_URL": "",  # whatever a Prefect profile of this machine names
    }
    run = subprocess.run(
        [sys.executable, "-m", "deployments.cli", "demo"],
        cwd=HOME,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-3000:]
    for order in ("ORDER-1001", "ORDER-PAYMENT-FAIL", "ORDER-REFUND-REFUSED", "ORDER-LAST-A", "ORDER-LAST-B"):
        assert order in run.stdout
    assert "The books balance" in run.stdout
    assert "needs_attention" in run.stdout
    left = [
        p.pid
        for p in psutil.process_iter(["cmdline"])
        if any(str(var) in part for part in p.info["cmdline"] or [])
    ]
    assert left == [], "every process that it started has ended"
    assert list((var / "mail" / "new").glob("ORDER-1001.confirmation.eml"))
    assert open_to_others(var) == [], "nobody else can read what orders, workers and servers left"
