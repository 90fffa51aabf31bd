"""Containers of the image, as strict as it promises to work: read-only, as its user, without capabilities."""

from __future__ import annotations

import json
import resource
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import httpx

from tests.image.build import IMAGE
from tests.waiting import TIMEOUT_FACTOR

STOP_SECONDS = 30
"""What every role has after SIGTERM, before it is killed."""
_MOST = 4_096
"""Limits of descriptors and processes. Inside some containers, no higher ones may be set."""


def podman(*arguments: str, seconds: float = 60) -> str:
    """What podman prints. Raises CalledProcessError, with its errors in the output of the test."""
    done = subprocess.run(
        ["podman", *arguments], capture_output=True, text=True, timeout=TIMEOUT_FACTOR * seconds, check=False
    )
    if done.returncode:
        print(done.stdout[-4_000:], done.stderr[-8_000:])
        done.check_returncode()
    return done.stdout.strip()


def options(environment: Mapping[str, str], *mounts: str) -> list[str]:
    """The options of `podman run` for every container here."""
    strict = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--user", "10001:10001"]
    strict += ["--security-opt", "no-new-privileges", "--network", "host"]
    here = ["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--log-driver", "k8s-file"]
    # Without systemd, podman cannot run health checks on a timer: the tests run them.
    here += ["--no-healthcheck"]
    for name, limit in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        hard = resource.getrlimit(limit)[1]
        most = _MOST if hard == resource.RLIM_INFINITY else min(_MOST, hard)
        here += ["--ulimit", f"{name}={most}:{most}"]
    given = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
    return [*here, *strict, *given, *(word for mount in mounts for word in ("--volume", f"{mount}:ro"))]


class Role:
    """A container with one role, until it is stopped."""

    def __init__(self, name: str, *command: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self.url = ""
        """Where it answers, if it is a worker."""
        print(f"Starting {name}: {' '.join(command)}", flush=True)
        self.id = podman("run", "--detach", *options(environment), IMAGE, *command)

    def running(self) -> bool:
        return podman("inspect", "--format", "{{.State.Running}}", self.id) == "true"

    def logs(self) -> str:
        done = subprocess.run(
            ["podman", "logs", self.id], capture_output=True, text=True, check=False, errors="replace"
        )
        return done.stdout + done.stderr

    def healthy(self, *arguments: str) -> bool:
        """What the image's HEALTHCHECK says."""
        done = subprocess.run(
            ["podman", "exec", self.id, "order-saga-health", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode == 0

    def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Fails with the role's log when the condition does not come true in time, or the role ends."""
        end = time.monotonic() + TIMEOUT_FACTOR * seconds
        while not condition():
            assert self.running(), f"{self.name} ended before {what}:\n{self.logs()[-8_000:]}"
            assert time.monotonic() < end, f"waited in vain for {what}:\n{self.logs()[-8_000:]}"
            time.sleep(0.2)

    def until_ready(self, seconds: float = 60) -> None:
        began = time.monotonic()
        self.until(self.healthy, seconds, f"{self.name} to be ready")
        print(f"  {self.name} is ready after {time.monotonic() - began:.1f} s", flush=True)

    def stop(self) -> tuple[float, int]:
        """SIGTERM. Returns how long it took to end, and the exit code; 137: it was killed after the limit."""
        began = time.monotonic()
        podman("stop", "--time", str(STOP_SECONDS), self.id)
        took = time.monotonic() - began
        return took, int(podman("inspect", "--format", "{{.State.ExitCode}}", self.id))

    def remove(self) -> None:
        with suppress(subprocess.SubprocessError):
            podman("rm", "--force", "--volumes", "--time", "0", self.id)


def job(*command: str, environment: Mapping[str, str], mounts: tuple[str, ...] = ()) -> str:
    """Runs a command in a container to its end; returns what it prints."""
    print(f"Running {' '.join(command)}", flush=True)
    return podman("run", "--rm", *options(environment, *mounts), IMAGE, *command, seconds=180)


def image() -> dict[str, Any]:
    """What the image says of itself."""
    (found,) = json.loads(podman("image", "inspect", IMAGE))
    return dict(found)


def get(url: str) -> tuple[int, Any]:
    """The status and the JSON of the answer. 0: no answer."""
    try:
        answer = httpx.get(url, timeout=10, trust_env=False)
    except httpx.HTTPError as error:
        return 0, str(error)
    return answer.status_code, answer.json()
