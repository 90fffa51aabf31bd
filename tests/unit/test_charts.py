"""Charts: what they draw, on light and dark, and that nothing in a name can break out of them."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from PIL import Image

from shop.outcomes import Outcome
from shop.pictures.board import board_page, charts, headline
from shop.pictures.chart import COLOURS, Box, Chart, Line, Words, bars_over_time, lines_over_time, rows
from shop.pictures.figures import Figures, LowStock, Money, StepFigures
from shop.pictures.png import png
from shop.pictures.svg import DARK, LIGHT, as_image, svg
from tests.unit.test_order_pictures import HOSTILE, contrast

SINCE = datetime(2031, 2, 3, tzinfo=UTC)


def figures(**fields: object) -> Figures:
    given: dict[str, object] = {
        "since": SINCE,
        "until": SINCE + timedelta(hours=4),
        "ended": {Outcome.COMPLETED: [5, 0, 3, 1], Outcome.COMPENSATED: [1, 0, 0, 0]},
        "p50": [1.0, None, 2.0, 0.5],
        "p95": [2.0, None, 7.5, 0.5],
        "p50_overall": 1.2,
        "p95_overall": 6.0,
        "money": [Money(currency="USD", charged=Decimal(90), refunded=Decimal(10), at_risk=Decimal(0))],
        "steps": [
            StepFigures(step="process_payment", ended=10, failed=1, retried=2, undone=1),
            StepFigures(step="old_step", ended=1, failed=0, retried=0, undone=0),
        ],
        "low_stock": [LowStock(product_id="PROD-003", name="Keyboard", available=0, received=10)],
        "waiting": 2,
        "oldest_seconds": 75.0,
    }
    return Figures.model_validate({**given, **fields})


def marks(chart: Chart, colour: str) -> list[Box | Line]:
    """The shapes in a series' colour, without its place in the legend."""
    return [shape for shape in chart.shapes if isinstance(shape, Box | Line) and shape.colour == COLOURS[colour] and not legend(shape)]


def legend(shape: Box | Line) -> bool:
    return isinstance(shape, Box) and shape.width == shape.height == 10


def test_bars_are_as_tall_as_their_values_and_stand_on_each_other() -> None:
    chart = bars_over_time("t", {"completed": [4, 0, 2], "rejected": [2, 0, 0]}, ["a", "b", "c"])
    first, last = marks(chart, "completed")
    (other,) = marks(chart, "rejected")
    assert isinstance(first, Box)
    assert isinstance(last, Box)
    assert isinstance(other, Box)
    assert first.height == pytest.approx(2 * last.height)
    assert other.y + other.height == pytest.approx(first.y)


def test_a_line_is_broken_where_nothing_is_known() -> None:
    chart = lines_over_time("t", {"p50": [1, 2, None, 4, None, 8, 8]}, list("abcdefg"))
    first, dot, last = marks(chart, "p50")
    assert isinstance(dot, Box)
    assert isinstance(first, Line)
    assert isinstance(last, Line)
    assert len(first.points) == len(last.points) == 2
    assert first.points[0][1] > first.points[1][1], "more is higher"


def test_nothing_at_all_can_be_drawn() -> None:
    empty = figures(
        ended={}, p50=[None] * 4, p95=[None] * 4, p50_overall=None, p95_overall=None, money=[], steps=[], low_stock=[], waiting=0
    )
    for chart in charts(empty, []).values():
        ET.fromstring(svg(chart))
        assert png(chart).startswith(b"\x89PNG")
    assert headline(empty) == "0 orders ended."
    assert "nothing happened" in board_page(empty, [], "t")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_are_meant_to_break_out(name: str) -> None:
    chart = rows(name, [(name, 1, name, "bad")])
    root = ET.fromstring(svg(chart))
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {"svg", "title", "style", "rect", "text", "polyline"}
    image = as_image(chart)
    assert re.fullmatch(r"!\[[^\[\]()\n]*\]\(data:image/svg\+xml;base64,[A-Za-z0-9+/=]+\)", image, re.DOTALL)
    assert png(chart).startswith(b"\x89PNG")


def test_it_can_be_read_in_light_and_dark() -> None:
    for scheme in (LIGHT, DARK):
        assert contrast(scheme["ink"], scheme["ground"]) >= 7
        assert contrast(scheme["dim"], scheme["ground"]) >= 4.5
        for name, colour in COLOURS.items():
            assert contrast(colour, scheme["ground"]) >= 3, name
    drawn = svg(charts(figures(), [])["throughput"])
    assert "@media (prefers-color-scheme: dark)" in drawn
    assert 'class="ground"' in drawn


def test_a_png_has_the_chart_in_it_and_is_the_same_each_time() -> None:
    chart = charts(figures(), [])["outcomes"]
    image = Image.open(io.BytesIO(png(chart))).convert("RGB")
    assert image.size == (chart.width * 2, chart.height * 2)
    colours = {colour for _, colour in image.getcolors(100_000)}
    assert any(max(abs(c - w) for c, w in zip(colour, (0x2F, 0x9E, 0x64), strict=True)) < 6 for colour in colours)
    assert png(chart) == png(chart)
    assert len(png(chart)) < 40_000


def test_the_page_has_every_chart_and_the_numbers() -> None:
    page = board_page(figures(), ["validate_order", "process_payment"], "Orders of a day")
    images = re.findall(r"base64,([A-Za-z0-9+/=]+)\)", page)
    titles = [ET.fromstring(base64.b64decode(image))[0].text or "" for image in images]
    assert [title.partition(":")[0] for title in titles] == [
        "Orders ended, every hour",
        "From submission to outcome",
        "Outcomes",
        "Error rate per step",
        "Stock that runs low",
    ]
    plain = re.sub(r"&#(\d+);", lambda found: chr(int(found[1])), page)
    assert (
        "10 orders ended; 90.0 % completed; half within 1.20 s, 95 % within 6.00 s; 2 under way or waiting, the oldest for 1 min 15 s"
        in plain
    )
    assert plain.index("| process_payment | 10 | 0 | 1 | 10.0 % | 2 | 1 |") < plain.index("| old_step |")
    assert "| PROD-003 | Keyboard | 0 | 10 |" in plain


def test_words_are_shortened_and_the_axis_ends_above_the_highest() -> None:
    chart = bars_over_time("t", {"completed": [37]}, ["a"])
    (bar,) = marks(chart, "completed")
    assert isinstance(bar, Box)
    assert bar.height < 150
    assert "40" in [shape.text for shape in chart.shapes if isinstance(shape, Words)]
    long = rows("t", [("x" * 60, 1, "", "good")])
    assert max(len(shape.text) for shape in long.shapes if isinstance(shape, Words)) <= 26


def test_what_is_bad_is_configured() -> None:
    assert marks(charts(figures(bad_rate=0.09), [])["errors"], "bad")
    assert not marks(charts(figures(bad_rate=0.1), [])["errors"], "bad")


def test_stock_that_is_elsewhere_is_not_said_to_be_enough() -> None:
    said = [shape.text for shape in charts(figures(low_stock=None), [])["stock"].shapes if isinstance(shape, Words)]
    assert any("inventory service" in text for text in said)
