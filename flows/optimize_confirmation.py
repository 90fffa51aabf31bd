"""Optimises the program that asks the language model for confirmations. Started manually, because it sends
the model some hundred requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import Field

from flows.runs import started_by
from shop.confirmation.confirmation import ELEMENTS
from shop.confirmation.program_versions import Optimizer
from shop.runtime.extras import needs_extra
from shop.settings import settings
from shop.text.sanitize import one_line

if TYPE_CHECKING:
    from shop.confirmation.optimising import Evaluation, Optimized

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
    """Lets one of DSPy's optimisers make a program from the examples that ship with the project, and compares
    it with the program in use on other examples.

    Ends as `Saved` if it is better: every worker uses it within seconds; otherwise as `Kept`. Fails, and
    changes nothing, if the model does not answer. The artifact `confirmation-program` shows both.

    Args:
        optimizer: bootstrap (BootstrapFewShot) keeps the model's own good answers as demonstrations. mipro
            (MIPROv2) tries other instructions too. gepa lets the reflection model analyse faults and rewrite
            the instructions. auto is gepa if DSPY_REFLECTION_MODEL is set, else bootstrap.
        demonstrations: Limits the examples in the prompt. Each makes the prompt longer.
        calls: Approximate number of texts that mipro and gepa may try; bootstrap requests each training
            example at most once.
    """
    found = await optimize_program(optimizer, demonstrations, calls, await started_by())
    summary = _summary(found)
    get_run_logger().info("%s", summary)
    await acreate_markdown_artifact(
        key=ARTIFACT, markdown="\n".join(_page(found, summary)), description=summary
    )
    return Completed(name="Saved" if found.saved else "Kept", message=summary, data=summary)


@task(name="optimize_program", cache_policy=NO_CACHE, persist_result=False)
async def optimize_program(optimizer: Optimizer, demonstrations: int, calls: int, by: str) -> Optimized:
    """Runs the optimiser in a thread, because it blocks. A cancelled run ends at the model's next answer and
    saves nothing. `by`: who started it."""
    with needs_extra("llm", "optimize-confirmation"):
        from shop.confirmation.optimising import run

    stop = threading.Event()
    report = get_run_logger().info
    work = partial(
        run, settings(), optimizer, shown=demonstrations, calls=calls, stop=stop, report=report, by=by
    )
    try:
        return await asyncio.to_thread(work)
    except asyncio.CancelledError:
        stop.set()
        raise


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
    yield f"| texts that may be sent | {before.fit} of {many} | {after.fit} of {many} |"
    yield f"| program | {before.program.version} | {found.saved.version if found.saved else 'not saved'} |"
    demonstrations = [len(program.writer.write.demos) for program in (before.program, after.program)]
    yield f"| demonstrations | {demonstrations[0]} | {demonstrations[1]} |"
    yield f"\nModel {_cell(found.model)}, optimiser {found.optimizer}, {found.seconds:.0f} s."
    yield f"Trained on {found.learned_from} examples, evaluated on {many} others.\n"
    if before.program.warning:
        yield f"{_cell(before.program.warning)}\n"
    yield from _faults(before, after)
    yield "\n## Texts\n"
    for old, new in list(zip(before.results, after.results, strict=True))[:_TEXTS]:
        yield f"### {_cell(new[0].language)}, {_cell(new[0].tone)}, {_cell(new[0].order_size)}\n"
        for name, (_, answer, score) in (("before", old), ("after", new)):
            yield f"{name}, {score.value:.3f}:\n"
            yield from [f"    {line}" for line in _lines(answer)]
            yield ""


def _faults(before: Evaluation, after: Evaluation) -> Iterator[str]:
    old, new = before.reasons, after.reasons
    yield "## Faults of the texts\n"
    if not old and not new:
        yield "Nothing."
        return
    yield "| fault | texts before | texts after |\n| --- | --- | --- |"
    for fault in sorted({*old, *new}, key=lambda name: (-old[name] - new[name], name)):
        yield f"| {_cell(fault)} | {old[fault]} | {new[fault]} |"


def _lines(answer: Any) -> list[str]:
    """Formats an answer as code, so that a model's text contains no heading, link or picture."""
    texts = [answer.get(name) for name in ELEMENTS]
    return [one_line(text, _LONGEST) for text in texts if isinstance(text, str)] or ["(no text)"]


def _cell(text: str) -> str:
    return one_line(text).replace("|", "/").replace("<", "").replace("`", "")
