"""Builds the image as `make image-test` does: `python -m tests.image.build`.

BASE=python:3.12-slim names a base that can be pulled. Without it the base is made of Debian's packages, once,
with what official Python images have. EXTRAS: those of the image.
"""

from __future__ import annotations

import configparser
import os
import platform
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pip

HOME = Path(__file__).resolve().parents[2]
IMAGE = "localhost/order-saga:test"
_BASE = "localhost/order-saga-base:test"
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_DOCUMENTATION = ("doc", "info", "locale", "man")
_PASSED_ON = ("index-url", "extra-index-url", "trusted-host", "timeout", "retries")
"""Settings of pip that the build needs to reach the index as this machine does."""


def main() -> None:
    """Builds base and image."""
    base = os.environ.get("BASE") or _own_base()
    revision = _output("git", "-C", str(HOME), "rev-parse", "HEAD")
    arguments = {"BASE": base, "REVISION": revision}
    if "EXTRAS" in os.environ:
        arguments["EXTRAS"] = os.environ["EXTRAS"]
    former = _output("podman", "images", "--quiet", "--no-trunc", IMAGE)
    with tempfile.TemporaryDirectory(prefix="order-saga-image-") as folder:
        command = ["buildah", "build", "--format", "docker", "--layers=false", "--tag", IMAGE]
        command += ["--isolation", os.environ.get("BUILDAH_ISOLATION", "chroot")]
        command += [word for each in _mounts(Path(folder)) for word in ("--volume", f"{each}:ro")]
        command += [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        command += ["--file", str(HOME / "deployments" / "docker" / "Dockerfile"), str(HOME)]
        _step(f"Building the image on {base}: a minute", command)
    if former and former != _output("podman", "images", "--quiet", "--no-trunc", IMAGE):
        subprocess.run(["podman", "rmi", former], check=False, capture_output=True)


def _own_base() -> str:
    if subprocess.run(["podman", "image", "exists", _BASE], check=False).returncode == 0:
        return _BASE
    codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
    with tempfile.TemporaryDirectory(prefix="order-saga-base-") as folder:
        archive = str(Path(folder, "base.tar"))
        command = [
            "mmdebstrap",
            "--variant=minbase",
            "--include=ca-certificates,netbase,python3,tzdata,usr-is-merged",
        ]
        command += ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in _DOCUMENTATION]
        command += [f"--customize-hook={HOME / 'tests' / 'image' / 'base.sh'}", codename, archive]
        environment = {**os.environ, "PIP": str(Path(pip.__file__).parent)}
        _step(f"Making a base of Debian {codename}: a minute, once", command, environment)
        _step("Importing it", ["podman", "import", "--quiet", archive, _BASE])
    return _BASE


def _mounts(folder: Path) -> list[str]:
    """Returns what lets pip in the build reach its index as pip here does. Becomes no part of the image."""
    found = _output(sys.executable, "-m", "pip", "config", "list")
    known = dict(line.split("=", 1) for line in found.splitlines() if "=" in line)
    settings = {name.rpartition(".")[2]: value.strip("'\"") for name, value in known.items()}
    config = configparser.ConfigParser(interpolation=None)
    config["global"] = {name: value for name, value in settings.items() if name in _PASSED_ON}
    if settings.get("extra-index-url", "").startswith("file:"):
        del config["global"]["extra-index-url"]
    mounts = []
    certificates = settings.get("cert") or ssl.get_default_verify_paths().cafile
    if certificates and Path(certificates).is_file():
        config["global"]["cert"] = _CERTIFICATES
        mounts.append(f"{Path(certificates).resolve()}:{_CERTIFICATES}")
    file = folder / "pip.conf"
    with file.open("w") as opened:
        config.write(opened)
    return [*mounts, f"{file}:/etc/pip.conf"]


def _step(what: str, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    print(f"{what} ...", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        done = subprocess.run(command, check=False, stdout=output, stderr=output, env=environment)
        if done.returncode:
            output.seek(0)
            sys.exit(f"{output.read()[-8_000:]}\n{command[0]} failed ({done.returncode})")
    print(f"  {time.monotonic() - began:.0f} s", flush=True)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
