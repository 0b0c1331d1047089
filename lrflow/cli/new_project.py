"""`lrflow init`: a project with a module, data, options and a test of its own, which trains at once."""

from __future__ import annotations

import json
import keyword
import re
import shutil
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from lrflow.config.composition.options import GROUPS, Catalogue, definition_of, home
from lrflow.config.origins import SCHEMA, schema_line
from lrflow.errors import ConfigError, Problem
from lrflow.runs import OUTPUT

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
| lrflow.schema.json | by which an editor completes and checks YAML files, such as VS Code with the extension YAML |
| AGENTS.md | the same for coding agents |

No file of the package sets a learning rate; the options do:

    python -m lrflow --config-dir options recipe=patients task=plan layers=calm_head
    python -m lrflow --config-dir options recipe=patients task=find
    python -m lrflow --config-dir options -m recipe=patients optimizer.lr=1e-3,1e-2 seed=0,1
    python -m lrflow list --sort val/r2

After a new option or argument: `python -m lrflow schema --config-dir options > lrflow.schema.json`
"""

_AGENTS = """# {name}: notes for coding agents

lrflow trains the modules of `{name}/` as the options in `options/` say. Learning rates, schedules, optimizers and
parameter groups are declared there, never in code; a module needs no `configure_optimizers`.

    python -m lrflow --config-dir options recipe=patients task=plan   # check the config, print every LR; trains nothing
    python -m lrflow --config-dir options recipe=patients fast=true   # a smoke run
    python -m lrflow --config-dir options recipe=patients             # the whole run, into outputs/
    python -m lrflow list --json                                      # the runs and their metrics
    python -m pytest

- A new option is a file `options/GROUP/NAME.yaml`; its first comment says what it is. `recipe` files start with
  `# @package _global_` and choose options with `defaults`.
- `lrflow.schema.json` has every key with its type, range and meaning. Write it anew after a new option or argument:
  `python -m lrflow schema --config-dir options > lrflow.schema.json`
- A wrong config ends with exit code 2 before anything is built, and names each key with the nearest valid one.
- A class that a config builds is in this package, which `[tool.lrflow] trust` in pyproject.toml allows.
- `python -m lrflow docs` lists the pages of the documentation; `python -m lrflow docs training resuming` prints one.
"""

_VS_CODE = {"recommendations": ["redhat.vscode-yaml", "ms-python.python"]}

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
    print(f"{folder}/: {name}/, options/, tests/, pyproject.toml, README.md, AGENTS.md, lrflow.schema.json, .vscode/\n")
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
    _describe(folder)
    _put(folder / name / "__init__.py", "")
    _put(folder / "README.md", _README.format(name=name))
    _put(folder / "AGENTS.md", _AGENTS.format(name=name))
    _put(folder / "tests" / f"test_{name}.py", _TEST.format(name=name))
    _put(folder / ".gitignore", _IGNORED)


def _describe(folder: Path) -> None:
    """Write the JSON schema of a project, and what leads editors from its YAML files to it."""
    from lrflow.config.json_schema import schema_text

    options = folder / "options"
    sys.path.insert(0, str(folder))  # where the texts of its classes are read
    try:
        _put(folder / SCHEMA, schema_text(Catalogue([options])))
    finally:
        sys.path.remove(str(folder))
    for path in options.glob("*/*.yaml"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        header = [line for line in lines[:1] if "@package" in line]  # which Hydra expects first
        line = schema_line(path.parent, definition_of(path.parent.name))
        _put(path, "".join([*header, line, *lines[len(header) :]]))
    files: dict[str, list[str]] = {f"./{SCHEMA}": [f"{OUTPUT}/**/config.yaml"]}
    for group in GROUPS:
        schema = f"./{SCHEMA}"
        if definition := definition_of(group):  # in a file, since a path in the settings of VS Code has no fragment
            schema = f"./.vscode/schemas/{group}.json"
            _put(folder / schema, json.dumps({"$ref": f"../../{SCHEMA}#/definitions/{definition}"}) + "\n")
        files.setdefault(schema, []).append(f"options/{group}/**/*.yaml")
    _put(folder / ".vscode" / "settings.json", json.dumps({"yaml.schemas": files}, indent=2) + "\n")
    _put(folder / ".vscode" / "extensions.json", json.dumps(_VS_CODE, indent=2) + "\n")


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
