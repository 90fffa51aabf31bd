"""Labels in ZPL, printed by a renderer of that language that is not ours, and scanned."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
import zxingcpp
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shop.shipping.labels.content import Parcel
from shop.shipping.labels.zpl import render_zpl
from tests.node import node
from tests.unit.test_label import PARCEL, SCRIPTS, relaxed

_DOTS_PER_MM = {203: 8, 300: 12}
_FIELD = re.compile(r"\^FT(\d+),(\d+)\^A0N,(\d+),(\d+)\^FH\^FD([^^~]*)\^FS")


def printed(parcels: Sequence[Parcel], dots_per_inch: int = 203) -> list[Image.Image]:
    """As a label printer prints them."""
    jobs = [
        {"zpl": render_zpl(each, dots_per_inch).decode("ascii"), "dots": _DOTS_PER_MM[dots_per_inch]}
        for each in parcels
    ]
    return [
        Image.open(io.BytesIO(base64.b64decode(image))).convert("L") for image in node.run("print.mjs", jobs)
    ]


def scanned(image: Image.Image) -> dict[str, str]:
    """Kind of code to what it says."""
    return {str(code.format): code.text for code in zxingcpp.read_barcodes(image)}


def texts(parcel: Parcel) -> list[str]:
    """The lines of text, as the printer decodes them."""
    fields = [found[5] for found in _FIELD.finditer(render_zpl(parcel).decode("ascii"))]
    return [
        re.sub(rb"_([0-9A-F]{2})", lambda byte: bytes([int(byte[1], 16)]), field.encode("ascii")).decode()
        for field in fields
    ]


def ink(image: Image.Image, left: float, top: float, right: float, bottom: float) -> int:
    """Dark dots in a part of the label, in inches from the upper left corner."""
    k = image.width / 4
    part = image.crop((int(left * k), int(top * k), int(right * k), int(bottom * k)))
    return sum(part.histogram()[:128])


def test_says_what_the_parcel_is() -> None:
    assert texts(PARCEL) == [
        *("FROM", *PARCEL.sender),
        *("SHIP TO", *PARCEL.recipient),
        "Embedded Carrier - Standard",
        *("TRACKING NUMBER", "CA473124829US"),
        *("Order: ORDER-1001", "Pieces: 3"),
    ]


@pytest.mark.parametrize("dots_per_inch", [203, 300])
def test_a_scanner_reads_both_codes(dots_per_inch: int) -> None:
    numbers = ["CA473124829US", "9400100109361115909067", "1Z>0^A~B_C\\&<"]
    images = printed([replace(PARCEL, tracking_number=number) for number in numbers], dots_per_inch)
    for number, image in zip(numbers, images, strict=True):
        assert image.width == pytest.approx(4 * dots_per_inch, rel=0.02)
        assert scanned(image) == {"Code 128": number, "QR Code": number}


def test_a_number_too_long_for_bars_is_in_the_qr_code() -> None:
    (image,) = printed([replace(PARCEL, tracking_number="A" * 90)])
    assert scanned(image) == {"QR Code": "A" * 90}


def test_nothing_leaves_its_box() -> None:
    """The printer's font is narrower than the layout assumes."""
    hostile = ("W" * 300, "@" * 300, "M%" * 150, "漢" * 300)
    (image,) = printed(
        [replace(PARCEL, order_id="W" * 200, recipient=hostile, sender=hostile, carrier="W" * 300)]
    )
    assert scanned(image) == {"Code 128": "CA473124829US", "QR Code": "CA473124829US"}
    assert ink(image, 0, 0, 0.22, 6) == ink(image, 3.79, 0, 4, 6) == 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_the_printer_s_font_lacks_is_transliterated(script: str) -> None:
    text, country, plain = SCRIPTS[script]
    lines = " ".join(texts(replace(PARCEL, recipient=(text,), country=country)))
    assert plain in lines
    assert lines.encode("cp1252")


def test_latin_letters_stay() -> None:
    assert "Jürgen Groß, 5 €" in texts(replace(PARCEL, recipient=("Jürgen Groß, 5 €",)))


def test_it_is_the_same_for_the_same_parcel() -> None:
    assert render_zpl(replace(PARCEL)) == render_zpl(PARCEL)


@relaxed
@given(st.text(), st.lists(st.text(), max_size=6), st.text(max_size=40), st.sampled_from([203, 300]))
def test_no_text_is_a_command(order_id: str, recipient: list[str], number: str, dots_per_inch: int) -> None:
    parcel = replace(PARCEL, order_id=order_id, recipient=tuple(recipient), tracking_number=number)
    made = render_zpl(parcel, dots_per_inch).decode("ascii")
    commands = set(re.findall(r"[\^~](?:A0|[A-Z]{2})", made))
    assert commands <= {*"^XA ^CI ^PW ^LL ^LH ^FO ^FT ^GB ^A0 ^FH ^FD ^FS ^BQ ^BY ^BC ^PQ ^XZ".split()}
    assert made.count("^") == len(re.findall(r"\^(?:A0|[A-Z]{2})", made))
    assert "~" not in made
    assert made.count("^XA") == made.count("^XZ") == 1


@pytest.mark.parametrize(
    "hostile", ["^XZ^XA^FDgotcha", "~JA", "_5EXZ", "\\&", "^FS^FO0,0^GB800,1200,800^FS", "a\r\n^XZ\x00"]
)
def test_hostile_text_is_printed(hostile: str) -> None:
    expected = " ".join(hostile.replace("\x00", "").split())
    assert expected in " ".join(texts(replace(PARCEL, recipient=(hostile,))))
