from __future__ import annotations

import ast
import operator
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrflow import api
from lrflow.config.composition.arithmetic import CalcError, calculate
from lrflow.errors import ConfigError

OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}  # fmt: skip


def by_python(text: str) -> Fraction:
    """Evaluate an expression by the tree that Python's own parser makes of it, in exact numbers."""

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant):
            return Fraction(ast.get_source_segment(text, node))  # type: ignore[arg-type]
        if isinstance(node, ast.UnaryOp):
            return -value(node.operand) if isinstance(node.op, ast.USub) else value(node.operand)
        assert isinstance(node, ast.BinOp)
        right = value(node.right)
        left = value(node.left)
        return OPERATORS[type(node.op)](left, int(right) if isinstance(node.op, ast.Pow) else right)

    return value(ast.parse(text, mode="eval").body)


NUMBERS = st.sampled_from(["0", "1", "2", "7", "0.4", "1e-3", "12.5", "3e2", ".5", "64"])
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" + ", "-", "*", " / "]), inner).map("".join),
        inner.map("({})".format),
        inner.map("(-({}))".format),
        st.tuples(inner, st.sampled_from(["2", "3", "0"])).map(lambda pair: f"({pair[0]}) ** {pair[1]}"),
    ),
    max_leaves=8,
)


@given(EXPRESSIONS)
@settings(max_examples=200, deadline=None)
def test_arithmetic_is_that_of_python_in_exact_numbers(text: str) -> None:
    try:
        expected = by_python(text)
    except ZeroDivisionError:
        with pytest.raises(CalcError, match="division by 0"):
            calculate(text)
        return
    assert calculate(text) == float(expected)
    assert isinstance(calculate(text), int) == (expected.denominator == 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1 * 3", 0.3), ("0.4 / 64", 0.4 / 64), ("512 / 64", 8), ("2 ** 3 ** 2", 512), ("2 ** -1", 0.5),
        ("2 ** 0.5", 2**0.5), ("- -3", 3), ("1_000 * 2", 2000),
        ("3 epochs / 2", "1.5 epochs"), ("10% + 5 %", "15%"), ("2 * 500 Steps", "1000 steps"),
        ("1 epoch / 4 epochs", 0.25),
        ("50_000 samples - 1 sample", "49999 samples"), ("29% * 1", "29%"),
    ],
)  # fmt: skip
def test_values(text: str, expected: float | str) -> None:
    assert calculate(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it ends"), ("1 +", "it ends"), ("1 2", "expected an operator before 2"), ("(1", "not closed"),
        ("1)", "expected an operator"), ("* 2", r"there is \*"), ("2 / 0", "division by 0"),
        ("0 ** -1", "division by 0"),
        ("-2 ** 2", "ambiguous"), ("(-2) ** 0.5", "no such power"), ("10% - 100 steps", "different units"),
        ("1 epoch + 1", "different units"), ("10% * 10%", "has to be a number"), ("1 / 2 steps", "different units"),
        ("2 ** 1 epoch", "both have to be numbers"), ("7 steps / 2", "no duration: 3.5 is not a whole number"),
        ("1% - 2%", "no duration"), ("9**9**9", "too large"), ("9**9**9**9", "too large"), ("1e400", "too large"),
        ("1e999 ** 999", "too large"), ("1" * 501, "at most 500 characters"), ("(" * 200 + "1", "levels deep"),
        ("-" * 400 + "1", "levels deep"), ("1e9999", "there is"), ("x", "there is 'x'"), ("lr * 2", "there is 'lr'"),
        ("(1).real", "there is '.real'"), ("abs(1)", r"there is 'abs\(1\)'"), ("__import__('os')", "there is"),
        ("f'{1}'", "there is"), ("'a' * 9", "there is"), ("0x10", "there is"), ("1j", "there is"), ("True", "there is"),
        ("1 if 1 else 2", "there is 'if'"), ("[1]", "there is"), ("1, 2", "there is ','"), ("1 // 2", r"there is /"),
        ("5 % 2", "expected an operator"), ("٣ + 1", "there is '٣'"), ("1 + ２", "there is '２'"),
        ("nan", "there is 'nan'"),
        ("inf", "there is 'inf'"), ("None", "there is 'None'"), ("1 step2", "there is"),
        ("2 weeks", "there is 'weeks'"),
    ],
)  # fmt: skip
def test_everything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(CalcError, match=message):
        calculate(text)


