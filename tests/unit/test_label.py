"""Labels, read back by a PDF reader that is not ours; and files that are there wholly or not at all."""

from __future__ import annotations

import io
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pypdf import PageObject, PdfReader

from shop.files import write_atomic
from shop.shipping import pdf
from shop.shipping.label import Parcel, label_path, render_label, write_label

relaxed = hypothesis_settings(deadline=None)  # a busy machine is not a failure
PARCEL = Parcel(
    order_id="ORDER-1001",
    tracking_number="CA473124829US",
    carrier="Embedded Carrier",
    service="Standard",
    sender=("The Shop", "1 Warehouse Way, Anytown CA 90210, US"),
    recipient=("John Doe", "123 Main St", "Anytown CA 90210", "US"),
    pieces=3,
)
HOSTILE_IDS = [
    "../../etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "a\x00b",
    "x" * 5000,
    "-rf",
    ".hidden",
    "заказ",
    "a b",
    "CON",
    "a\nb",
    "~",
    "%2e",
]


def page(label: bytes) -> PageObject:
    reader = PdfReader(io.BytesIO(label), strict=True)
    assert len(reader.pages) == 1
    return reader.pages[0]


def read(label: bytes) -> str:
    return page(label).extract_text()


def of(*recipient: str) -> str:
    return read(render_label(replace(PARCEL, recipient=recipient)))


class TestLabel:
    def test_says_what_the_parcel_is(self) -> None:
        lines = read(render_label(PARCEL)).splitlines()
        for line in (*PARCEL.sender, *PARCEL.recipient, "CA473124829US", "Embedded Carrier - Standard", "Order: ORDER-1001", "Pieces: 3"):
            assert line in lines
        assert lines[0] == "FROM"
        assert lines.index("SHIP TO") + 1 == lines.index("John Doe")
        assert lines.index("TRACKING NUMBER") + 1 == lines.index("CA473124829US")

    def test_is_one_page_of_four_by_six_inches(self) -> None:
        box = page(render_label(PARCEL)).mediabox
        assert (float(box.width) / 72, float(box.height) / 72) == (4, 6)

    def test_is_pdf_1_4_with_base_14_fonts(self) -> None:
        label = render_label(PARCEL)
        assert label.startswith(b"%PDF-1.4\n")
        assert label.endswith(b"%%EOF\n")
        fonts = page(label)["/Resources"]["/Font"]  # type: ignore[index]
        assert {fonts[name]["/BaseFont"] for name in fonts} == {"/Helvetica", "/Helvetica-Bold"}

    def test_every_offset_is_right(self) -> None:
        label = render_label(PARCEL)
        start = int(label.rsplit(b"startxref\n", 1)[1].split()[0])
        assert label[start : start + 4] == b"xref"
        offsets = [int(match[1]) for match in re.finditer(rb"(\d{10}) 00000 n \n", label[start:])]
        assert len(offsets) == 6
        for number, offset in enumerate(offsets, start=1):
            assert label[offset:].startswith(b"%d 0 obj" % number)
        declared = re.search(rb"/Length (\d+)", label)
        content = re.search(rb"stream\n(.*)\nendstream", label, re.DOTALL)
        assert declared
        assert content
        assert int(declared[1]) == len(content[1])

    def test_is_the_same_for_the_same_parcel(self) -> None:
        assert render_label(PARCEL) == render_label(replace(PARCEL))

    def test_brackets_and_backslashes_are_text(self) -> None:
        hostile = r"(a\) Tj ET (b)) \( \\ )"
        assert hostile in of(hostile)

    def test_latin_letters_stay(self) -> None:
        assert "Jürgen Groß, Señor Ångström 5 €" in of("Jürgen Groß, Señor Ångström 5 €")
        assert "Jürgen" in of("Ju\u0308rgen")

    @pytest.mark.parametrize(
        ("given_name", "printed"),
        [
            ("Владимир Путятин", "Vladimir Putiatin"),
            ("Łukasz Wójcik", "Lukasz Wójcik"),
            ("北京市", "Bei Jing Shi"),
            ("Αθήνα", "Athena"),
            ("ｆｕｌｌ", "full"),
            ("😀", "?"),
        ],
    )
    def test_other_scripts_come_out_readable(self, given_name: str, printed: str) -> None:
        assert printed in of(given_name)

    def test_no_text_adds_a_line(self) -> None:
        assert "John Doe 1 Other Street" in of("John Doe\r\n\n1 Other\u2028Street")

    def test_long_addresses_are_shrunk_and_wrapped_not_cut(self) -> None:
        street = " ".join(f"word{i}" for i in range(40))
        printed = of("John Doe", street, "Town").split()
        assert [word for word in street.split() if word not in printed] == []

    def test_endless_addresses_end_in_dots(self) -> None:
        assert "..." in of(*["a line of an address that has no end and no sense " * 4] * 100)

    def test_nothing_leaves_the_page(self) -> None:
        label = render_label(replace(PARCEL, order_id="W" * 200, recipient=("W" * 150, "@" * 150), tracking_number="W" * 60))
        places: list[tuple[float, float]] = []
        page(label).extract_text(visitor_text=lambda text, _cm, tm, _font, size: places.append((tm[4], tm[5])) if text.strip() else None)
        assert places
        assert all(18 <= x < 288 and 10 <= y < 432 for x, y in places)

    def test_an_order_without_a_recipient_has_a_label_too(self) -> None:
        assert "CA473124829US" in of()

    @relaxed
    @given(st.text(), st.lists(st.text(), max_size=6), st.integers(1, 10**9))
    def test_any_text_is_printable(self, order_id: str, recipient: list[str], pieces: int) -> None:
        label = render_label(replace(PARCEL, order_id=order_id, recipient=tuple(recipient), pieces=pieces))
        text = read(label)
        assert "CA473124829US" in text
        assert f"Pieces: {pieces}" in text

    @relaxed
    @given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=300), st.integers(6, 20))
    def test_wrapping_loses_nothing_and_fits(self, word: str, size: int) -> None:
        lines = pdf.wrap(word.encode(), size, 252)
        assert b"".join(lines) == word.encode()
        assert all(pdf.width(line, size) <= 252 for line in lines)


