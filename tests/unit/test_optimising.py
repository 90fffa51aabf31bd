"""The metric and the examples."""

from __future__ import annotations

from typing import Any

import dspy  # type: ignore[import-untyped]
import pytest

from shop.confirmation.optimising import FIT, Evaluation, Score, metric, score
from shop.confirmation.program import Program
from shop.confirmation.signature import INPUTS, OUTPUTS, ConfirmationWriter, demonstrations, examples
from shop.settings import Settings

SETTINGS = Settings(_env_file=None, DSPY_MODEL=None)
BOTH = SETTINGS.with_values(MAIL_LANGUAGE_BY_COUNTRY={"DE": "de"})
TRAINING, EVALUATION = examples("training", BOTH), examples("evaluation", BOTH)
EXAMPLE = TRAINING[0]


def good(**changes: str) -> Any:
    return dspy.Prediction(**{**{name: EXAMPLE[name] for name in OUTPUTS}, **changes})


class TestExamples:
    def test_none_is_in_both_sets(self) -> None:
        inputs = [tuple(sorted(example.inputs().toDict().items())) for example in TRAINING + EVALUATION]
        assert len(inputs) == len(set(inputs))

    def test_are_in_the_languages_of_the_shop_s_mails(self) -> None:
        for kind in ("training", "evaluation"):
            assert {example.code for example in examples(kind, SETTINGS)} == {"en"}
            assert {example.code for example in examples(kind, BOTH)} == {"en", "de"}
            french = SETTINGS.with_values(MAIL_LANGUAGE="fr")
            assert {example.code for example in examples(kind, french)} == {"en", "de"}

    def test_texts_to_learn_from_are_as_good_as_can_be(self) -> None:
        assert [
            (example, found) for example in TRAINING if (found := score(example, example.code)).value < 1
        ] == []

    def test_demonstrations_have_the_fields_of_the_signature(self) -> None:
        assert all(set(shown.keys()) == INPUTS | OUTPUTS for shown in demonstrations(BOTH))


class TestMetric:
    def test_no_text_is_nothing(self) -> None:
        assert score(dspy.Prediction(), "en").value == 0

    def test_each_mistake_costs(self) -> None:
        one = score(good(next_steps="It takes {delivery}. A refund!"), "en")
        two = score(good(next_steps="It takes {delivery}. A refund tomorrow!"), "en")
        assert 0 < two.value < one.value < FIT
        assert one.reasons == ("next_steps: promises: refund",)

    def test_a_missing_element_is_not_fit(self) -> None:
        found = score(good(tracking_info=" "), "en")
        assert not found.fit
        assert "missing element: tracking_info" in found.reasons

    @pytest.mark.parametrize(
        ("changes", "failed"),
        [
            ({"greeting": "Dear {customer_name}, your order is here."}, "complete: the greeting says thanks"),
            ({"greeting": "Dear {customer_name}! Thank you!"}, "tone: no shouting"),
            ({"tracking_info": "{tracking}"}, "tone: neither curt nor long"),
            ({"next_steps": "Look: {delivery}" + " so" * 99}, "tone: neither curt nor long"),
        ],
    )
    def test_what_may_be_sent_is_judged_by_its_tone(self, changes: dict[str, str], failed: str) -> None:
        found = score(good(**changes), "en")
        assert FIT <= found.value < 1
        assert failed in found.reasons

    def test_gepa_gets_the_reasons_in_words(self) -> None:
        bad = good(next_steps="It takes {delivery}. A refund!")
        assert metric(EXAMPLE, bad) == score(bad, "en").value
        found = metric(EXAMPLE, bad, None, "write", None)
        assert (found.score, found.feedback) == (score(bad, "en").value, "next_steps: promises: refund")


def evaluation(*values: float) -> Evaluation:
    return Evaluation(
        Program(ConfirmationWriter()), [(EXAMPLE, good(), Score(value, ())) for value in values]
    )


@pytest.mark.parametrize(
    ("after", "before", "better"),
    [
        ((0.8, 0.8), (0.7, 0.8), True),
        ((0.8, 0.8), (0.8, 0.8), False),
        ((0.7, 0.8), (0.8, 0.8), False),
        ((1.0, 1.0, 0.4), (0.75, 0.75, 0.75), False),  # nicer, but one text fewer may be sent
    ],
)
def test_better_is_a_higher_score_and_no_text_fewer(
    after: tuple[float, ...], before: tuple[float, ...], better: bool
) -> None:
    assert evaluation(*after).better_than(evaluation(*before)) is better
