"""An order's diagram, boxes and page: every state of a step and of an undo,
and ids that are meant to break them."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest

from flows.order_saga import ORDER_SAGA
from shop.orders.page.boxes import box, order_boxes
from shop.orders.page.diagram import order_diagram
from shop.orders.page.formatting import duration, for_markdown, for_mermaid
from shop.orders.page.page import order_page, page_key, summary
from shop.orders.page.story import (
    _CANCELLED,
    MailRow,
    OrderStory,
    ReviewEntry,
    StepRow,
    StepState,
    UndoState,
    step_views,
)
from shop.settings import Settings
from tests.node import node as mermaid

NAMES = [step.name for step in ORDER_SAGA]
_PIVOT = NAMES.index(ORDER_SAGA.pivot)
HOSTILE = [
    'a"]; click x "javascript:alert(1)"',
    "```\n# up",
    "<script>alert(1)</script>",
    "%%{init: {}}%%",
    "a|b|c",
    "[x](javascript:y)",
    "end",
    "1. - one",
    "a#quot;b&lt;",
    "\u202eabc\u0000\x1b[31m",
    "\ud800",
    "a" * 200,
]


def done(step: str, **more: object) -> StepRow:
    return StepRow(step, "done", seconds=0.012, **more)  # type: ignore[arg-type]


def completed() -> OrderStory:
    return OrderStory("ORDER-1001", "completed", "completed", [done(name) for name in NAMES], seconds=1.39)


def compensated() -> OrderStory:
    """The carrier has refused; the stock was given back after the money."""
    undone = {
        "check_inventory": done(
            "check_inventory", undo_status="done", undo_number=8, undo_seconds=0.005, undo_attempts=1
        ),
        "process_payment": done(
            "process_payment",
            attempts=3,
            undo_status="done",
            undo_number=7,
            undo_seconds=1.2,
            undo_attempts=2,
        ),
    }
    return OrderStory(
        "ORDER-SHIP-FAIL",
        "compensated",
        "compensated",
        [
            *(undone.get(name, done(name)) for name in NAMES[:_PIVOT]),
            StepRow("fulfill_order", "failed", error="carrier_refused", seconds=0.02),
        ],
        failing_step="fulfill_order",
        failure_code="carrier_refused",
        reasons=["the carrier does not deliver to AQ"],
        amount_charged=Decimal("999.99"),
        amount_refunded=Decimal("999.99"),
    )


def node(diagram: str, name: str) -> tuple[str, str]:
    """The words and the class of the node that begins with this name."""
    (found,) = re.findall(
        rf'^    \w+(?:\["|\(\[")((?:order )?{re.escape(name)}(?:<br/>[^"]*)?)"\]\)?:::(\w+)$',
        diagram,
        re.MULTILINE,
    )
    words, style = found
    return words, style


def edges(diagram: str) -> list[tuple[str, str, str]]:
    return re.findall(r"^    (\w+) (-->|-\.->|==>) (\w+)$", diagram, re.MULTILINE)


class TestDiagram:
    def test_a_completed_order_goes_straight_down(self) -> None:
        diagram = order_diagram(completed(), ORDER_SAGA)
        assert diagram.startswith("flowchart TD\n")
        places = ["o", *(f"s{place}" for place in range(len(NAMES))), "e"]
        assert [(start, end) for start, _, end in edges(diagram)] == list(pairwise(places))
        assert (f"s{_PIVOT - 1}", "==>", f"s{_PIVOT}") in edges(diagram), "the point of no return"
        assert node(diagram, "validate_order") == ("validate_order<br/>done, 12 ms", "done")
        assert node(diagram, "completed") == ("completed<br/>after 1.39 s", "done")

    def test_a_compensated_order_comes_back_in_the_sequence_of_its_undos(self) -> None:
        diagram = order_diagram(compensated(), ORDER_SAGA)
        assert node(diagram, "fulfill_order") == (
            "fulfill_order<br/>failed, 20 ms<br/>carrier refused",
            "failed",
        )
        assert node(diagram, "notify_customer")[1] == "skipped"
        assert node(diagram, "process_payment") == (
            "process_payment<br/>undone, 12 ms<br/>3 attempts",
            "undone",
        )
        assert node(diagram, "refund_payment") == ("refund_payment<br/>done, 1.20 s<br/>2 attempts", "undo")
        assert 'u0["refund_payment' in diagram
        assert edges(diagram)[-3:] == [
            (f"s{_PIVOT}", "-.->", "u0"),
            ("u0", "-.->", "u1"),
            ("u1", "-.->", "e"),
        ]

    def test_an_undo_that_failed_and_one_that_is_due(self) -> None:
        story = compensated()
        rows = list(story.steps)
        paid, reserved = NAMES.index("process_payment"), NAMES.index("check_inventory")
        rows[paid] = replace(rows[paid], undo_status="failed", undo_due=True, undo_error="refund_refused")
        rows[reserved] = replace(rows[reserved], undo_status=None, undo_due=True, undo_number=None)
        diagram = order_diagram(replace(story, steps=rows, outcome="needs_attention"), ORDER_SAGA)
        words, style = node(diagram, "refund_payment")
        assert style == "failed"
        assert "refund refused" in words
        assert node(diagram, "release_inventory")[1] == "skipped"
        assert node(diagram, "needs_attention")[1] == "attention"
        assert node(diagram, "process_payment")[1] == "retried", "not undone"

    def test_an_undo_that_found_nothing(self) -> None:
        rows = [done("validate_order"), done("check_inventory")]
        rows.append(
            StepRow(
                "process_payment",
                "failed",
                undo_status="done",
                undo_number=5,
                undo_said="no_payment_to_refund",
            )
        )
        story = OrderStory("A", "compensated", "compensated", rows, failing_step="process_payment")
        steps = {step.name: step for step in step_views(story, ORDER_SAGA)}
        undo = steps["process_payment"].undo
        assert undo is not None
        assert undo.state is UndoState.NOTHING
        assert steps["check_inventory"].undo is None

    def test_every_state_of_a_step(self) -> None:
        rows = [done("validate_order"), StepRow("check_inventory", "begun", undo_due=True)]
        story = OrderStory("A", "received", None, rows, seconds=3)
        states = {step.name: step.state for step in step_views(story, ORDER_SAGA)}
        assert states["validate_order"] is StepState.DONE
        assert states["check_inventory"] is StepState.UNDER_WAY
        assert states["notify_customer"] is StepState.WAITING
        assert [step.undo for step in step_views(story, ORDER_SAGA)] == [None] * len(NAMES), (
            "what is begun is due for an undo only once something failed"
        )
        diagram = order_diagram(story, ORDER_SAGA)
        assert node(diagram, "under way") == ("under way<br/>for 3.00 s", "underway")
        ended = {
            step.name: step.state
            for step in step_views(replace(story, outcome="rejected", steps=()), ORDER_SAGA)
        }
        assert set(ended.values()) == {StepState.SKIPPED}

    def test_cancelled_before_any_step(self) -> None:
        story = OrderStory(
            "A",
            "compensated",
            "compensated",
            failing_step="cancel_order",
            failure_code="cancelled",
            seconds=2,
        )
        diagram = order_diagram(story, ORDER_SAGA)
        assert "compensated (cancelled)" in re.sub(r"#(\d+);", lambda found: chr(int(found[1])), diagram)
        assert edges(diagram)[-1] == ("o", "-.->", "e")

    def test_a_step_that_the_run_did_not_know_was_not_skipped_on_purpose(self) -> None:
        story = replace(completed(), steps=[done(name) for name in NAMES if name != "generate_confirmation"])
        diagram = order_diagram(story, ORDER_SAGA)
        assert node(diagram, "generate_confirmation") == (
            "generate_confirmation<br/>not in the saga then",
            "skipped",
        )
        assert "not in the saga then" in order_boxes(story, ORDER_SAGA)
        assert {step.state for step in step_views(compensated(), ORDER_SAGA)} & {
            StepState.ABSENT,
            StepState.SKIPPED,
        } == {StepState.SKIPPED}

    def test_a_step_that_is_no_longer_in_the_saga_is_still_shown(self) -> None:
        story = completed()
        diagram = order_diagram(replace(story, steps=[*story.steps, done("weigh_parcel")]), ORDER_SAGA)
        assert node(diagram, "weigh_parcel")[1] == "done"

    @pytest.mark.parametrize("order_id", HOSTILE)
    def test_ids_that_are_meant_to_break_it(self, order_id: str) -> None:
        plain, diagram = (
            order_diagram(completed(), ORDER_SAGA),
            order_diagram(replace(completed(), order_id=order_id), ORDER_SAGA),
        )
        assert len(diagram.splitlines()) == len(plain.splitlines())
        (line,) = [line for line in diagram.splitlines() if line.startswith("    o(")]
        label = line.removeprefix('    o(["').removesuffix('"]):::order')
        assert re.fullmatch(r"order (?:[\w \-.,:~/+=@]|#\d+;)*", label), label
        assert diagram.splitlines()[2:] == plain.splitlines()[2:]

    def test_every_class_that_is_used_is_defined_with_its_own_letters(self) -> None:
        for story in (completed(), compensated(), OrderStory("A", "received", None)):
            diagram = order_diagram(story, ORDER_SAGA)
            defined = dict(re.findall(r"^    classDef (\w+) (.*)$", diagram, re.MULTILINE))
            for used in re.findall(r":::(\w+)", diagram):
                assert "fill:#" in defined[used]
                assert contrast(*re.findall(r"(?:fill|color):(#\w{6})", defined[used])) >= 4.5, used


def contrast(one: str, other: str) -> float:
    """As WCAG has it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (
            part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


class TestMermaidsOwnParser:
    def test_takes_any_order(self) -> None:
        stories = [completed(), compensated(), OrderStory("ORDER-1001", "received", None)]
        stories += [
            replace(story, order_id=order_id)
            for story in (completed(), compensated())
            for order_id in HOSTILE
        ]
        wrong = {
            story.order_id: why
            for story, why in zip(
                stories,
                mermaid.run("parse.mjs", [order_diagram(each, ORDER_SAGA) for each in stories]),
                strict=True,
            )
            if why
        }
        assert wrong == {}

    @pytest.mark.parametrize("field", ["failure_code", "outcome", "status"])
    def test_takes_any_text_of_the_journal(self, field: str) -> None:
        stories = [replace(compensated(), **{field: text}) for text in HOSTILE]
        stories += [
            replace(story, steps=[replace(row, error=text) for row in story.steps])
            for story, text in zip(stories, HOSTILE, strict=True)
        ]
        assert not any(mermaid.run("parse.mjs", [order_diagram(each, ORDER_SAGA) for each in stories]))

    def test_is_no_silent_skip_in_ci(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mermaid.shutil, "which", lambda _: None)
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match="no Node here"):
            mermaid.run("parse.mjs", [])
        monkeypatch.delenv("CI")
        with pytest.raises(pytest.skip.Exception, match="no Node here"):
            mermaid.run("parse.mjs", [])


