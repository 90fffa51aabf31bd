"""A network of its own for the fleet: each container is a host in a network namespace, with a name that the
others resolve, as in a network of Docker's."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

_DNS = "dns"
_NAMESPACE, _BRIDGE = re.compile(r"^fleet(\d+)-\S+"), re.compile(r"^fleet(\d+)$")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


def _runs(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def _sweep() -> None:
    """Ends what a killed test has left."""
    left = [found for line in run("ip", "netns", "list").splitlines() if (found := _NAMESPACE.match(line))]
    for found in left:
        if _runs(int(found[1])):
            continue
        for pid in run("ip", "netns", "pids", found[0]).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        run("ip", "netns", "delete", found[0])
        shutil.rmtree(Path("/etc/netns") / found[0], ignore_errors=True)
    for line in run("ip", "-oneline", "link", "show", "type", "bridge").splitlines():
        name = line.split(": ")[1]
        if (found := _BRIDGE.match(name)) and not _runs(int(found[1])):
            run("ip", "link", "delete", name)


class Network:
    """A bridge, the hosts on it, and a name server. Needs root."""

    def __init__(self, folder: Path) -> None:
        number = os.getpid() % 65_536
        self.name = f"fleet{os.getpid()}"
        self._folder = folder
        self._prefix = f"10.{200 + number // 256 % 50}.{number % 256}"
        self._hosts: dict[str, str] = {}
        """Host to its interface on the bridge."""
        self._named: Path = folder / "hosts"
        self._bridge = self.name
        self._dns: subprocess.Popen[bytes] | None = None

    @property
    def gateway(self) -> str:
        """The address of the machine itself, from which the test calls the hosts."""
        return f"{self._prefix}.1"

    def open(self) -> None:
        _sweep()
        run("ip", "link", "add", self._bridge, "type", "bridge")
        run("ip", "address", "add", f"{self.gateway}/24", "dev", self._bridge)
        run("ip", "link", "set", self._bridge, "up")
        self._named.touch()
        server = self.add(_DNS, _DNS)
        self._dns = subprocess.Popen(
            [
                *("ip", "netns", "exec", self.namespace(_DNS), "dnsmasq"),
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-hosts",
                "--no-resolv",
                "--user=root",
                "--pid-file=",
                f"--listen-address={server}",
                f"--addn-hosts={self._named}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=(self._folder / "dns.log").open("wb"),
        )

    @property
    def next_address(self) -> str:
        """The address of the host that is added next."""
        return f"{self._prefix}.{len(self._hosts) + 2}"

    def add(self, host: str, *names: str) -> str:
        """Adds a host, which the others find by these names. Returns its address."""
        address, there, here = self.next_address, self.namespace(host), f"{self._bridge}n{len(self._hosts)}"
        self._hosts[host] = here
        run("ip", "netns", "add", there)
        run("ip", "link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", there)
        run("ip", "link", "set", here, "master", self._bridge, "up")
        run("ip", "-n", there, "address", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", there, "link", "set", "eth0", "up")
        run("ip", "-n", there, "link", "set", "lo", "up")
        resolver = Path("/etc/netns") / there / "resolv.conf"  # `ip netns exec` puts it in place of /etc's
        resolver.parent.mkdir(parents=True)
        resolver.write_text(f"nameserver {self._prefix}.2\n", encoding="ascii")
        with self._named.open("a", encoding="ascii") as file:
            file.write(f"{address} {' '.join(names)}\n")
        if self._dns:
            self._dns.send_signal(signal.SIGHUP)
        return address

    def namespace(self, host: str) -> str:
        return f"{self.name}-{host}"

    def cut(self, host: str) -> None:
        """Drops all that goes to and from the host; its connections stay open, and silent."""
        run("ip", "link", "set", self._hosts[host], "down")

    def heal(self, host: str) -> None:
        run("ip", "link", "set", self._hosts[host], "up")

    def close(self) -> None:
        if self._dns:
            self._dns.kill()
            self._dns.wait()
        for host in self._hosts:
            with suppress(AssertionError):
                run("ip", "netns", "delete", self.namespace(host))
            shutil.rmtree(Path("/etc/netns") / self.namespace(host), ignore_errors=True)
        with suppress(AssertionError):
            run("ip", "link", "delete", self._bridge)
        with suppress(OSError):
            Path("/etc/netns").rmdir()
