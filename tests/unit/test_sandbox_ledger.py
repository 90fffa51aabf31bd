"""The sandbox's ledger keeps its promises about money, whatever is asked of it in whatever order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from pydantic import ValidationError

from shop.payments.gateway import PaymentStatus
from shop.payments.sandbox.behaviour import TEST_CARDS, Behaviour, Fate
from shop.payments.sandbox.ledger import Ledger
from shop.payments.sandbox.records import MAX_AMOUNT, AnswerLost, PaymentRecord, Refusal

CREATED, SUCCEEDED, DECLINED, CANCELLED = (
    PaymentStatus.CREATED,
    PaymentStatus.SUCCEEDED,
    PaymentStatus.DECLINED,
    PaymentStatus.CANCELLED,
)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with closing(Ledger(None)) as ledger:
        yield ledger


def new(ledger: Ledger, order_id: str = "O-1", **other: Any) -> PaymentRecord:
    given: dict[str, Any] = {
        "amount": 10_00,
        "currency": "USD",
        "method": "credit_card",
        "card_last4": "1234",
        "token": None,
        "key": None,
    }
    return ledger.create(order_id=order_id, **(given | other))


def charged(ledger: Ledger, **other: Any) -> PaymentRecord:
    return ledger.confirm(new(ledger, **other).id, key=None)


def money(ledger: Ledger) -> dict[str, tuple[int, int]]:
    return {each.currency: (each.charged, each.refunded) for each in ledger.totals()}


# -- any sequence of operations

_keys = st.sampled_from([None, None, "a", "b", "c", "d"])


class AnyHistory(RuleBasedStateMachine):
    """Does anything to a ledger, with few keys, so that they meet again;
    remembers what each key was answered."""

    payments = Bundle("payments")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(None)
        self.answers: dict[str, tuple[object, object]] = {}
        self.before: dict[str, PaymentRecord] = {}

    def teardown(self) -> None:
        self.ledger.close()

    def ask(self, key: str | None, request: object, call: Callable[[], Any]) -> Any:
        """What the ledger answers, after checking that the key was honoured."""
        keep = True
        outcome: object
        try:
            outcome = call()
        except AnswerLost as lost:
            outcome = lost.payment
        except Refusal as refusal:
            outcome, keep = (refusal.status, refusal.code), refusal.status in {400, 402}
        if key is None or self.ledger.behaviour.forget_keys:
            return outcome
        if key in self.answers:
            asked, answered = self.answers[key]
            assert outcome == (
                answered if asked == request else (HTTPStatus.CONFLICT, "idempotency_conflict")
            )
        elif keep:
            self.answers[key] = (request, outcome)
        return outcome

    @rule(
        target=payments,
        order_id=st.sampled_from(["O-1", "O-2"]),
        amount=st.integers(1, 500),
        currency=st.sampled_from(["USD", "JPY", "KWD"]),
        card=st.sampled_from(["1234", None, "0341", *TEST_CARDS]),
        key=_keys,
    )
    def create(self, order_id: str, amount: int, currency: str, card: str | None, key: str | None) -> Any:
        request = ("create", order_id, amount, currency, card)
        made = self.ask(
            key,
            request,
            lambda: new(self.ledger, order_id, amount=amount, currency=currency, card_last4=card, key=key),
        )
        return made.id if isinstance(made, PaymentRecord) else multiple()

    @rule(payment=payments, key=_keys)
    def confirm(self, payment: str, key: str | None) -> None:
        answer = self.ask(key, ("confirm", payment), lambda: self.ledger.confirm(payment, key=key))
        if isinstance(answer, PaymentRecord):
            assert answer.status is SUCCEEDED

    @rule(payment=payments, key=_keys)
    def cancel(self, payment: str, key: str | None) -> None:
        answer = self.ask(key, ("cancel", payment), lambda: self.ledger.cancel(payment, key=key))
        if isinstance(answer, PaymentRecord):
            assert answer.status is not CREATED
            assert self.ledger.get(payment).status is answer.status

    @rule(
        payment=payments,
        share=st.sampled_from([0.3, 0.5, 1, 1.5]),
        right_currency=st.sampled_from([True, True, True, False]),
        key=_keys,
    )
    def refund(self, payment: str, share: float, right_currency: bool, key: str | None) -> None:
        known = self.ledger.get(payment)
        amount, currency = max(1, int(known.amount * share)), known.currency if right_currency else "EUR"
        request = ("refund", payment, amount, currency)
        self.ask(key, request, lambda: self.ledger.refund(payment, amount=amount, currency=currency, key=key))

    @rule(forget=st.booleans())
    def switch(self, forget: bool) -> None:
        self.ledger.behaviour = Behaviour(forget_keys=forget)

    @invariant()
    def books_balance(self) -> None:
        every = self.ledger.list(limit=1000).data
        sums: dict[str, tuple[int, int]] = {}
        for payment in every:
            assert payment.refunded == sum(refund.amount for refund in payment.refunds)
            assert payment.refunded <= (payment.amount if payment.status is SUCCEEDED else 0)
            assert (
                (payment.charge_id is not None)
                == (payment.charged_at is not None)
                == (payment.status is SUCCEEDED)
            )
            if payment.status is SUCCEEDED:
                so_far = sums.get(payment.currency, (0, 0))
                sums[payment.currency] = (so_far[0] + payment.amount, so_far[1] + payment.refunded)
        assert money(self.ledger) == sums

    @invariant()
    def what_is_done_stays_done(self) -> None:
        now = {payment.id: payment for payment in self.ledger.list(limit=1000).data}
        for id_, before in self.before.items():
            assert now[id_].amount == before.amount
            assert now[id_].refunds[: len(before.refunds)] == before.refunds
            if before.status is not CREATED:
                charge = (before.status, before.charge_id, before.charged_at, before.fee)
                assert (now[id_].status, now[id_].charge_id, now[id_].charged_at, now[id_].fee) == charge
        self.before = now


AnyHistory.TestCase.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, database=None
)
TestAnyHistory = AnyHistory.TestCase


# -- test cards


@pytest.mark.parametrize(("card", "code"), [("0000", "card_declined"), ("0002", "insufficient_funds")])
def test_a_declined_card_stays_declined_and_pays_nothing(ledger: Ledger, card: str, code: str) -> None:
    payment = new(ledger, card_last4=card)
    for _ in range(2):
        with pytest.raises(Refusal, match=code) as refusal:
            ledger.confirm(payment.id, key=None)
        assert (refusal.value.status, refusal.value.retryable) == (402, False)
    assert ledger.get(payment.id).status is ledger.cancel(payment.id, key=None).status is DECLINED
    assert money(ledger) == {}


def test_a_flaky_card_pays_once_at_the_third_try_under_one_key(ledger: Ledger) -> None:
    payment = new(ledger, card_last4="0119")
    for _ in range(2):
        with pytest.raises(Refusal, match="processing_error") as refusal:
            ledger.confirm(payment.id, key="confirm")
        assert (refusal.value.status, refusal.value.retryable) == (503, True)
        assert money(ledger) == {}
    assert ledger.confirm(payment.id, key="confirm").status is SUCCEEDED
    assert money(ledger) == {"USD": (10_00, 0)}


def test_a_flaky_card_fails_twice_for_each_payment(ledger: Ledger) -> None:
    for payment in (new(ledger, card_last4="0119"), new(ledger, card_last4="0119")):
        for _ in range(2):
            with pytest.raises(Refusal, match="processing_error"):
                ledger.confirm(payment.id, key=None)
        ledger.confirm(payment.id, key=None)
    assert money(ledger) == {"USD": (20_00, 0)}


@pytest.mark.parametrize("key", [None, "confirm"])
def test_a_lost_answer_has_charged_once_and_is_found_later(ledger: Ledger, key: str | None) -> None:
    payment = new(ledger, card_last4="0341")
    with pytest.raises(AnswerLost) as lost:
        ledger.confirm(payment.id, key=key)
    assert lost.value.payment == ledger.get(payment.id) == ledger.confirm(payment.id, key=key)
    assert money(ledger) == {"USD": (10_00, 0)}


def test_a_card_that_takes_no_refunds_keeps_the_charge(ledger: Ledger) -> None:
    payment = charged(ledger, card_last4="0259")
    with pytest.raises(Refusal, match="refund_refused") as refusal:
        ledger.refund(payment.id, amount=1, currency="USD", key=None)
    assert not refusal.value.retryable
    assert money(ledger) == {"USD": (10_00, 0)}


# -- the state machine


def test_a_cancelled_payment_can_never_be_charged(ledger: Ledger) -> None:
    payment = new(ledger)
    assert ledger.cancel(payment.id, key=None).status is CANCELLED
    with pytest.raises(Refusal, match="payment_cancelled") as refusal:
        ledger.confirm(payment.id, key=None)
    assert refusal.value.status == 402
    assert money(ledger) == {}


def test_a_charge_cannot_be_cancelled_and_confirming_it_again_charges_nothing(ledger: Ledger) -> None:
    payment = charged(ledger)
    assert ledger.cancel(payment.id, key=None) == ledger.confirm(payment.id, key=None) == payment
    assert money(ledger) == {"USD": (10_00, 0)}


@pytest.mark.parametrize("finish", [Ledger.cancel, None])
def test_what_was_not_charged_is_not_refunded(ledger: Ledger, finish: Callable[..., object] | None) -> None:
    payment = new(ledger)
    if finish:
        finish(ledger, payment.id, key=None)
    with pytest.raises(Refusal, match="payment_not_charged"):
        ledger.refund(payment.id, amount=1, currency="USD", key=None)
    assert money(ledger) == {}


def test_a_refund_refused_too_early_is_not_refused_for_ever(ledger: Ledger) -> None:
    payment = new(ledger)
    with pytest.raises(Refusal, match="payment_not_charged"):
        ledger.refund(payment.id, amount=10_00, currency="USD", key="refund")
    ledger.confirm(payment.id, key=None)
    ledger.refund(payment.id, amount=10_00, currency="USD", key="refund")
    assert money(ledger) == {"USD": (10_00, 10_00)}


def test_refunds_never_exceed_the_charge_and_report_whether_money_was_refunded(ledger: Ledger) -> None:
    payment = charged(ledger)

    def refund(amount: int) -> None:
        ledger.refund(payment.id, amount=amount, currency="USD", key=None)

    with pytest.raises(Refusal, match="amount_too_large"):
        refund(10_01)
    refund(4_00)
    with pytest.raises(Refusal, match="charge_already_refunded"):
        refund(6_01)
    refund(6_00)
    with pytest.raises(Refusal, match="charge_already_refunded"):
        refund(1)
    assert [each.amount for each in ledger.get(payment.id).refunds] == [4_00, 6_00]
    assert money(ledger) == {"USD": (10_00, 10_00)}


@pytest.mark.parametrize(("amount", "fee"), [(1, 30), (17, 30), (18, 31), (10_00, 59), (1_059_97, 3_104)])
def test_the_fee_is_2_9_percent_and_30_units_once_charged(ledger: Ledger, amount: int, fee: int) -> None:
    payment = new(ledger, amount=amount)
    assert payment.fee == 0
    assert ledger.confirm(payment.id, key=None).fee == fee


# -- idempotency keys


def test_a_key_replays_the_first_answer_as_it_was(ledger: Ledger) -> None:
    created = new(ledger, key="create")
    paid = ledger.confirm(created.id, key="confirm")
    part = ledger.refund(created.id, amount=4_00, currency="USD", key="part")
    rest = ledger.refund(created.id, amount=6_00, currency="USD", key="rest")
    assert new(ledger, key="create") == created
    assert ledger.confirm(created.id, key="confirm") == paid
    assert ledger.refund(created.id, amount=4_00, currency="USD", key="part") == part
    assert ledger.refund(created.id, amount=6_00, currency="USD", key="rest") == rest
    assert ledger.get(created.id).refunds == (part, rest)
    assert money(ledger) == {"USD": (10_00, 10_00)}


@pytest.mark.parametrize(
    "other",
    [
        {"amount": 10_01},
        {"currency": "EUR"},
        {"order_id": "O-2"},
        {"card_last4": "4321"},
        {"token": "tok_1"},
        {"method": "paypal"},
    ],
)
def test_a_key_is_for_one_request(ledger: Ledger, other: dict[str, Any]) -> None:
    new(ledger, key="k")
    with pytest.raises(Refusal, match="idempotency_conflict"):
        new(ledger, **({"key": "k"} | other))
    assert len(ledger.list().data) == 1


def test_forgotten_keys_make_two_payments_but_never_two_charges_of_one(ledger: Ledger) -> None:
    ledger.behaviour = Behaviour(forget_keys=True)
    first, second = new(ledger, key="create"), new(ledger, key="create")
    assert first.id != second.id
    for _ in range(2):
        ledger.confirm(first.id, key="confirm")
    ledger.refund(first.id, amount=6_00, currency="USD", key="refund")
    with pytest.raises(Refusal, match="charge_already_refunded"):
        ledger.refund(first.id, amount=6_00, currency="USD", key="refund")
    assert money(ledger) == {"USD": (10_00, 6_00)}


# -- what it does not accept


@pytest.mark.parametrize(
    "wrong",
    [
        {"order_id": ""},
        {"order_id": "x" * 501},
        {"order_id": "\ud800"},
        {"amount": 0},
        {"amount": -1},
        {"amount": MAX_AMOUNT + 1},
        {"currency": "usd"},
        {"currency": "XXX"},
        {"method": ""},
        {"method": "4242424242424242"},
        {"card_last4": "123"},
        {"card_last4": "12345"},
        {"card_last4": "4242424242424242"},
        {"card_last4": "12a4"},
        {"card_last4": "١٢٣٤"},
        {"card_last4": ""},
        {"token": "4242424242424242"},
        {"token": "tok_4242-4242-4242-4242"},
        {"token": "3782 822463 10005"},
        {"token": "t" * 256},
        {"key": ""},
        {"key": "a b"},
        {"key": "é"},
        {"key": "k" * 256},
    ],
    ids=repr,
)
def test_nonsense_is_refused_and_leaves_nothing(ledger: Ledger, wrong: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refusal:
        new(ledger, **wrong)
    assert (refusal.value.status, refusal.value.code, refusal.value.retryable) == (
        400,
        "invalid_request",
        False,
    )
    assert not any(
        value in str(refusal.value) for value in wrong.values() if isinstance(value, str) and len(value) > 4
    )
    assert ledger.list().data == ()


@pytest.mark.parametrize(
    "order_id",
    ["../../x", "🛒" * 75, "x" * 300, "a\x00b", "'; DROP TABLE payments; --", " ", "4242424242424242"],
)
def test_any_text_is_an_order_id(ledger: Ledger, order_id: str) -> None:
    payment = new(ledger, order_id)
    assert ledger.find(order_id) == (payment,)
    assert ledger.find(order_id + "x") == ()


@pytest.mark.parametrize(
    "id_",
    [
        "",
        "pay_1",
        "../../x",
        "\ud800",
        "1",
        "pay_{name}_01",
        "pay_{name}_0",
        "pay_{name}_2",
        "pay_{name}_" + "9" * 30,
    ],
)
def test_an_unknown_id_is_no_payment(ledger: Ledger, id_: str) -> None:
    name = new(ledger).id.split("_")[1]
    id_ = id_.replace("{name}", name)
    for ask in (
        lambda: ledger.get(id_),
        lambda: ledger.confirm(id_, key=None),
        lambda: ledger.list(starting_after=id_),
    ):
        with pytest.raises(Refusal, match="no_such_payment"):
            ask()


def test_the_token_is_not_stored(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(Ledger(path)) as ledger:
        new(ledger, token="tok_secret", key="k")
        new(ledger, token="tok_secret", key="k")
    assert not any(b"tok_secret" in file.read_bytes() for file in tmp_path.iterdir())


# -- listing and keeping


@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_pages_hold_every_payment_once_newest_first(ledger: Ledger, size: int) -> None:
    made = [new(ledger, f"O-{number}").id for number in range(7)]
    seen: list[str] = []
    page = ledger.list(limit=size)
    while page.has_more:
        seen += [payment.id for payment in page.data]
        new(ledger, "meanwhile")
        page = ledger.list(limit=size, starting_after=seen[-1])
    seen += [payment.id for payment in page.data]
    assert seen == made[::-1]


def test_an_order_s_payments_are_found_oldest_first(ledger: Ledger) -> None:
    first, _, second = new(ledger), new(ledger, "O-2"), new(ledger)
    assert ledger.find("O-1") == (first, second)


def test_totals_are_kept_apart_by_currency(ledger: Ledger) -> None:
    charged(ledger, currency="JPY", amount=500)
    payment = charged(ledger, currency="KWD", amount=1_234)
    ledger.refund(payment.id, amount=234, currency="KWD", key=None)
    with pytest.raises(Refusal, match="currency_mismatch"):
        ledger.refund(payment.id, amount=1, currency="JPY", key=None)
    assert money(ledger) == {"JPY": (500, 0), "KWD": (1_234, 234)}


def test_a_file_keeps_everything_and_its_ids(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.db"
    with closing(Ledger(path)) as ledger:
        payment = charged(ledger, key="create")
        refund = ledger.refund(payment.id, amount=1, currency="USD", key="refund")
    with closing(Ledger(path)) as again:
        assert again.get(payment.id).refunds == (refund,)
        assert again.refund(payment.id, amount=1, currency="USD", key="refund") == refund
        assert money(again) == {"USD": (10_00, 1)}


def test_an_id_of_another_ledger_means_nothing(ledger: Ledger) -> None:
    with closing(Ledger(None)) as other:
        foreign = new(other)
    new(ledger)
    with pytest.raises(Refusal, match="no_such_payment"):
        ledger.confirm(foreign.id, key=None)


# -- misbehaviour


def test_fates_follow_the_seed_and_the_shares(ledger: Ledger) -> None:
    def fates(seed: int) -> list[Fate]:
        ledger.behaviour = Behaviour(error_rate=0.2, hang_rate=0.1, seed=seed)
        return [ledger.next_fate() for _ in range(10_000)]

    drawn = fates(1)
    assert drawn == fates(1) != fates(2)
    shares = {fate: drawn.count(fate) / len(drawn) for fate in Fate}
    wanted = {Fate.ANSWERED: 0.7, Fate.FAILS_BEFORE: 0.1, Fate.FAILS_AFTER: 0.1, Fate.HANGS: 0.1}
    assert shares == pytest.approx(wanted, abs=0.02)


def test_without_faults_it_answers_everything(ledger: Ledger) -> None:
    assert {ledger.next_fate() for _ in range(1000)} == {Fate.ANSWERED}


def test_switches_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_FORGET_KEYS", "true")
    monkeypatch.setenv("SANDBOX_ERROR_RATE", "0.25")
    monkeypatch.setenv("SANDBOX_LATENCY_MS", "")
    assert Behaviour.from_env() == Behaviour(forget_keys=True, error_rate=0.25)


@pytest.mark.parametrize(
    "wrong",
    [
        {"error_rate": 1.1},
        {"error_rate": -0.1},
        {"error_rate": 0.6, "hang_rate": 0.6},
        {"latency_ms": -1},
        {"latency": 1},
    ],
    ids=repr,
)
def test_switches_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Behaviour.model_validate(wrong)


def test_a_failure_inside_leaves_nothing_half_done(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    payment = charged(ledger)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(Ledger, "_record", fail)
    with suppress(RuntimeError):
        ledger.refund(payment.id, amount=1, currency="USD", key="k")
    monkeypatch.undo()
    assert money(ledger) == {"USD": (10_00, 0)}
    ledger.refund(payment.id, amount=1, currency="USD", key="k")
    assert money(ledger) == {"USD": (10_00, 1)}