class TestBoxes:
    def test_an_undo_stands_beside_its_step(self) -> None:
        lines = order_boxes(compensated(), ORDER_SAGA).splitlines()
        (line,) = [line for line in lines if "process_payment" in line]
        assert "◀─ │ ↶ refund_payment (1)" in line
        assert any("✗ fulfill_order" in line for line in lines)
        assert any("refunded  999.99 USD" in line for line in lines)
        assert len({len(line) for line in lines[1:] if "◀" not in line and len(line) < 40}) == 1, (
            "the boxes are of one width"
        )

    def test_what_is_wider_than_a_box_continues_in_the_next_line(self) -> None:
        story = replace(compensated(), seconds=0.0123, amount_refunded=Decimal("12345678901.23"))
        drawn = order_boxes(replace(story, failure_code=min(_CANCELLED)), ORDER_SAGA)
        assert "compensated (cancelled)" in drawn
        assert duration(0.0123) in drawn
        assert "12,345,678,901.23" in drawn
        words = ["x" * 70, "  refunded 12 words and more of them"]
        assert max(map(len, box(words))) == min(map(len, box(words)))
        content = "".join(line.strip("│") for line in box(words)[1:-1])
        assert "".join(content.split()) == "".join("".join(words).split())

    @pytest.mark.parametrize("order_id", HOSTILE)
    def test_nothing_moves_the_cursor(self, order_id: str) -> None:
        drawn = order_boxes(replace(completed(), order_id=order_id), ORDER_SAGA)
        assert all(line.isprintable() for line in drawn.splitlines())
        assert len(drawn.splitlines()) == len(order_boxes(completed(), ORDER_SAGA).splitlines())


