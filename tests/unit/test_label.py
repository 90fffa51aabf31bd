"""Labels, read back by a PDF reader that is not ours, and shown and scanned as a printer and a carrier would;
and files that are there wholly or not at all."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pypdfium2
import pytest
import zxingcpp
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from pypdf import PageObject, PdfReader

from shop.orders.order import EXAMPLE, Order
from shop.runtime.files import write_atomic
from shop.shipping.labels.content import Parcel, parcel_of
from shop.shipping.labels.lettering import BOLD, PLAIN, set_line, transliterated, wrapped
from shop.shipping.labels.pdf import render_pdf
from shop.shipping.labels.stored import label_path, write_label

relaxed = hypothesis_settings(deadline=None, max_examples=40)  # a busy machine is not a failure
PARCEL = Parcel(
    order_id="ORDER-1001",
    tracking_number="CA473124829US",
    carrier="Embedded Carrier",
    service="Standard",
    sender=("The Shop", "1 Warehouse Way, Anytown CA 90210, US"),
    recipient=("John Doe", "123 Main St", "Anytown CA 90210", "US"),
    pieces=3,
    country="US",
)
SCRIPTS = {
    "Arabic": ("محمد عبد الله، شارع الملك فهد (١٢)", "SA", "mhmd"),
    "Armenian": ("Արամ Խաչատրյան, Երևան", "AM", "Aram"),
    "Bengali": ("রবীন্দ্রনাথ ঠাকুর, কলকাতা", "IN", "rbindrnath"),
    "Chinese": ("王小明 北京市朝阳区建国路88号", "CN", "BeiJing"),
    "Cyrillic": ("Владимир Путятин, Москва", "RU", "Vladimir Putyatin"),
    "Devanagari": ("राजेश कुमार शर्मा, नई दिल्ली", "IN", "rajes kumar"),
    "Ethiopic": ("አበበ ቢቂላ አዲስ አበባ", "ET", "'adis"),
    "Georgian": ("შოთა რუსთაველი, თბილისი", "GE", "shota rustaveli"),
    "Greek": ("Αλέξανδρος Ὀδυσσεύς, Αθήνα", "GR", "Alexandros"),
    "Hebrew": ("יוסי כהן, רחוב דיזנגוף 99", "IL", "yvsy"),
    "Japanese": ("山田太郎 東京都グランビル", "JP", "guranbiru"),
    "Khmer": ("សុខ សុភាព ភ្នំពេញ", "KH", "sokh"),
    "Korean": ("김철수 서울특별시 강남구", "KR", "GimCheolSu"),
    "Latin": ("Łukasz Wójcik, Đặng Thị Hoa, Ağrı", "PL", "Lukasz Wójcik, Dang Thi Hoa"),
    "Tamil": ("முருகன் சென்னை", "IN", "murukn cennai"),
    "Thai": ("สมชาย ใจดี ถนนสุขุมวิท", "TH", "smchay"),
}
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
    return read(render_pdf(replace(PARCEL, recipient=recipient)))


@lru_cache(maxsize=64)
def shown(label: bytes, dots_per_inch: int = 203) -> Image.Image:
    """As a label printer prints it."""
    image: Image.Image = (
        pypdfium2.PdfDocument(label)[0].render(scale=dots_per_inch / 72).to_pil().convert("L")
    )
    return image


def scanned(image: Image.Image) -> dict[str, str]:
    """Kind of code to what it says."""
    return {str(code.format): code.text for code in zxingcpp.read_barcodes(image)}


def ink(label: bytes, left: float, low: float, right: float, high: float) -> int:
    """Dark dots in a part of the page, in points from the lower left corner."""
    image = shown(label)
    k = image.width / 288
    part = image.crop((int(left * k), int((432 - high) * k), int(right * k), int((432 - low) * k)))
    return sum(part.histogram()[:128])


class TestLabel:
    def test_says_what_the_parcel_is(self) -> None:
        lines = [line.strip() for line in read(render_pdf(PARCEL)).splitlines()]
        for line in (
            *PARCEL.sender,
            *PARCEL.recipient,
            "CA473124829US",
            "Embedded Carrier - Standard",
            "Order: ORDER-1001",
            "Pieces: 3",
        ):
            assert line in lines
        assert lines.index("FROM") + 1 == lines.index("The Shop")
        assert lines.index("SHIP TO") + 1 == lines.index("John Doe")

    def test_is_one_page_of_four_by_six_inches(self) -> None:
        box = page(render_pdf(PARCEL)).mediabox
        assert (float(box.width) / 72, float(box.height) / 72) == (4, 6)

    def test_is_the_same_for_the_same_parcel(self) -> None:
        hindi = replace(PARCEL, recipient=SCRIPTS["Devanagari"][:1])
        before = (render_pdf(PARCEL), render_pdf(hindi))
        for text, country, _ in SCRIPTS.values():
            render_pdf(replace(PARCEL, recipient=(text,), country=country))
        assert (render_pdf(replace(PARCEL)), render_pdf(replace(hindi))) == before

    @pytest.mark.parametrize("dots_per_inch", [203, 300])
    @pytest.mark.parametrize("angle", [0, 90, 180])
    def test_a_scanner_reads_both_codes(self, dots_per_inch: int, angle: int) -> None:
        image = shown(render_pdf(PARCEL), dots_per_inch).rotate(angle, expand=True, fillcolor=255)
        assert scanned(image) == {"Code 128": "CA473124829US", "QR Code": "CA473124829US"}

    @pytest.mark.parametrize(
        "number", ["CA000000005US", "HZ999999995US", "9400100109361115909067", "1Z999AA10123456784", "A" * 24]
    )
    def test_whatever_the_number(self, number: str) -> None:
        image = shown(render_pdf(replace(PARCEL, tracking_number=number)), 300)
        assert scanned(image) == {"Code 128": number, "QR Code": number}

    def test_each_code_has_its_quiet_zone(self) -> None:
        label = render_pdf(PARCEL)
        assert ink(label, 0, 66, 20, 114) == 0
        assert ink(label, 268, 66, 288, 114) == 0

    def test_a_worn_label_can_still_be_read(self) -> None:
        """One code is enough."""
        for left, low, right, high in ((0, 60, 288, 118), (190, 325, 288, 410)):
            image = shown(render_pdf(PARCEL), 203).copy()
            k = image.width / 288
            image.paste(255, (int(left * k), int((432 - high) * k), int(right * k), int((432 - low) * k)))
            assert list(scanned(image).values()) == ["CA473124829US"]

    def test_brackets_and_backslashes_are_text(self) -> None:
        hostile = r"(a\) Tj ET (b)) \( \\ )"
        assert hostile in of(hostile)

    def test_latin_letters_stay(self) -> None:
        assert "Jürgen Groß, Señor Ångström 5 €" in of("Jürgen Groß, Señor Ångström 5 €")
        assert "Jürgen" in of("Ju\u0308rgen")

    @pytest.mark.parametrize("script", SCRIPTS)
    def test_every_script_is_written_and_transliterated(self, script: str) -> None:
        text, country, plain = SCRIPTS[script]
        line = set_line(text, BOLD, country)
        assert line.glyphs
        assert all(glyph.number for glyph in line.glyphs), "no glyph is an empty box"
        assert len(line.glyphs) > len(text.replace(" ", "")) // 2, "nothing was left out"
        label = render_pdf(replace(PARCEL, recipient=(text,), country=country))
        assert plain in read(label)
        assert (
            ink(label, 18, 170, 270, 308)
            > ink(render_pdf(replace(PARCEL, recipient=("",))), 18, 170, 270, 308) + 500
        )
        assert scanned(shown(label)) == {"Code 128": "CA473124829US", "QR Code": "CA473124829US"}

    def test_letters_join_as_their_script_wants_it(self) -> None:
        arabic, hindi = set_line("محمد", PLAIN), set_line("क्षि", PLAIN)
        assert arabic.glyphs
        assert hindi.glyphs
        alone = {glyph.number for letter in "محمد" for glyph in set_line(letter, PLAIN).glyphs or ()}
        assert not alone & {glyph.number for glyph in arabic.glyphs[1:]}, (
            "only the last letter looks as it does alone"
        )
        assert len(hindi.glyphs) < len("क्षि"), "consonants make one sign"

    def test_what_is_read_from_the_right_ends_at_the_right(self) -> None:
        assert set_line("שלום 12", PLAIN).from_right
        assert not set_line("ul. Żółta שלום", PLAIN).from_right
        hebrew = render_pdf(replace(PARCEL, recipient=("שלום",)))
        assert ink(hebrew, 240, 285, 271, 308) > 20
        assert ink(hebrew, 18, 297, 100, 308) == 0

    def test_numbers_and_brackets_keep_their_direction_within_it(self) -> None:
        digits, right = set_line("ב 12", PLAIN), set_line("ב (א)", PLAIN)
        one, two = (set_line(digit + "Ω", PLAIN).glyphs for digit in "12")
        assert digits.glyphs
        assert right.glyphs
        assert one
        assert two
        assert [glyph.number for glyph in digits.glyphs][:2] == [one[0].number, two[0].number], (
            "12, at the left of the letter"
        )
        assert right.glyphs[0].number == (set_line("(Ω", PLAIN).glyphs or ())[0].number, (
            "what opens at the right closes at the left"
        )

    def test_han_characters_are_written_as_in_the_country(self) -> None:
        assert set_line("直", PLAIN, "JP").glyphs != set_line("直", PLAIN, "CN").glyphs

    @pytest.mark.parametrize(
        ("text", "printed"),
        [
            ("ｆｕｌｌ", "full"),
            ("𒀀 Kraków", "? Kraków"),
            ("😀 Ann", "Ann"),
            ("北京", "BeiJing"),
            ("شارع الملك", "shar` almlk"),
            ("グーグル №5", "guguru No5"),
        ],
    )
    def test_what_no_font_has_is_transliterated(self, text: str, printed: str) -> None:
        assert transliterated(text) == printed

    def test_no_text_adds_a_line(self) -> None:
        assert "John Doe 1 Other Street" in of("John Doe\r\n\n1 Other\u2028Street")

    def test_long_addresses_are_shrunk_and_wrapped_not_cut(self) -> None:
        street = " ".join(f"word{i}" for i in range(40))
        printed = of("John Doe", street, "Town").split()
        assert [word for word in street.split() if word not in printed] == []

    def test_endless_addresses_end_in_dots(self) -> None:
        assert "..." in of(*["a line of an address that has no end and no sense " * 4] * 100)

    def test_nothing_leaves_its_box(self) -> None:
        hostile = ("W" * 300, "@" * 300, "ب" * 300, "漢" * 300, "a\u0301" * 200 + "\u0300" * 80, "ﷺ" * 100)
        label = render_pdf(
            replace(PARCEL, order_id="W" * 200, recipient=hostile, sender=hostile, carrier="W" * 300)
        )
        assert scanned(shown(label)) == {"Code 128": "CA473124829US", "QR Code": "CA473124829US"}
        assert ink(label, 0, 0, 16, 432) == ink(label, 273, 0, 288, 432) == 0
        assert "Pieces: 3" in read(label)

    def test_the_second_line_of_the_address_is_on_it(self) -> None:
        order = Order.model_validate(
            {**EXAMPLE, "shipping_info": {**EXAMPLE["shipping_info"], "address2": "Apt 5, 3rd floor"}}
        )
        parcel = parcel_of(
            order,
            tracking_number="CA473124829US",
            carrier="Carrier",
            service="Standard",
            sender=("The Shop",),
        )
        assert parcel.recipient == ("John Doe", "123 Main St", "Apt 5, 3rd floor", "Anytown CA 90210", "US")
        assert "Apt 5, 3rd floor" in read(render_pdf(parcel))

    def test_an_order_without_a_recipient_has_a_label_too(self) -> None:
        assert "CA473124829US" in of()

    @relaxed
    @given(st.text(), st.lists(st.text(), max_size=6), st.integers(1, 10**9))
    def test_any_text_is_printable(self, order_id: str, recipient: list[str], pieces: int) -> None:
        label = render_pdf(replace(PARCEL, order_id=order_id, recipient=tuple(recipient), pieces=pieces))
        text = read(label)
        assert "CA473124829US" in text
        assert f"Pieces: {pieces}" in text

    @relaxed
    @given(
        st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=300),
        st.integers(5, 40),
    )
    def test_wrapping_loses_nothing_and_fits(self, word: str, room: int) -> None:
        lines = wrapped(word, PLAIN, room)
        assert "".join(line.text for line in lines) == word
        assert all(line.width <= room for line in lines)

    @relaxed
    @given(st.text(alphabet="محمد شارع 漢字 กรุงเทพ Żółć", min_size=1, max_size=120), st.integers(5, 40))
    def test_in_any_script(self, text: str, room: int) -> None:
        lines = wrapped(" ".join(text.split()), PLAIN, room)
        assert "".join(line.text for line in lines).replace(" ", "") == "".join(text.split())
        assert all(line.width <= room for line in lines)


class TestPath:
    def test_of_a_plain_id(self, tmp_path: Path) -> None:
        assert label_path(tmp_path, "ORDER-1001") == tmp_path / "ORDER-1001.pdf"

    @pytest.mark.parametrize("order_id", HOSTILE_IDS)
    def test_never_leaves_the_folder(self, tmp_path: Path, order_id: str) -> None:
        path = label_path(tmp_path, order_id)
        assert path.resolve().parent == tmp_path.resolve()
        write_label(path, render_pdf(replace(PARCEL, order_id=order_id)))
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

    def test_a_failure_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
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
