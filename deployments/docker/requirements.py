"""Prints what the package needs with the given extras, in the locked versions and with their hashes:
`python deployments/docker/requirements.py stripe,otel`, in the project's folder.

pip resolves without downloading, limited to the locked versions; what it selects is then looked up in the
lock.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_LOCK = Path("locks", "requirements.txt")
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==[^\n]*(?:\n    --hash=[^\n]*)*", re.MULTILINE)
_HASHES = re.compile(r"(?: \\)?\n    --hash=\S+")


def main() -> None:
    """Prints the requirements."""
    extras = sys.argv[1]
    entries = {_canonical(entry[1]): entry[0] for entry in _ENTRY.finditer(_LOCK.read_text())}
    names = _selected(f".[{extras}]" if extras else ".", [_HASHES.sub("", each) for each in entries.values()])
    if missing := names - set(entries):
        sys.exit(f"{_LOCK} does not have {', '.join(sorted(missing))}: run make lock")
    print("\n".join(entries[name] for name in sorted(names)))


def _selected(package: str, versions: list[str]) -> set[str]:
    """Returns the names of what pip would install for the package."""
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder, "versions.txt"), Path(folder, "report.json")
        constraints.write_text("\n".join(versions))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--no-build-isolation", "--constraint", str(constraints), "--report", str(report)]
        subprocess.run([*command, package], check=True)
        found = json.loads(report.read_text())["install"]
    return {_canonical(each["metadata"]["name"]) for each in found if not each.get("is_direct")}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
