"""Charts and the report's mail: what they draw, on light and dark,
and that nothing in a name can break out of them."""

from __future__ import annotations

import base64
import email
import json
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.policy import default

import pytest

from shop.monitoring.dashboard.charts import (
    COLOURS,
    DARK,
    LIGHT,
    Bar,
    BarList,
    Chart,
    as_image,
    bar_list,
    bars_over_time,
    lines_over_time,
)
from shop.monitoring.dashboard.dashboard import bar_lists, charts, dashboard_page, headline
from shop.monitoring.dashboard.figures import Figures, LowStock, Money, StepFigures
from shop.monitoring.dashboard.report_mail import report_mail, report_payload
from shop.orders.outcomes import Outcome
from shop.settings import Settings
from tests.integration.world import html_of, text_of
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


EMPTY = figures(
    ended={},
    p50=[None] * 4,
    p95=[None] * 4,
    p50_overall=None,
    p95_overall=None,
    money=[],
    steps=[],
    low_stock=[],
    waiting=0,
)


def shapes(chart: Chart, kind: str, colour: str) -> list[dict[str, str]]:
    """The attributes of the shapes in a series' colour, without its place in the legend."""
    found = [
        element.attrib for element in ET.fromstring(chart.svg).iter(f"{{http://www.w3.org/2000/svg}}{kind}")
    ]
    return [
        each
        for each in found
        if COLOURS[colour] in (each.get("fill"), each.get("stroke")) and each.get("width") != "10.0"
    ]


def texts(chart: Chart) -> list[str]:
    return [
        element.text or "" for element in ET.fromstring(chart.svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_bars_are_as_tall_as_their_values_and_stand_on_each_other() -> None:
    chart = bars_over_time("t", {"completed": [4, 0, 2], "rejected": [2, 0, 0]}, ["a", "b", "c"])
    first, last = shapes(chart, "rect", "completed")
    (other,) = shapes(chart, "rect", "rejected")
    assert float(first["height"]) == pytest.approx(2 * float(last["height"]), abs=0.2)
    assert float(other["y"]) + float(other["height"]) == pytest.approx(float(first["y"]), abs=0.2)


def test_a_line_is_broken_where_nothing_is_known() -> None:
    chart = lines_over_time("t", {"p50": [1, 2, None, 4, None, 8, 8]}, list("abcdefg"))
    first, last = (
        [point.split(",") for point in line["points"].split()] for line in shapes(chart, "polyline", "p50")
    )
    assert len(first) == len(last) == 2
    assert float(first[0][1]) > float(first[1][1]), "more is higher"
    assert len(shapes(chart, "rect", "p50")) == 1, "a single value is a dot"


def test_nothing_at_all_can_be_drawn() -> None:
    for chart in charts(EMPTY, []):
        ET.fromstring(chart.svg)
    assert headline(EMPTY) == "0 orders ended."
    assert "nothing happened" in dashboard_page(EMPTY, [], "t")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_are_meant_to_break_out(name: str) -> None:
    chart = bar_list(BarList(name, [Bar(name, 1, name, "bad")], ""))
    root = ET.fromstring(chart.svg)
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
        "svg",
        "title",
        "style",
        "rect",
        "text",
        "polyline",
    }
    image = as_image(chart)
    assert re.fullmatch(r"!\[[^\[\]()\n]*\]\(data:image/svg\+xml;base64,[A-Za-z0-9+/=]+\)", image, re.DOTALL)


def test_it_can_be_read_in_light_and_dark() -> None:
    for scheme in (LIGHT, DARK):
        assert contrast(scheme["ink"], scheme["ground"]) >= 7
        assert contrast(scheme["dim"], scheme["ground"]) >= 4.5
        for name, colour in COLOURS.items():
            assert contrast(colour, scheme["ground"]) >= 3, name
    drawn = charts(figures(), [])[0].svg
    used = set(re.findall(r'class="([\w-]+)"', drawn))
    light, dark = drawn.split("@media (prefers-color-scheme: dark)")
    assert all(f".{name}{{" in light and f".{name}{{" in dark for name in used)
    assert "fill-ground" in used


def test_the_page_has_every_chart_and_the_numbers() -> None:
    page = dashboard_page(figures(), ["validate_order", "process_payment"], "Orders of a day")
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
        "10 orders ended; 90.0 % completed; half within 1.20 s, 95 % within 6.00 s; "
        "2 in progress or waiting, the oldest for 1 min 15 s" in plain
    )
    assert plain.index("| process_payment | 10 | 0 | 1 | 10.0 % | 2 | 1 |") < plain.index("| old_step |")
    assert "| PROD-003 | Keyboard | 0 | 10 |" in plain


