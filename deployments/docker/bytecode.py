"""Compiles the modules that the roles of the image import, with what they import in turn."""

from __future__ import annotations

import importlib
import pkgutil
import py_compile
import sys
from contextlib import suppress
from pathlib import Path

_ROLES = (
    "deployments.web.app",
    "deployments.worker",
    "prefect.cli.server",
    "prefect.cli.worker",
    "prefect.engine",
    "prefect.server.api.server",
    "prefect.server.services.base",
    "shop.payments.sandbox.app",
)
_PACKAGES = ("deployments.cli", "deployments.setup", "flows", "tasks", "shop")
_OPTIONAL = (
    "easypost",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "prefect_redis.messaging",
    "prefect_redis.ordering",
    "stripe",
)
"""Libraries of extras."""


def main() -> None:
    """Imports the roles, and compiles every module that this has loaded. The compiled files do not depend on
    the times of the sources, which a copy into another image may change."""
    for name in _ROLES:
        importlib.import_module(name)
    for package in _PACKAGES:
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                with suppress(ImportError):  # of an extra that this image does not have
                    importlib.import_module(module.name)
    for name in _OPTIONAL:
        with suppress(ImportError):
            importlib.import_module(name)
    sources = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    here = str(Path(__file__).resolve())
    for source in sorted(each for each in sources if each.endswith(".py") and each != here):
        py_compile.compile(
            source, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )


if __name__ == "__main__":
    main()
