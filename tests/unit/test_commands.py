"""The command `order-saga`: quick to answer, and clear about what somebody calls wrongly."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from decimal import Decimal
from importlib import import_module
from pathlib import Path

import pytest

from deployments.cli import make_app, order_saga
from deployments.cli.review import in_commands
from deployments.environment import environment
from shop.review import attention
from shop.review.attention import ReviewCase

HOME = Path(__file__).resolve().parent.parent.parent
NOWHERE = "postgresql://postgres@127.0.0.1:1/nowhere"
COMMANDS = (
    "run demo check submit status books show review worker web migrate setup inventory-service sandbox"
).split()
HEAVY = (
    "prefect",
    "sqlalchemy",
    "psycopg",
    "fastapi",
    "dspy",
    "stripe",
    "flows",
    "saga.database",
    "shop.settings",
)


Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `order-saga` where no server answers. Returns its exit code, and what it said."""

    def run(*arguments: str, **settings: str) -> tuple[int, str]:
        with environment({"DATABASE_URL": NOWHERE, "PREFECT_API_URL": "http://127.0.0.1:1/api", **settings}):
            try:
                code = order_saga(arguments)
            except SystemExit as error:  # Python prints the text and exits with 1
                return 1, str(error)
        return code, "".join(capsys.readouterr())

    return run


@pytest.fixture
def orders(tmp_path: Path) -> str:
    file = tmp_path / "orders.json"
    file.write_text('[{"id": "A"}]')
    return str(file)


def given(command: str, orders: str) -> list[str]:
    """The command with its arguments."""
    needed = {
        "migrate": ["--wait", "0"],
        "submit": [orders],
        "show": ["ORDER-1001"],
        "review list": [],
        "review retry": ["--all", "--by", "ann"],
    }
    return [*command.split(), *needed.get(command, [])]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["no-such-command"]], ids=lambda arguments: arguments[0]
)
def test_only_the_command_that_runs_is_imported(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom deployments.cli import order_saga\nended = order_saga(sys.argv[1:])\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), "
        "sorted(name for name in sys.modules if name.startswith('deployments.cli.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=HOME,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[] []"


def test_help_names_every_command(call: Call) -> None:
    code, output = call("--help")
    assert code == 0
    assert [command for command in COMMANDS if command not in output] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(call: Call, command: str) -> None:
    code, output = call(command, "--help")
    assert code == 0
    assert f"order-saga {command}" in output


def test_completion_offers_commands_and_options(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(make_app().generate_completion(shell="bash"))

    def offered(*words: str) -> list[str]:
        """What the shell would offer for the last word."""
        line = " ".join(words)
        ask = f"""
            source {script}
            COMP_WORDS=({line}) COMP_CWORD={len(words) - 1} COMP_LINE="{line}" COMP_POINT={len(line)}
            complete=$(complete -p order-saga)
            [[ $complete =~ -F\\ ([^ ]+) ]] && "${{BASH_REMATCH[1]}}" order-saga "{words[-1]}" "{words[-2]}"
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.split()

    assert "review" in offered("order-saga", "rev")
    assert "write-off" in offered("order-saga", "review", "wri")
    assert "--no-wait" in offered("order-saga", "submit", "--no")


@pytest.mark.parametrize(
    "command", ["submit", "show", "status", "books", "migrate", "review list", "review retry"]
)
def test_a_wrong_setting_is_named(call: Call, command: str, orders: str) -> None:
    code, output = call(*given(command, orders), BATCH_SIZE="none-of-your-business")
    assert code == 2
    assert "BATCH_SIZE" in output
    assert "none-of-your-business" not in output


@pytest.mark.parametrize("command", ["show", "web"])
def test_a_typo_in_the_monitoring_configuration_is_named(command: str, orders: str, tmp_path: Path) -> None:
    """In a process of its own: the configuration is read when the flows are imported."""
    (config := tmp_path / "monitoring.yaml").write_text("logging: {levl: INFO}\n")
    ran = subprocess.run(
        [sys.executable, "-m", "deployments.cli", *given(command, orders)],
        cwd=HOME,
        env={**os.environ, "DATABASE_URL": NOWHERE, "MONITORING_CONFIG": str(config)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2
    assert "did you mean logging.level?" in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    "command", ["submit", "show", "status", "books", "migrate", "review list", "review retry"]
)
def test_a_database_that_does_not_answer_is_named(call: Call, command: str, orders: str) -> None:
    code, output = call(*given(command, orders))
    assert code == (1 if command == "migrate" else 2)
    assert "database" in output
    assert command == "migrate" or "Connection refused" in " ".join(output.split()), "the driver's reason"


@pytest.mark.parametrize("command", ["check", "books", "status", "migrate", "setup", "review list"])
def test_an_unknown_option_stops_it(call: Call, command: str) -> None:
    code, output = call(*command.split(), "--bogus")
    assert code == 2
    assert "--bogus" in output


def test_an_unknown_command_stops_it(call: Call) -> None:
    code, output = call("reviw")
    assert code == 2
    assert "reviw" in output
    assert "review" in output


@pytest.mark.parametrize(
    "module", [["deployments.trigger"], ["deployments.cli", "submit"]], ids=lambda module: module[0]
)
def test_modules_are_the_command(module: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", *module, str(tmp_path / "none.json")]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "none.json" in done.stdout.replace("\n", "")  # wrapped for a narrow terminal


def test_the_script_of_the_package_is_the_command() -> None:
    scripts = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["order-saga"].partition(":")
    assert getattr(import_module(module), name) is import_module("deployments.cli").main


def test_advice_at_the_command_line_names_its_commands() -> None:
    for code in (*attention._ADVICE, "another"):
        for being_retried in (False, True):
            case = ReviewCase.model_construct(
                error_code=code, amount_at_risk=Decimal(1), currency="USD", being_retried=being_retried
            )
            output = in_commands(attention.advice(case))
            assert "resolve-order" not in output
            assert "'" not in output.replace("'s ", " "), output
            assert "order-saga review" in output


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["submit", "x.json", "--timeout", "-1"], "--timeout"),
        (["submit", "x.json", "--timeout", "nan"], "--timeout"),
        (["cancel", "A", "--timeout", "-1"], "--timeout"),
        (["address", "A", "--timeout", "-0.5"], "--timeout"),
        (["migrate", "--wait", "-1"], "--wait"),
        (["setup", "--wait", "-1"], "--wait"),
        (["status", "--every", "0"], "--every"),
    ],
)
def test_impossible_durations_are_refused(call: Call, arguments: list[str], option: str) -> None:
    code, output = call(*arguments)
    assert code == 2
    assert option in output
    assert "give" in output


def test_choices_are_offered_as_they_are_shown(call: Call) -> None:
    _, output = call("list", "--help")
    assert "under_way" in output
    assert "under-way" not in output
    for status in ("under_way", "under-way"):
        code, output = call("list", "--status", status)
        assert (code, "database" in output) == (2, True)


@pytest.mark.parametrize(("name", "value"), [("BATCH_SIZE", "many"), ("PAYMENT_TIMEOUT_SECONDS", "soon")])
def test_a_wrong_setting_is_explained_in_plain_words(call: Call, name: str, value: str) -> None:
    code, output = call("list", **{name: value})
    assert code == 2
    assert f"{name}: a " in output
    assert "Input should be" not in output
