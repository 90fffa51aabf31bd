"""Labels, scanned by zbar: another reader than the one in `test_label.py`, with other strengths."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from PIL import Image

from shop.shipping.labels.pdf import render_pdf
from tests.node import node
from tests.unit.test_label import PARCEL, SCRIPTS, shown

NUMBERS = ["CA473124829US", "HZ999999995US", "9400100109361115909067", "1Z999AA10123456784"]


def scanned(*images: Image.Image) -> list[dict[str, str]]:
    """Kind of code to what it says, for each picture."""
    pictures = [
        {"width": i.width, "height": i.height, "dots": base64.b64encode(i.convert("L").tobytes()).decode()}
        for i in images
    ]
    return [dict(each) for each in node.run("scan.mjs", pictures)]


@pytest.mark.parametrize("angle", [0, 90, 180])
def test_zbar_reads_both_codes(angle: int) -> None:
    images = [shown(render_pdf(replace(PARCEL, tracking_number=number)), 300) for number in NUMBERS]
    turned = [image.rotate(angle, expand=True, fillcolor=255) for image in images]
    assert scanned(*turned) == [{"ZBAR_CODE128": number, "ZBAR_QRCODE": number} for number in NUMBERS]


def test_at_a_label_printers_resolution() -> None:
    assert scanned(shown(render_pdf(PARCEL), 203)) == [
        {"ZBAR_CODE128": PARCEL.tracking_number, "ZBAR_QRCODE": PARCEL.tracking_number}
    ]


def test_beside_any_script() -> None:
    labels = [
        render_pdf(replace(PARCEL, recipient=(text,), country=country))
        for text, country, _ in SCRIPTS.values()
    ]
    for codes in scanned(*(shown(label, 300) for label in labels)):
        assert codes == {"ZBAR_CODE128": PARCEL.tracking_number, "ZBAR_QRCODE": PARCEL.tracking_number}


def test_an_empty_page_has_no_codes() -> None:
    assert scanned(Image.new("L", (400, 600), 255)) == [{}]