def test_words_are_shortened_and_the_axis_ends_above_the_highest() -> None:
    chart = bars_over_time("t", {"completed": [37]}, ["a"])
    (bar,) = shapes(chart, "rect", "completed")
    assert float(bar["height"]) < 150
    assert "40" in texts(chart)
    assert max(map(len, texts(bar_list(BarList("t", [Bar("x" * 60, 1, "", "good")], ""))))) <= 26


def test_what_is_bad_is_configured() -> None:
    for bad_rate, colour in ((0.09, "bad"), (0.1, "warning")):
        errors = bar_lists(figures(bad_rate=bad_rate), [])[1]
        assert {bar.name: bar.colour for bar in errors.bars}["process_payment"] == colour


def test_stock_that_is_elsewhere_is_not_reported_as_sufficient() -> None:
    assert any("inventory service" in text for text in texts(charts(figures(low_stock=None), [])[-1]))


class TestReportMail:
    def mailed(self, given: Figures) -> tuple[str, str]:
        payload = json.loads(json.dumps(report_payload(given, ("process_payment",))))
        made = report_mail("2031-02-03", payload, Settings(_env_file=None), SINCE, "ab12")
        assert made.data == report_mail("2031-02-03", payload, Settings(_env_file=None), SINCE, "ab12").data
        mail = email.message_from_bytes(made.data, policy=default)
        assert [part.get_content_type() for part in mail.walk()] == [
            "multipart/alternative",
            "text/plain",
            "text/html",
        ]
        return text_of(mail), html_of(mail)  # type: ignore[arg-type]

    def test_it_has_the_figures_in_words_and_in_tables(self) -> None:
        text, html = self.mailed(figures())
        for part in (text, re.sub(r"<[^>]+>", " ", html)):
            for words in (
                "10 orders ended; 90.0 % completed",
                "9 (90.0 %)",
                "10.0 % (1 of 10)",
                "90.00 USD",
                "PROD-003",
                "0 of 10",
            ):
                assert words in part

    def test_bars_are_cells_as_wide_as_their_shares(self) -> None:
        _, html = self.mailed(figures())
        table = html[html.index("Outcomes") : html.index("Error rate")]
        cells = [
            (colour, int(width))
            for width, colour in re.findall(r'<td width="(\d+)" bgcolor="(#\w{6})"', table)
        ]
        assert cells == [(COLOURS["completed"], 240), (COLOURS["compensated"], 27), (LIGHT["grid"], 213)]

    def test_each_hour_has_its_orders_and_its_latency(self) -> None:
        _, html = self.mailed(figures())
        rows = [
            re.sub(r"(<[^>]+>|&nbsp;|\s)+", " ", row)
            for row in html[html.index("Hour by hour") :].split("<tr><td style")[1:]
        ]
        assert [row.partition(">")[2].split() for row in rows] == [
            ["00:00", "6", "1.00", "s", "2.00", "s"],
            ["01:00"],
            ["02:00", "3", "2.00", "s", "7.50", "s"],
            ["03:00", "1", "500", "ms", "500", "ms"],
        ]

    @pytest.mark.parametrize("name", HOSTILE)
    def test_names_that_are_meant_to_break_out(self, name: str) -> None:
        name = name.encode("utf-8", "replace").decode()
        stock = [LowStock(product_id=name, name=name, available=1, received=10)]
        steps = [StepFigures(step=name, ended=1, failed=1, retried=0, undone=0)]
        _, html = self.mailed(figures(low_stock=stock, steps=steps))
        _, plain = self.mailed(figures())
        tags = set(re.findall(r"<(\w+)", plain))
        assert set(re.findall(r"<(\w+)", html)) == tags
        assert not {"img", "script", "a", "link"} & tags
        assert "http" not in html, "nothing is fetched from outside"

    def test_a_day_without_orders_has_a_mail(self) -> None:
        text, html = self.mailed(EMPTY)
        assert "0 orders ended." in text
        assert "no order ended" in html
