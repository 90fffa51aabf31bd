"""Parts of `make check` that need no server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from deployments.check import parts


class _Server:
    """A Prefect server with many deployments, of which it lists at most 200 at once."""

    async def read_deployments(self, *, limit: int, offset: int) -> list[Any]:
        assert limit <= 200
        return [SimpleNamespace(name=f"deployment-{number}") for number in range(450)][
            offset : offset + limit
        ]


async def test_all_deployments_are_read() -> None:
    assert len(await parts._deployed(_Server())) == 450  # type: ignore[arg-type]
