"""Runs the local language model as a process that all workers share."""

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
        """The value for `DSPY_API_BASE`."""
        return f"{self.url}/v1"
