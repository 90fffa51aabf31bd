"""The metric, the examples, and the program's file."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import dspy  # type: ignore[import-untyped]
import pytest

from shop.confirmation import program
from shop.confirmation.optimising.examples import demonstrations, examples
from shop.confirmation.optimising.metric import FIT, Score, metric, score
from shop.confirmation.optimising.run import Evaluation
from shop.confirmation.program import PLAIN, Program, UnusableProgram, in_use, load, save
from shop.confirmation.signature import INPUTS, OUTPUTS, ConfirmationWriter
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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "confirmation" / "program.json"


def saved(path: Path, instructions: str = "Write well.", many: int = 2) -> Program:
    writer = ConfirmationWriter()
    writer.write.signature = writer.write.signature.with_instructions(instructions)
    writer.write.demos = demonstrations(SETTINGS)[:many]
    return save(writer, path)


def using(path: Path) -> Settings:
    return SETTINGS.with_values(DSPY_MODEL="openai/a", CONFIRMATION_PROGRAM=path)


def shown(found: Program) -> tuple[str, list[dict[str, str]]]:
    return found.writer.write.signature.instructions, [dict(demo) for demo in found.writer.write.demos]


class TestFile:
    def test_what_was_saved_is_in_use_at_once(self, path: Path) -> None:
        assert (in_use(using(path)).version, in_use(using(path)).warning) == (PLAIN, None)
        first = saved(path)
        assert (in_use(using(path)).version, in_use(using(path)).warning) == (first.version, None)
        assert shown(in_use(using(path))) == shown(first)
        second = saved(path, "Write better.")
        assert in_use(using(path)).version == second.version != first.version
        assert shown(in_use(using(path)))[0] == "Write better."
        path.unlink()
        assert in_use(using(path)).version == PLAIN

    def test_an_unchanged_file_is_read_once(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        saved(path)
        in_use(using(path))
        monkeypatch.setattr(program, "load", lambda _: pytest.fail("read again"))
        assert in_use(using(path)).warning is None

    def test_nobody_reads_half_a_file(self, path: Path) -> None:
        saved(path)
        seen: list[str | None] = []
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                seen.append(in_use(using(path)).warning)

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(50):
            saved(path, f"Write well, {number}.", number % 3)
        done.set()
        reader.join(30)
        assert seen
        assert set(seen) == {None}

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"null", b"[]", b"\xff\xfe", b"{}", b'{"write": 1}', b"x" * 1_000_001, b"[" * 100_000],
        ids=["empty", "broken", "null", "list", "no text", "incomplete", "wrong type", "large", "deep"],
    )
    def test_a_broken_file_is_a_warning(self, path: Path, content: bytes) -> None:
        path.parent.mkdir()
        path.write_bytes(content)
        found = in_use(using(path))
        assert found.version == PLAIN
        assert str(found.warning).startswith("confirmation program not used: ")

    @pytest.mark.parametrize(
        "change",
        [
            {"signature": {"instructions": "Write.", "fields": [{"prefix": "Evil:", "description": "evil"}]}},
            {"signature": {}},
            {"demos": [{"greeting": {"evil": "evil"}}]},
            {"demos": [{"greeting": "evil"}]},
            {"demos": [{**dict(demonstrations(SETTINGS)[0]), "notes": "evil"}]},
        ],
    )
    def test_a_file_that_does_not_fit_is_a_warning(self, path: Path, change: dict[str, Any]) -> None:
        saved(path)
        state = json.loads(path.read_text())
        path.write_text(json.dumps({**state, "write": {**state["write"], **change}}))
        found = in_use(using(path))
        assert found.version == PLAIN
        assert found.warning
        assert "evil" not in found.warning

    def test_the_file_of_an_earlier_version_is_a_warning(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_text(
            json.dumps(
                {
                    "format": 1,
                    "version": "20310203T040506Z-01234",
                    "instructions": "Write.",
                    "demonstrations": [],
                }
            )
        )
        found = in_use(using(path))
        assert found.version == PLAIN
        assert found.warning

    def test_another_model_in_the_file_is_not_used(self, path: Path) -> None:
        saved(path)
        state = json.loads(path.read_text())
        lm = {"model": "openai/evil", "api_base": "http://evil.example", "model_type": "chat"}
        path.write_text(json.dumps({**state, "write": {**state["write"], "lm": lm}}))
        assert in_use(using(path)).writer.write.lm is None

    def test_a_program_for_another_signature_is_refused(self, path: Path) -> None:
        saved(path)
        path.write_text(path.read_text().replace("the language to write in", "another field"))
        with pytest.raises(UnusableProgram, match="another signature"):
            load(path)

    def test_a_folder_in_its_place_is_a_warning(self, path: Path) -> None:
        path.mkdir(parents=True)
        assert "IsADirectoryError" in str(in_use(using(path)).warning)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_a_file_that_may_not_be_read_is_a_warning(self, path: Path) -> None:
        saved(path)
        path.chmod(0)
        assert "PermissionError" in str(in_use(using(path)).warning)

    def test_a_local_model_is_shown_examples_from_the_start(self, path: Path) -> None:
        local = using(path).with_values(DSPY_MODEL="local/smollm2-135m")
        assert in_use(local).writer.write.demos == demonstrations(SETTINGS)[:3]
        assert in_use(using(path)).writer.write.demos == []
