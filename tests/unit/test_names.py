"""Names made of order ids: safe as a file's name,
as an idempotency key and as a run's name, and never the same for two orders."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shop.notifications.maildir import Maildir, find_mail, mail_name, mail_names
from shop.notifications.message import Mail
from shop.orders.names import MAX_ORDER_ID, file_stems, key, run_name, stem
from shop.orders.page.page import page_key
from shop.payments.sandbox.ledger import MAX_ORDER_ID as GATEWAY_MAX
from shop.retention.files import delete_files, find_mails
from shop.runtime.files import has_exact_name, write_atomic
from shop.settings import Settings
from shop.shipping.labels.stored import label_path

relaxed = hypothesis_settings(deadline=None)
# What `take_in` lets through as an id: no control characters,
# no surrogates, nothing at the ends that is stripped.
ids = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=MAX_ORDER_ID
).filter(lambda text: text == text.strip())
nasty = st.text(st.sampled_from([*'./\\~-_ aA:*?"<>|\n', "é", "\u0301", "字"]), min_size=1, max_size=12)
GATEWAY_KEY = re.compile(r"[!-~]{1,255}")

NASTY = [
    ".",
    "..",
    "...",
    "../../etc/passwd",
    "a/b",
    "a\\b",
    ".hidden",
    "~root",
    "-rf",
    "CON",
    "a" * 200,
    "字" * 200,
    "a b",
    " ",
    "a\x00b",
    "é",
]


@pytest.mark.parametrize("order_id", ["ORDER-1001", "a", "A.b_c-9", "0" * 80])
def test_a_plain_id_is_its_own_name(order_id: str) -> None:
    assert stem(order_id) == order_id


@pytest.mark.parametrize("order_id", ["ORDER-1001", "A.B_C-9", "0" * 80])
def test_a_plain_id_without_small_letters_is_its_files_name(order_id: str) -> None:
    assert file_stems(order_id) == (order_id,)


def test_files_of_earlier_versions_are_known() -> None:
    name, before = file_stems("order-1")
    assert name.startswith("order-1~")
    assert before == "order-1"


@pytest.mark.parametrize("order_id", NASTY)
def test_nasty_ids(order_id: str) -> None:
    check_stem(order_id)


@relaxed
@given(st.one_of(ids, nasty))
def test_any_id_gives_a_safe_file_name(order_id: str) -> None:
    check_stem(order_id)


def check_stem(order_id: str) -> None:
    for name in (stem(order_id), *file_stems(order_id)):
        assert 1 <= len(name) <= 80
        assert re.fullmatch(r"[A-Za-z0-9~_-][A-Za-z0-9._~-]*", name), name
        assert ".." not in name
        assert Path("folder", f"{name}.eml").parent == Path("folder")
        assert Path("folder", f"{name}.eml").resolve().parent == Path("folder").resolve()
    assert (stem(order_id), file_stems(order_id)) == (stem(order_id), file_stems(order_id))


def as_a_disk_may_see_it(name: str) -> str:
    """Without case, and in one of Unicode's forms: as macOS and Windows compare names."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFKC", name).casefold())


def cased(text: str) -> st.SearchStrategy[str]:
    """The same text in some other case, and composed or not."""
    changes = (str.upper, str.lower, str.swapcase, str.title, str, lambda t: unicodedata.normalize("NFD", t))
    return st.sampled_from([change(text) for change in changes])


look_alike = st.one_of(ids, nasty, st.text("aAbB1-._", min_size=1, max_size=6)).flatmap(
    lambda text: st.tuples(cased(text), cased(text))
)


@relaxed
@given(look_alike)
@example(("Order-1", "ORDER-1"))
@example(("order-1", "ORDER-1"))
@example(("Stra\u00dfe", "STRASSE"))
@example(("\u00e9", "e\u0301"))
def test_two_ids_never_share_a_file_or_a_page_on_a_disk_that_ignores_case(two: tuple[str, str]) -> None:
    one, other = two
    assume(one != other)
    assert as_a_disk_may_see_it(file_stems(one)[0]) != as_a_disk_may_see_it(file_stems(other)[0])
    assert as_a_disk_may_see_it(mail_name(one, "refund")) != as_a_disk_may_see_it(mail_name(other, "refund"))
    assert page_key(one) != page_key(other)
    assert page_key(one) == page_key(one).lower()


@relaxed
@given(st.lists(st.text("aAbB1-.", min_size=1, max_size=4), unique=True, max_size=40))
def test_no_two_of_many(order_ids: list[str]) -> None:
    assert len({as_a_disk_may_see_it(file_stems(each)[0]) for each in order_ids}) == len(order_ids)


