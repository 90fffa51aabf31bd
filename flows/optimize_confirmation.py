"""Makes the program that asks the language model for confirmations better, if it can. By hand: it asks the model some hundred times."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import Field

from shop.confirmation.confirmation import ELEMENTS
from shop.confirmation.optimising.choice import Optimizer
from shop.plain import one_line
from tasks.optimize_program import optimize_program

if TYPE_CHECKING:
    from shop.confirmation.optimising.evaluate import Evaluation
    from shop.confirmation.optimising.run import Optimized

ARTIFACT = "confirmation-program"
_TEXTS = 3
_LONGEST = 400

Demonstrations = Annotated[int, Field(ge=1, le=12)]
Calls = Annotated[int, Field(ge=20, le=5000)]


def _run_name() -> str:
    return f"optimisation of {datetime.now(UTC):%Y-%m-%d %H:%M}"


@flow(name="optimize-confirmation", flow_run_name=_run_name, persist_result=False)
async def optimize_confirmation(
    optimizer: Optimizer = Optimizer.AUTO, demonstrations: Demonstrations = 4, calls: Calls = 150
) -> State[str]:
    """Lets an optimiser learn from the invented orders that ship with the project, and compares the result with the program in use,
    on others that it has not seen.

    Ends as `Saved` if it was better: the next order is written with it; else as `Kept`. Fails, and changes nothing, if the model does
    not answer. The artifact `confirmation-program` shows both.

    Args:
        optimizer: bootstrap (BootstrapFewShot) keeps the model's own good answers as demonstrations. mipro (MIPROv2) tries other
            instructions too. gepa lets the reflection model read what was wrong and rewrite the instructions. auto is gepa if
            DSPY_REFLECTION_MODEL is set, else mipro from 40 training orders on, else bootstrap.
        demonstrations: How many examples the program may show with each order, at most. Each makes the prompt longer.
        calls: About how many texts mipro and gepa may try; bootstrap asks for each training order at most once.
    """
    found = await optimize_program(optimizer, demonstrations, calls)
    summary = _summary(found)
    get_run_logger().info("%s", summary)
    await acreate_markdown_artifact(key=ARTIFACT, markdown="\n".join(_page(found, summary)), description=summary)
    return Completed(name="Saved" if found.saved else "Kept", message=summary, data=summary)


def _summary(found: Optimized) -> str:
    scores = f"{found.before.score:.3f} before, {found.after.score:.3f} after"
    if found.saved:
        return f"{scores}: saved as {found.saved.version}"
    return f"{scores}: not better, so {found.before.program.version} stays"


def _page(found: Optimized, summary: str) -> Iterator[str]:
    before, after = found.before, found.after
    many = len(after.results)
    yield f"# {summary}\n"
    yield "| | before | after |\n| --- | --- | --- |"
    yield f"| score, 0 to 1 | {before.score:.3f} | {after.score:.3f} |"
    yield f"| texts that may leave | {before.fit} of {many} | {after.fit} of {many} |"
    yield f"| program | {before.program.version} | {found.saved.version if found.saved else 'not saved'} |"
    yield f"| demonstrations | {len(before.program.demonstrations)} | {len(after.program.demonstrations)} |"
    yield f"\nModel {_cell(found.model)}, optimiser {found.optimizer}, {found.seconds:.0f} s."
    yield f"Learned from {found.learned_from} orders, judged by {many} others. All orders are invented.\n"
    if found.warning:
        yield f"{_cell(found.warning)}\n"
    yield from _failures(before, after)
    yield "\n## Texts\n"
    for old, new in list(zip(before.results, after.results, strict=True))[:_TEXTS]:
        yield f"### {_cell(new.example.facts.order_id)}\n"
        for name, result in (("before", old), ("after", new)):
            yield f"{name}, {result.score.value:.3f}:\n"
            yield from [f"    {line}" for line in _lines(result.texts)]
            yield ""


def _failures(before: Evaluation, after: Evaluation) -> Iterator[str]:
    old, new = before.failures, after.failures
    yield "## Checks that texts failed\n"
    if not old and not new:
        yield "None."
        return
    yield "| check | texts before | texts after |\n| --- | --- | --- |"
    for check in sorted({*old, *new}, key=lambda name: (-old[name] - new[name], name)):
        yield f"| {_cell(check)} | {old[check]} | {new[check]} |"


def _lines(texts: dict[str, str]) -> list[str]:
    """As code, so that nothing in a model's text is a heading, a link or a picture."""
    return [one_line(texts[name], _LONGEST) for name in ELEMENTS if name in texts] or ["(no text)"]


def _cell(text: str) -> str:
    return one_line(text).replace("|", "/").replace("<", "").replace("`", "")
