"""The sample orders for a shop with an inventory service and an external carrier."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.samples import Expected, Sample


def all_outside(samples: Sequence[Sample]) -> list[Sample]:
    """Adapts the expectations: the service ships the pieces before a label is requested. So for an order
    that the carrier refuses, `return_shipment` puts them back first, and no reservation is left to
    release. (The embedded carrier refuses earlier.)"""
    return [
        sample.model_copy(update={"expect": [_put_back(expected) for expected in sample.expect]})
        for sample in samples
    ]


def _put_back(expected: Expected) -> Expected:
    if expected.failing_step != "fulfill_order":
        return expected
    others = [undone for undone in expected.undone if undone != "release_inventory"]
    return expected.model_copy(update={"undone": ["return_shipment", *others]})