def test_what_is_there_under_another_spelling_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that ignores case says that a file is there which is another order's."""
    labels = tmp_path / "labels"
    write_atomic(labels / "ORDER-1.pdf", b"of ORDER-1")
    really_there = Path.exists
    without_case = {"order-1.pdf": "ORDER-1.pdf"}
    monkeypatch.setattr(
        Path, "exists", lambda path: really_there(path.with_name(without_case.get(path.name, path.name)))
    )
    assert (labels / "order-1.pdf").exists()
    assert not has_exact_name(labels / "order-1.pdf")
    assert label_path(labels, "order-1").name.startswith("order-1~")
    monkeypatch.undo()
    write_atomic(labels / "order-1.pdf", b"of order-1, by an earlier version")
    assert label_path(labels, "order-1").read_bytes() == b"of order-1, by an earlier version"
    assert label_path(labels, "ORDER-1").read_bytes() == b"of ORDER-1"


def test_a_mail_of_an_earlier_version_is_found_and_not_written_again(tmp_path: Path) -> None:
    mail, (name, *before) = (
        Mail("shop@example.com", "a@example.com", b"mail"),
        mail_names("order-1", "refund"),
    )
    for part, flags in (("new", ""), ("cur", ":2,S")):
        folder = tmp_path / part
        Maildir(folder).write(before[0], mail)
        if flags:
            (folder / "new" / before[0]).rename(folder / "cur" / f"{before[0]}{flags}")
        Maildir(folder).write(name, mail, before=before)
        assert [path.name for path in folder.rglob("*.eml*")] == [f"{before[0]}{flags}"]
        assert find_mail(folder, "order-1", "refund") == folder / part / f"{before[0]}{flags}"
        assert find_mail(folder, "Order-1", "refund") is None


@relaxed
@given(st.one_of(ids, nasty), st.one_of(ids, nasty))
@example("a/b", "a\\b")
@example("a b", "a-b")
@example("a" * 81, "a" * 82)
@example("é", "e\u0301")
@example("A", "a")
def test_two_ids_never_share_a_name(one: str, other: str) -> None:
    assume(one != other)
    assert stem(one) != stem(other)
    assert file_stems(one)[0] != file_stems(other)[0]
    assert key(one, "confirm") != key(other, "confirm")


@relaxed
@given(ids)
def test_no_chosen_id_equals_anothers_name(order_id: str) -> None:
    name, (file, *_) = stem(order_id), file_stems(order_id)
    assert name == order_id or stem(name) != name
    assert file == order_id or file_stems(file)[0] != file


@relaxed
@given(
    st.one_of(ids, nasty),
    st.sampled_from(["create", "confirm", f"cancel-{'p' * 100}", f"refund-{'p' * 100}"]),
)
def test_keys_are_what_gateways_take(order_id: str, step: str) -> None:
    assert GATEWAY_KEY.fullmatch(key(order_id, step))
    assert key(order_id, step) == key(order_id, step)


def test_steps_of_an_order_have_keys_of_their_own() -> None:
    keys = {
        key(order_id, step)
        for order_id in ("A", "A-confirm", "confirm-A")
        for step in ("create", "confirm", "refund-p")
    }
    assert len(keys) == 9


def test_an_id_that_we_take_is_one_that_the_gateway_takes() -> None:
    assert MAX_ORDER_ID <= GATEWAY_MAX


@relaxed
@given(
    st.one_of(
        st.none(),
        st.integers(),
        st.text(),
        st.dictionaries(st.just("id"), st.one_of(st.none(), st.integers(), st.text())),
    )
)
def test_any_order_gives_a_run_a_name_of_one_line(order: object) -> None:
    name = run_name("order", order)
    assert name.startswith("order ")
    assert len(name) <= 120
    assert len(name.splitlines()) == 1
    name.encode()


def test_a_run_is_named_after_its_order() -> None:
    assert run_name("order", {"id": "ORDER-1001"}) == "order ORDER-1001"
    assert run_name("order", {"id": 7}) == "order 7"
    assert run_name("order", {}) == "order without an id"


def test_what_an_earlier_version_wrote_is_erased_and_nothing_of_a_namesake(tmp_path: Path) -> None:
    s = Settings(VAR_DIR=tmp_path)
    for order_id in ("order-1", "ORDER-1", "Order-1"):
        for name in file_stems(order_id):
            write_atomic(s.label_dir / f"{name}.pdf", b"label")
            write_atomic(s.mail_dir / "new" / f"{name}.refund.eml", b"mail")
    everything = {path.name for path in tmp_path.rglob("*.*")}
    delete_files([{"id": "order-1", "content": {}}], s, find_mails(s))
    erased = everything - {path.name for path in tmp_path.rglob("*.*")}
    assert erased == {f"{name}.{kind}" for name in file_stems("order-1") for kind in ("pdf", "refund.eml")}
