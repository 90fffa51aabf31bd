"""What is installed is what is locked:
every package by version and hash, for every kind of machine that is supported."""

from __future__ import annotations

import json
import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)((?:[^\\\n]|\\\n)*)", re.MULTILINE)
_PINNED = re.compile(r"^[A-Za-z0-9._\[\],-]+==[^\s;]+", re.MULTILINE)
PEERS = HOME / "benchmarks" / "peers"
LOCKS = {file: HOME / "locks" / file.name for file in sorted(HOME.glob("requirements*.txt"))}
ALL_LOCKS = {**LOCKS, PEERS / "requirements.txt": HOME / "locks" / "requirements-peers.txt"}


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _locked(file: Path) -> dict[str, dict[str, int]]:
    """By package its versions, of which a marker chooses one, with the number of their hashes."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for name, version, rest in _LOCKED.findall(file.read_text()):
        found[_name(name)][version] = rest.count("--hash=sha256:")
    return dict(found)


@pytest.mark.parametrize(("required", "lock"), ALL_LOCKS.items(), ids=lambda path: path.stem)
def test_each_requirement_is_locked_at_its_version_with_hashes(required: Path, lock: Path) -> None:
    pins = {_name(name): version for name, version in _PIN.findall(required.read_text())}
    locked = _locked(lock)
    assert pins
    assert {name: next(iter(locked.get(name, {})), "none") for name in pins} == pins
    assert [name for name, versions in locked.items() if not all(versions.values())] == []
    lines = [line for line in lock.read_text().splitlines() if line and not line.startswith((" ", "#"))]
    assert [line for line in lines if not _LOCKED.match(line)] == [], "nothing but packages with versions"


def _pinned(requirements: list[str]) -> dict[str, str]:
    """By package its version. Every requirement has one."""
    pins = {_name(name): version for name, version in _PIN.findall("\n".join(requirements))}
    assert len(pins) == len({each.split("==")[0].split("[")[0] for each in requirements}), (
        "each has a version"
    )
    return pins


def _project() -> dict[str, dict[str, str]]:
    """The pins of pyproject.toml: of the package, of each extra, and of the group `dev`."""
    read = tomllib.loads((HOME / "pyproject.toml").read_text())
    extras = {name: _pinned(pins) for name, pins in read["project"]["optional-dependencies"].items()}
    return {
        "": _pinned(read["project"]["dependencies"]),
        **extras,
        "dev": _pinned(read["dependency-groups"]["dev"]),
    }


def test_each_pin_of_the_package_is_locked() -> None:
    locked = _locked(HOME / "locks" / "requirements.txt")
    for part, pins in _project().items():
        if part != "dev":
            assert {name: next(iter(locked.get(name, {})), "none") for name in pins} == pins, part


def test_a_checkout_has_the_package_with_every_extra() -> None:
    (line,) = (
        line for line in (HOME / "requirements.txt").read_text().splitlines() if line.startswith("-e .")
    )
    assert set(line.removeprefix("-e .[").removesuffix("]").split(",")) == _project().keys() - {"", "dev"}


def test_pins_of_the_requirements_are_those_of_the_project() -> None:
    parts = _project()
    runs = {name: version for part, pins in parts.items() if part != "dev" for name, version in pins.items()}
    assert all(
        runs[name] == version for pins in parts.values() for name, version in pins.items() if name in runs
    ), "one version each"
    checkout = dict(_pinned(_PINNED.findall((HOME / "requirements.txt").read_text())))
    assert {"prefect", "dspy-ai", "pydantic", "sqlmodel", "pytest"} <= checkout.keys()
    assert {name: version for name, version in checkout.items() if name in runs} == {
        name: runs[name] for name in checkout.keys() & runs.keys()
    }
    tests = {name: version for name, version in checkout.items() if name not in runs}
    dev = _pinned(_PINNED.findall((HOME / "requirements-dev.txt").read_text()))
    assert {**tests, **dev} == parts["dev"]


def test_what_several_files_lock_is_the_same_in_all() -> None:
    first = _locked(HOME / "locks" / "requirements.txt")
    for required, lock in LOCKS.items():
        other = _locked(lock)
        assert [
            name for name in other.keys() & first.keys() if not first[name].items() <= other[name].items()
        ] == [], required.name


def test_every_install_asks_for_hashes() -> None:
    makefile = (HOME / "Makefile").read_text()
    installs = [line for line in makefile.splitlines() if "pip install" in line or "PIP_INSTALL)" in line]
    assert len(installs) > 5
    hashed = re.compile(r"PIP_INSTALL := .* --require-hashes|.*\$\(PIP_INSTALL\) ")
    nothing_downloaded = re.compile(
        r"PIP_INSTALL_HERE := .* --no-index --no-deps --no-build-isolation|.*\$\(PIP_INSTALL_HERE\)"
    )
    assert [line for line in installs if not hashed.match(line) and not nothing_downloaded.match(line)] == []
    assert re.findall(r"\$\(PIP_INSTALL\) (?:--no-deps )?-r (\S+)", makefile), "from locks/ alone"
    assert all(
        file.startswith("locks/")
        for file in re.findall(r"\$\(PIP_INSTALL\) (?:--no-deps )?-r (\S+)", makefile)
    )


def test_what_builds_the_package_is_locked() -> None:
    required = tomllib.loads((HOME / "pyproject.toml").read_text())["build-system"]["requires"]
    assert set(required) <= {
        f"{name}=={version}" for name, version in _PIN.findall((HOME / "requirements-pip.txt").read_text())
    }


@pytest.mark.parametrize("folder", [HOME / "tests" / "node", PEERS], ids=lambda path: path.name)
def test_node_packages_have_hashes(folder: Path) -> None:
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert [name for name, package in packages.items() if name and not package.get("integrity")] == []