OPTION = """\
# An option whose LR follows the batch size.
defaults: [adamw]
lr: ${calc:0.4 * (1 + 1) / ${data.batch_size}}
betas: [0.9, "${calc: 1 - 1 / 2 ** 7}"]
"""


@pytest.fixture
def own_options(tmp_path: Path) -> str:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "half.yaml").write_text(OPTION)
    return str(tmp_path)


def test_it_works_in_files_and_overrides_and_is_saved_as_it_was_written(own_options: str) -> None:
    overrides = [
        "optimizer=half", "data.batch_size=40", "schedule.warmup=${calc:3 epochs / (2 * 3)}",
        "trainer.max_epochs=${calc:${calc:(1 + 1)} * 2}", "name='${calc:2 * 3} runs of ${optimizer.lr}'",
    ]  # fmt: skip
    config = api.compose(*overrides, config_dir=own_options)
    assert (config.optimizer.lr, config.optimizer.betas) == (0.02, (0.9, 0.9921875))
    assert (str(config.schedule.warmup), config.trainer.max_epochs, config.name) == ("0.5 epochs", 4, "6 runs of 0.02")
    assert config.source._get_node("optimizer")._get_node("lr")._value() == OPTION.splitlines()[2].removeprefix("lr: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${calc:9**9**9}", "9 ** 387420489 is too large"),
        ("${calc:__import__('os').getcwd()}", "no arithmetic"),
        ("${calc:0.1*(1+f'{2}')}", "no arithmetic"),
        ("${calc:1 / ${data.batch_sizes}}", "no data.batch_sizes"),
        ("${calc:${name} + 1}", "there is 'None'"),
        ("${calc:-2}", "expected a number above 0"),
        ("${cacl:1}", "there is no resolver cacl"),
        ("${calc:${optimizer.lr} + 1}", "circle"),
        ("${calc:1", "cannot be parsed"),
    ],
)
def test_an_error_names_the_key_and_the_expression(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        api.compose(f"optimizer.lr={text}")
    (problem,) = caught.value.problems
    assert problem.key == "optimizer.lr"
    assert message in str(problem)


def test_a_colon_with_a_space_in_a_file_is_explained(own_options: str) -> None:
    (Path(own_options) / "optimizer" / "half.yaml").write_text(OPTION.replace("calc:0.4", "calc: 0.4"))
    with pytest.raises(ConfigError, match="needs none without the space"):
        api.compose("optimizer=half", config_dir=own_options)


def test_a_sweep_computes_each_of_its_values(own_options: str) -> None:
    from lrflow.config.composition.literal import literal_paths
    from lrflow.config.composition.options import Catalogue
    from lrflow.config.composition.overrides import expand, read_overrides

    typed = [
        "optimizer.lr=${calc:(1 + 1) / ${data.batch_size}},${calc: 1 / ${data.batch_size}}",
        "data.batch_size=8,16",
    ]
    jobs = read_overrides(literal_paths(expand(typed), sweep=True), Catalogue(), sweep=True).jobs()
    found = [api.compose(*(override.typed for override in job)).optimizer.lr for job in jobs]
    assert found == [0.25, 0.125, 0.125, 0.0625]


def test_showing_a_config_with_arithmetic_imports_no_torch() -> None:
    code = (
        "import sys; from lrflow.cli import main; sys.argv[1:] = ['--cfg', 'job', '--resolve', "
        "'optimizer.lr=${calc:(1 + 1) / ${data.batch_size}}']\n"
        "try: main()\nfinally: print([name for name in ('torch', 'numpy', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "lr: 0.03125" in done.stdout
    assert done.stdout.rstrip().endswith("[]"), done.stderr
