"""`lrflow translate`: its words, the recipe that it prints or writes, and what it could not translate."""

from __future__ import annotations

import sys
from pathlib import Path

from lrflow.errors import ConfigError, Problem
from lrflow.files import write_whole
from lrflow.output import put
from lrflow.translate import Facts, kinds, translate
from lrflow.wording import counted


def show_translation(
    file: str | None,
    kind: str | None,
    out: str | None,
    facts: Facts,
) -> None:
    """Print a config of another tool as a recipe, or write it; tell what has no counterpart on stderr.

    Args:
        file: of the other tool.
        kind: the tool; None: found by the keys of the file.
        out: path of the recipe; None prints it.
        facts: what the file does not say.

    Raises:
        ConfigError: the file cannot be translated, or the recipe cannot be written.
    """
    if not file:
        raise ConfigError([Problem("lrflow translate", "needs the config of another tool", hint=f"one of{kinds()}")])
    for flag, given in (("--devices", facts.devices), ("--samples", facts.samples)):
        if given is not None and given < 1:
            raise ConfigError([Problem(flag, "expected a number of at least 1", given)])
    found = translate(Path(file), facts, kind)
    if out is None:
        put(sys.stdout, found.text())
    else:
        path = Path(out)
        if path.suffix not in (".yaml", ".yml"):
            raise ConfigError([Problem("--out", "expected a .yaml file, such as options/recipe/NAME.yaml", out)])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, found.text())
        except OSError as error:
            raise ConfigError([Problem("--out", f"cannot be written: {error.strerror}", out)]) from None
        print(f"{path}")
        if path.parent.name == "recipe":
            print(f"python -m lrflow --config-dir {path.parent.parent} recipe={path.stem} task=plan")
    if found.left:
        lines = "".join(f"  {line}\n" for line in found.left_lines())
        put(sys.stderr, f"not translated: {counted(len(found.left), 'key')}\n{lines}")
