"""The language model of this machine as a process of its own, shared by all workers."""

from __future__ import annotations

from deployments.local.served import Served


class LocalModel(Served):
    """`python -m shop.confirmation.local_model`."""

    name, file, usual_port = "local language model", "local-model", 8440

    @property
    def _program(self) -> tuple[str, ...]:
        return ("shop.confirmation.local_model",)

    @property
    def api_base(self) -> str:
        """What `DSPY_API_BASE` has to be."""
        return f"{self.url}/v1"
