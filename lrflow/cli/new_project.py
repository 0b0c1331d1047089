"""`lrflow init`: a project with a module, data, options and a test of its own, which trains at once."""

from __future__ import annotations

import keyword
import re
import shutil
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from lrflow.config.options import home
from lrflow.errors import ConfigError, Problem

TEMPLATE = "own_model"
"""The recipe whose package and options are copied."""

_COPIED = ("my_project/*.py", "options/*/*.yaml", "pyproject.toml")

_README = """# {name}

    pip install -e .
    python -m lrflow --config-dir options recipe=patients

| file | content |
| --- | --- |
| {name}/net.py | a plain `nn.Module` |
| {name}/module.py | a `LightningModule` with its own loss and metrics |
| {name}/data.py | a `LightningDataModule` |
| options/ | an option per file, such as `model=net`, `data=diabetes` and `recipe=patients` |
| pyproject.toml | the package, and `[tool.lrflow] trust`: in this folder a config may build its classes |
| tests/ | the plan of the recipe, and a short training |

No file of the package sets a learning rate; the options do:

    python -m lrflow --config-dir options recipe=patients task=plan layers=calm_head
    python -m lrflow --config-dir options recipe=patients task=find
    python -m lrflow --config-dir options -m recipe=patients optimizer.lr=1e-3,1e-2 seed=0,1
    python -m lrflow list --sort val/r2
"""

_TEST = '''"""The recipe plans the learning rates that it should, and trains."""

from pathlib import Path

import lrflow

OPTIONS = Path(__file__).parents[1] / "options"


def test_the_plan_reaches_the_peak_and_decays() -> None:
    plan = lrflow.plan("recipe=patients", "trust={name}", config_dir=OPTIONS)
    rates = [float(plan.lr(step).max()) for step in range(plan.horizon.steps)]
    assert max(rates) == 3e-3
    assert rates[-1] < 3e-5


def test_training_improves(tmp_path: Path) -> None:
    words = ["recipe=patients", "trust={name}", f"output={{tmp_path}}", "trainer.progress=false"]
    assert lrflow.train(*words, config_dir=OPTIONS).metrics["val/r2"] > 0
'''

_IGNORED = "/outputs/\n/multirun/\n__pycache__/\n*.egg-info/\n"


def init(wanted: str | None) -> None:
    """Make a project in a new folder, and print what to type next.

    Args:
        wanted: path of the folder; its last part is the name of the package.

    Raises:
        ConfigError: the name cannot be that of a package, or the folder is taken or cannot be written.
    """
    if not wanted:
        raise ConfigError(
            [Problem("lrflow init", "needs the folder of the project", hint="such as lrflow init my_project")]
        )
    folder = Path(wanted)
    name = folder.name
    _check(folder, name)
    try:
        made = folder.with_name(f".{name}.part")
        shutil.rmtree(made, ignore_errors=True)  # of an `init` that was killed
        try:
            _write(made, name)
            made.rename(folder)  # over an empty folder, too
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise ConfigError([Problem("lrflow init", f"cannot be written: {error.strerror}", str(folder))]) from None
    print(f"{folder}/: {name}/, options/, tests/, pyproject.toml, README.md\n")
    print(f"cd {folder}\npip install -e .\npython -m lrflow --config-dir options recipe=patients")


def _check(folder: Path, name: str) -> None:
    key = "lrflow init"
    if not _names_a_package(name):
        near = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
        hint = f"did you mean {folder.with_name(near)}?" if _names_a_package(near) else None
        raise ConfigError([Problem(key, "the last part is no name of a Python package", str(folder), hint)])
    if name in sys.stdlib_module_names or name in sys.modules or PathFinder.find_spec(name, sys.path[1:]):
        raise ConfigError([Problem(key, f"there is a package {name} already, which Python would import", str(folder))])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError([Problem(key, "exists already", str(folder), "give a new folder")])


def _names_a_package(name: str) -> bool:
    return name.isidentifier() and name.isascii() and not keyword.iskeyword(name)


def _write(folder: Path, name: str) -> None:
    template = home("recipes") / TEMPLATE
    for pattern in _COPIED:
        for path in template.glob(pattern):
            text = path.read_text(encoding="utf-8")
            text = text.replace("my_project", name).replace("my-project", name.replace("_", "-").lower())
            _put(folder / path.relative_to(template).as_posix().replace("my_project", name), text)
    _put(folder / name / "__init__.py", "")
    _put(folder / "README.md", _README.format(name=name))
    _put(folder / "tests" / f"test_{name}.py", _TEST.format(name=name))
    _put(folder / ".gitignore", _IGNORED)


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