class TestPage:
    def test_it_reports_what_happened_and_what_it_cost(self, tmp_path: Path) -> None:
        s = Settings(VAR_DIR=tmp_path)
        mails = [
            MailRow("refund", sent=True),
            MailRow("confirmation", sent=False, error="the mail server said 450"),
        ]
        story = replace(compensated(), mails=mails, amount_at_risk=Decimal(5), tracking_number="CA1US")
        (s.mail_dir / "new").mkdir(parents=True)
        (s.mail_dir / "new" / "ORDER-SHIP-FAIL.refund.eml").touch()
        page = order_page(story, ORDER_SAGA, s)
        plain = re.sub(r"&#(\d+);", lambda found: chr(int(found[1])), page)
        assert f"```mermaid\n{order_diagram(story, ORDER_SAGA)}```" in page
        assert (
            "| process_payment | compensatable | undone | 3 | 12 ms "
            "| refund_payment: done, 1.20 s, 2 attempts |" in plain
        )
        assert "| 999.99 USD | 999.99 USD | 5.00 USD |" in plain
        assert f"`{s.mail_dir}/new/ORDER-SHIP-FAIL.refund.eml`" in plain
        assert "order-saga label ORDER-SHIP-FAIL\n" in plain
        assert "not sent yet: the mail server said 450" in plain

    def test_a_mail_that_was_read_has_moved(self, tmp_path: Path) -> None:
        s = Settings(VAR_DIR=tmp_path)
        (s.mail_dir / "cur").mkdir(parents=True)
        (s.mail_dir / "cur" / "ORDER-1001.confirmation.eml:2,S").touch()
        page = order_page(replace(completed(), mails=[MailRow("confirmation", sent=True)]), ORDER_SAGA, s)
        assert "cur/ORDER-1001.confirmation.eml:2,S`" in page

    def test_with_a_web_app_label_and_mails_are_links(self, tmp_path: Path) -> None:
        s = Settings(VAR_DIR=tmp_path, WEB_URL="https://orders.shop.example/")
        (s.mail_dir / "new").mkdir(parents=True)
        (s.mail_dir / "new" / "ORDER-1001.confirmation.eml").touch()
        story = replace(
            completed(), tracking_number="CA000000014US", mails=[MailRow("confirmation", sent=True)]
        )
        page, to_label = (
            order_page(story, ORDER_SAGA, s),
            "[open it](https://orders.shop.example/documents/label?id=ORDER-1001)",
        )
        assert to_label in page
        assert to_label not in order_page(replace(story, returned=True), ORDER_SAGA, s), "it is void"
        assert "[read it](https://orders.shop.example/documents/mail?id=ORDER-1001&kind=confirmation)" in page
        assert str(tmp_path) not in page

    def test_review_decisions_are_shown(self, tmp_path: Path) -> None:
        review = [
            ReviewEntry(
                "2031-02-03 09:30",
                "refunded_by_hand",
                "ann",
                Decimal("999.99"),
                "transfer | 4711",
                "Prefect run 7",
            )
        ]
        page = order_page(
            replace(compensated(), review=review), ORDER_SAGA, Settings(VAR_DIR=tmp_path)
        ).replace("&#95;", "_")
        row = next(line for line in page.splitlines() if "refunded_by_hand" in line)
        assert re.sub(r"&#\d+;", "", row).split(" | ")[1:5] == [
            "refunded_by_hand",
            "ann",
            "Prefect run 7",
            "99999 USD",
        ]
        assert "4711" in row
        assert row.count("|") == 7
        assert "Manual actions" not in order_page(completed(), ORDER_SAGA, Settings(VAR_DIR=tmp_path))

    @pytest.mark.parametrize("order_id", HOSTILE)
    def test_ids_that_are_meant_to_break_it(self, order_id: str, tmp_path: Path) -> None:
        story = replace(compensated(), order_id=order_id, reasons=[order_id])
        page = order_page(story, ORDER_SAGA, Settings(VAR_DIR=tmp_path))
        assert page.count("```") == 2
        assert "<script" not in page.replace("<br/>", "")
        assert "](javascript" not in page
        assert "\n" not in summary(story)

    def test_keys_are_those_that_prefect_takes_and_never_the_same_for_two(self) -> None:
        ids = [
            "ORDER-1001",
            "order-1001",
            "Order-1001",
            "ORDER 1001",
            "ORDER--1001",
            "ORDER_1001",
            "ü",
            "-",
            *HOSTILE,
        ]
        keys = [page_key(order_id) for order_id in ids]
        assert keys[0] == "saga-order-1001"
        assert len(set(keys)) == len(ids)
        assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key) and len(key) < 100 for key in keys)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, ""),
        (-1, "0 ms"),
        (0.0124, "12 ms"),
        (0.9996, "1.00 s"),
        (59.996, "1 min 0 s"),
        (123.4, "2 min 3 s"),
        (12_000, "3 h 20 min"),
    ],
)
def test_durations(seconds: float | None, expected: str) -> None:
    assert duration(seconds) == expected


def test_letters_of_any_script_stay() -> None:
    assert for_mermaid("Bestellung 注文") == for_markdown("Bestellung 注文") == "Bestellung 注文"
