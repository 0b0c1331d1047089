"""The command line as a process of its own: exit codes, and how little it takes to be told of a mistake."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CODE = """
import json, sys, time
from lrflow.cli import main
begun = 0.0
for name, words in json.loads(sys.argv[1]).items():
    code = main(words)
    heavy = {"torch", "pytorch_lightning", "torchmetrics", "sklearn", "matplotlib"} & set(sys.modules)
    ended = time.process_time()
    print("ended:", json.dumps([name, code, sorted(heavy), ended - begun]), file=sys.stderr)
    begun = ended
"""


PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def run(
    *words: str, folder: Path, code: str | None = None, **pipes: Any
) -> tuple[subprocess.CompletedProcess[str], float]:
    """The finished process, and the CPU seconds that it took."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LRFLOW_", "HYDRA_"))}
    environment |= {"COLUMNS": "80", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, *(["-c", code] if code else ["-m", "lrflow"]), *words]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=environment, text=True, timeout=120, **PIPES | pipes)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


LIGHT = {
    "--help": (["--help"], 0),
    "--version": (["--version"], 0),
    "--cfg job": (["--cfg", "job"], 0),
    "a recipe with code of its own": (["--cfg", "job", "recipe=gan", "seed=3"], 0),
    "a typo": (["optimizer.lrr=1", "optimiser=sgd", "schedule=cosin"], 2),
    "bad values": (["optimizer.lr=abc", "schedule.warmup=999", "trainer.max_epochs=1"], 2),
    "keys that targets do not take": (["optimizer.foo=1", "model.foo=1", "data.foo=1", "health.nonfinite.foo=1"], 2),
    "a bad rule": (["layers.rules=[{name: a, lr_mul: 3}]"], 2),
    "a bad sweep": (["-m", "optimizer.lr=-1,-2"], 2),
    "code that is not trusted": (["model=custom", "model._target_=os.system"], 2),
}


def test_neither_torch_nor_lightning_is_needed(tmp_path: Path) -> None:
    """One process has all commands, as its start takes longer than each of them."""
    done, _ = run(json.dumps({name: words for name, (words, _) in LIGHT.items()}), folder=tmp_path, code=CODE)
    lines = [line.removeprefix("ended: ") for line in done.stderr.splitlines() if line.startswith("ended: ")]
    ended = {name: found for name, *found in map(json.loads, lines)}
    assert {name: found[:2] for name, found in ended.items()} == {name: [code, []] for name, (_, code) in LIGHT.items()}
    assert "Traceback" not in done.stderr
    # About 0.2 s for --help and 0.7 s for the rest where nothing else runs; a busy machine counts more for the same.
    assert max(seconds for *_, seconds in ended.values()) < 2
    assert list(tmp_path.iterdir()) == []


UNUSED = """
import sys
from lrflow.cli import main
code = main(sys.argv[1:])
print("unused:", sorted({"numpy", "rich", "filelock", "optuna"} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def test_showing_the_config_imports_only_what_composing_and_checking_need(tmp_path: Path) -> None:
    done, _ = run("--cfg", "job", folder=tmp_path, code=UNUSED)
    assert done.returncode == 0
    assert done.stderr.endswith("unused: []\n")


OPENED = """
import sys
from pathlib import Path
opened = set()
sys.addaudithook(lambda event, args: event == "open" and opened.add(str(args[0])))
from lrflow.cli import main
from lrflow.config.composition.options import home
code = main(sys.argv[1:])
recipes = [Path(name).relative_to(home("recipes")) for name in opened if Path(name).is_relative_to(home("recipes"))]
print("opened:", *sorted(path.as_posix() for path in recipes if path.suffix == ".yaml"), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("words", "opened"),
    [
        ([], ""),
        (["recipe=cnn", "fast=true"], " cnn/fast.yaml cnn/recipe.yaml"),
    ],
)
def test_only_the_chosen_recipe_is_read(words: list[str], opened: str, tmp_path: Path) -> None:
    done, _ = run("--cfg", "job", *words, folder=tmp_path, code=OPENED)
    assert done.returncode == 0
    assert done.stderr.endswith(f"opened:{opened}\n")


def test_python_m_lrflow(tmp_path: Path) -> None:
    done, _ = run("optimizer=adamww", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "lrflow: 1 problem\n"
        "\n"
        "  optimizer = adamww\n"
        "      there is no such option\n"
        "      did you mean optimizer=adamw?\n"
        "\n"
        "Nothing was run. See --help for the options and --cfg job for the whole config.\n"
    )


@pytest.mark.parametrize("words", [["--cfg", "job"], ["task=plan"]])
def test_a_closed_pipe_ends_the_output_quietly(words: list[str], python: Any, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    job = python("-m", "lrflow", *words, cwd=tmp_path, stdout=write)
    os.close(write)
    _, told = job.communicate(timeout=120)
    assert (job.returncode, told) == (0, "")
    assert bool(list(tmp_path.rglob("plan.json"))) is (words == ["task=plan"])
