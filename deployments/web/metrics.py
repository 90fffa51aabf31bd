"""Serves `GET /metrics` of the web app to Prometheus. Requires `METRICS_TOKEN`, because the app may be on
the internet."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from deployments.web.problems import ProblemError
from shop.monitoring.exposition.endpoint import PATH, Exposition

router = APIRouter()


@router.get(PATH, include_in_schema=False)
def read_metrics(request: Request) -> Response:
    """Runs in a thread, because it may wait for the database."""
    metrics: Exposition = request.app.state.metrics
    if metrics.token is None:
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED, "METRICS_TOKEN is not set here", headers={"WWW-Authenticate": "Bearer"}
        )
    if not metrics.allows(request.headers.get("Authorization")):
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED, "the token is missing or wrong", headers={"WWW-Authenticate": "Bearer"}
        )
    body, content_type = metrics.answer(request.headers.get("Accept"))
    return Response(body, media_type=content_type, headers={"Cache-Control": "no-store"})
