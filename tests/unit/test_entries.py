"""Files that commands read: JSON as strict as over HTTP, and errors that say where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployments.cli import order_saga
from deployments.cli.entries import InputError, entries_of, read_each, read_json, read_orders
from deployments.web.problems import ProblemError
from deployments.web.requests import parse_json
from shop.inventory.deliveries import merged, read_delivery
from shop.inventory.errors import InvalidDelivery

AMBIGUOUS = ['{"id": "A", "id": "B"}', '{"id": "A", "items": [{"price": NaN}]}', '{"id": 1e999}']


@pytest.mark.parametrize("order", AMBIGUOUS)
def test_json_is_read_as_strictly_as_over_http(order: str) -> None:
    with pytest.raises(ProblemError) as over_http:
        parse_json(order.encode())
    why = str(over_http.value.problem.detail).partition(": ")[2]
    for text in (order, f"[{order}]", f"[\n{order}\n]"):
        with pytest.raises(InputError) as of_command:
            read_orders(text)
        assert why in str(of_command.value)


@pytest.mark.parametrize("order", AMBIGUOUS)
@pytest.mark.parametrize("line", [1, 2])
def test_the_line_of_unusable_json_is_named(order: str, line: int) -> None:
    lines = ['{"id": "1"}', '{"id": "2"}']
    lines[line - 1] = order
    with pytest.raises(InputError, match=f"line {line} is not JSON"):
        read_orders("\n".join(lines))


def test_entries_have_the_line_on_which_they_stand() -> None:
    entries = read_json('{"a": 1}\n\n{"a": 2}\n', "payment")
    assert [each.place for each in entries] == ["line 1: ", "line 3: "]
    assert [each.place for each in read_json(json.dumps([1, 2]), "payment")] == ["payment 1: ", "payment 2: "]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_may_be_separated_by_semicolons_and_tabs(separator: str, tmp_path: Path) -> None:
    file = tmp_path / "notes.csv"
    file.write_text("reference,product_id,pieces\nDN-1,PROD-001,3\n".replace(",", separator))
    (entry,) = entries_of(str(file), "delivery", {}, {})
    assert entry == ("line 2: ", {"reference": "DN-1", "product_id": "PROD-001", "pieces": "3"})


def test_a_row_with_too_many_columns_hides_no_other_problem(tmp_path: Path) -> None:
    file = tmp_path / "notes.csv"
    file.write_text("reference,product_id,pieces\nDN-1,PROD-001,3,4\nDN-2,PROD-001,few\nDN-3,PROD-001,5\n")
    entries = entries_of(str(file), "delivery", {}, {})
    made, problems = read_each(entries, read_delivery, InvalidDelivery, {}, {})
    assert [each.reference for each in made] == ["DN-3"]
    assert [problem.partition(":")[0] for problem in problems] == ["line 2", "line 3"]


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.csv"
    file.write_text("reference,pieces,product_id,pieces\nDN-1,3,PROD-001,4\n")
    with pytest.raises(InputError, match="pieces"):
        entries_of(str(file), "delivery", {}, {})


@pytest.mark.parametrize(
    "command", [["submit"], ["paid", "--by", "ann", "--file"], ["receive", "--file"], ["address", "A"]]
)
def test_a_file_that_cannot_be_read_is_named(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latin, none = tmp_path / "latin.csv", tmp_path / "none.csv"
    latin.write_bytes("reference,name\nDN-1,Stühle\n".encode("latin-1"))
    for file, why in ((latin, "not UTF-8 text: line 2, byte 23"), (none, "No such file")):
        code = order_saga([*command, str(file)])
        output = " ".join("".join(capsys.readouterr()).split())
        assert code == 2
        assert file.name in output.replace(" ", "")
        assert why in output
        assert "codec" not in output
        assert "Errno" not in output


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["review", "list", "--older-than", "7"], ["--older-than: a number and a unit"]),
        (["review", "list", "--at-least", "abc"], ["--at-least: a number such as 9.99"]),
        (["review", "list", "--currency", "usd"], ["--currency: three capital letters"]),
        (["paid", "A", "5", "--reference", "R"], ["missing: --by"]),
        (["paid", "A", "abc", "--reference", "R", "--by", "ann"], ["AMOUNT: an amount such as 9.99"]),
        (["receive", "A", "few"], ["PIECES: a whole number"]),
    ],
)
def test_options_are_named_as_they_are_given(
    arguments: list[str], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert order_saga(arguments) == 2
    output = " ".join("".join(capsys.readouterr()).split())
    assert [option for option in options if option not in output] == []
    assert "Value error" not in output
    assert "Input should be" not in output


def test_fields_of_a_file_and_options_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "paid.csv"
    file.write_text("order_id,amount,reference\nA,5,R\n")
    assert order_saga(["paid", "--file", str(file)]) == 2
    output = " ".join("".join(capsys.readouterr()).split())
    assert "line 2: recorded_by: missing" in output
    assert "--by" in output


@pytest.mark.parametrize("pieces", ["0", "-1", "1.5", "few", "1000000001", "999999999999", "9" * 40])
def test_pieces_have_one_limit_in_every_message(pieces: str) -> None:
    with pytest.raises(InvalidDelivery, match=r"pieces: a whole number from 1 to 1,000,000,000$"):
        read_delivery({"product_id": "A", "pieces": pieces})


def test_pieces_of_all_lines_with_a_reference_have_the_same_limit() -> None:
    lines = [{"reference": "DN-1", "product_id": "A", "pieces": 600_000_000}] * 2
    why = "DN-1: 1,200,000,000 pieces of 'A' in all: at most 1,000,000,000"
    with pytest.raises(InvalidDelivery, match=why):
        merged([read_delivery(line) for line in lines])
    with pytest.raises(InvalidDelivery, match="1,200,000,000 pieces"):
        read_delivery({"items": [{"product_id": "A", "pieces": 600_000_000}] * 2})
    (both,) = merged([read_delivery({**line, "pieces": 5}) for line in lines])
    assert both.pieces == {"A": 10}
