"""The package as `pip install` lays it out, without what it requires."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import HOME

PACKAGES = ("deployments", "flows", "saga", "shop", "tasks")


def install(folder: Path) -> Path:
    """Builds the package in the folder. Returns where it is, for PYTHONPATH."""
    ignored = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.copytree(HOME / package, folder / "source" / package, ignore=ignored)
    shutil.copy(HOME / "pyproject.toml", folder / "source")
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    done = subprocess.run(
        [sys.executable, "-c", build],
        cwd=folder / "source",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (wheel,) = folder.glob("order_saga-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"
