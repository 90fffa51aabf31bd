"""What the pages about deploying say to write and to run, in files that several programs read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleet.fleet import COMPOSE, described
from tests.how_to import HOME, blocks

PAGES = HOME / "docs" / "how-to"


def settings_of(page: str) -> list[str]:
    return [block.text for block in blocks(PAGES / page) if block.language == "sh"]


def test_compose_reads_the_variables_of_production_as_they_are_meant(tmp_path: Path) -> None:
    (written,) = settings_of("compose.md")
    file = tmp_path / "given.env"
    file.write_text(written)
    command = [str(Path(sys.executable).with_name("docker-compose")), "--env-file", str(file)]
    done = subprocess.run(
        [*command, "--file", str(COMPOSE), "--profile", "prod", "config", "--environment"],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=True,
    )
    read = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert read["PAYMENT_GATEWAY_URL"] == "", "Stripe's own address"
    assert not [name for name, value in read.items() if "#" in value]


def test_a_shell_reads_the_settings_that_systemd_reads(tmp_path: Path) -> None:
    """`order-saga setup` gets them from a shell, the units from systemd."""
    for number, written in enumerate(settings_of("deploy.md")):
        file = tmp_path / f"{number}.env"
        file.write_text(written)
        done = subprocess.run(
            ["sh", "-euc", f"set -a; . {file}; env"],
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        names = {line.split("=", 1)[0] for line in written.splitlines() if line and not line.startswith("#")}
        assert names <= {line.split("=", 1)[0] for line in done.stdout.splitlines()}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user without its capabilities")
def test_the_job_of_the_secrets_accepts_a_folder_of_the_images_user(tmp_path: Path) -> None:
    """With exactly the capabilities that compose.yaml leaves it."""
    if not (setpriv := shutil.which("setpriv")):
        pytest.skip("setpriv (util-linux) is missing")
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    (folder / "metrics-token").write_text("mine\n")
    (folder / "metrics-token").chmod(0o600)
    for path in (folder / "metrics-token", folder):
        os.chown(path, 10001, 10001)
    service = described("prod")["services"]["secrets"]
    left = ",".join(["-all", *(f"+{name.lower()}" for name in service.get("cap_add", []))])
    command = [sys.executable, "-m", "deployments.cli", *service["command"][1:]]
    command[command.index("/run/secrets")] = str(folder)
    done = subprocess.run(
        [setpriv, "--no-new-privs", "--inh-caps=-all", f"--bounding-set={left}", *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HOME)},
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "metrics-token").read_text() == "mine\n"
    assert (folder / "orders-api-key").read_text().strip()