class TestPath:
    def test_of_a_plain_id(self, tmp_path: Path) -> None:
        assert label_path(tmp_path, "ORDER-1001") == tmp_path / "ORDER-1001.pdf"

    @pytest.mark.parametrize("order_id", HOSTILE_IDS)
    def test_never_leaves_the_folder(self, tmp_path: Path, order_id: str) -> None:
        path = label_path(tmp_path, order_id)
        assert path.resolve().parent == tmp_path.resolve()
        write_label(path, render_label(replace(PARCEL, order_id=order_id)))
        assert [file.name for file in tmp_path.iterdir()] == [path.name]

    def test_is_another_for_another_order(self, tmp_path: Path) -> None:
        assert len({label_path(tmp_path, order_id) for order_id in HOSTILE_IDS}) == len(HOSTILE_IDS)


class TestFiles:
    @pytest.mark.parametrize("durable", [False, True])
    def test_makes_folders_and_replaces(self, tmp_path: Path, durable: bool) -> None:
        path = tmp_path / "a" / "b" / "file.pdf"
        write_atomic(path, b"one", durable=durable)
        write_atomic(path, b"two", durable=durable)
        assert path.read_bytes() == b"two"
        assert list(path.parent.iterdir()) == [path]

    def test_a_failure_leaves_the_old_file_and_nothing_else(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "file.pdf"
        write_atomic(path, b"old")

        def full(self: Path, target: Path) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="disk full"):
            write_atomic(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_many_writers_and_a_reader(self, tmp_path: Path) -> None:
        path = tmp_path / "file.pdf"
        contents = {bytes([letter]) * 100_000 for letter in b"abcd"}
        write_atomic(path, b"a" * 100_000)

        def write(content: bytes) -> None:
            for _ in range(50):
                write_atomic(path, content)

        writers = [threading.Thread(target=write, args=(content,)) for content in contents]
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            assert path.read_bytes() in contents
        assert list(tmp_path.iterdir()) == [path]
