"""The sample orders of a shop whose stock is at an inventory service and whose carrier is outside, too."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.samples import Expected, Sample


def all_outside(samples: Sequence[Sample]) -> list[Sample]:
    """The service gives up the pieces before a label is asked for. So an order that the carrier refuses has them put back by
    `return_shipment`, first of all, and nothing is reserved any more that could be released. (The embedded carrier refuses earlier.)"""
    return [sample.model_copy(update={"expect": [_put_back(expected) for expected in sample.expect]}) for sample in samples]


def _put_back(expected: Expected) -> Expected:
    if expected.failing_step != "fulfill_order":
        return expected
    others = [undone for undone in expected.undone if undone != "release_inventory"]
    return expected.model_copy(update={"undone": ["return_shipment", *others]})
