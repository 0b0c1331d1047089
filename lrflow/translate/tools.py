"""The tools whose configs are translated, which of them wrote a file, and the translation."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.translate import huggingface, keras, lightning, mmengine, nanogpt, rl_zoo, timm, torchvision
from lrflow.translate.facts import Facts
from lrflow.translate.files import Source, read_source
from lrflow.translate.translation import Translation


@dataclass(frozen=True)
class Tool:
    """A tool whose configs are translated.

    Args:
        label: its name and what is read of it.
        signs: keys that speak for it, of which a file holds at least one.
        known: keys that it has; empty: any.
        translate: reads a file into a translation; raises a ConfigError.
        forms: of the files that it reads: `keys`, `python`, `flags`.
        names: the keys of a file that speak for the tool, or against it.
        environments: whether it trains in environments, of which a file may have several.
    """

    label: str
    signs: Collection[str]
    known: Collection[str]
    translate: Callable[[Source, Facts, Translation], None]
    forms: Collection[str] = ("keys", "flags")
    names: Callable[[Source], Collection[str]] = lambda source: [*source.data, *source.unreadable]
    environments: bool = False

    def likeness(self, source: Source) -> tuple[int, float]:
        """Return how many signs of the tool a file has, and the share of its keys that the tool has."""
        names = self.names(source)
        if source.form not in self.forms or not names:
            return 0, 0.0
        return sum(sign in names for sign in self.signs), sum(name in self.known for name in names) / len(names)


TOOLS = {
    "huggingface": Tool(huggingface.TOOL, huggingface.SIGNS, huggingface.KNOWN, huggingface.translate),
    "timm": Tool(timm.TOOL, timm.SIGNS, timm.KNOWN, timm.translate),
    "lightning": Tool(lightning.TOOL, lightning.SIGNS, lightning.KNOWN, lightning.translate, ("keys",)),
    "nanogpt": Tool(nanogpt.TOOL, nanogpt.SIGNS, nanogpt.KNOWN, nanogpt.translate, ("python", "flags")),
    "mmengine": Tool(mmengine.TOOL, mmengine.SIGNS, mmengine.KNOWN, mmengine.translate, ("python",)),
    "torchvision": Tool(torchvision.TOOL, torchvision.SIGNS, torchvision.KNOWN, torchvision.translate),
    "keras": Tool(keras.TOOL, keras.SIGNS, keras.KNOWN, keras.translate, ("keys",), keras.names_in),
    "rl_zoo": Tool(rl_zoo.TOOL, rl_zoo.SIGNS, rl_zoo.KNOWN, rl_zoo.translate, ("keys",), rl_zoo.names_in, True),
}
"""The tools by the word that `--from` takes."""


def kinds() -> str:
    """Return a line per tool, with the word that `--from` takes."""
    return "".join(f"\n  {name}: {tool.label}" for name, tool in TOOLS.items())


def translate(path: Path, facts: Facts, kind: str | None = None) -> Translation:
    """Translate a config of another tool.

    Args:
        path: of its file, which is read and never executed.
        facts: what the file does not say.
        kind: a key of `TOOLS`; None: found by the keys of the file.

    Returns:
        the recipe.

    Raises:
        ConfigError: the file cannot be read, is of no known kind, or holds values that are wrong; or an environment is
            given for a tool that has none.
    """
    if kind is not None and kind not in TOOLS:
        raise ConfigError([Problem("--from", f"expected one of {', '.join(TOOLS)}", kind, did_you_mean(kind, TOOLS))])
    source = read_source(path)
    tool = TOOLS[kind or _kind(source)]
    if facts.env is not None and not tool.environments:
        having = ", ".join(name for name, other in TOOLS.items() if other.environments)
        message = f"{source.name} is of {tool.label}, which has no environments"
        hint = f"leave it out; if the file is of another tool, give --from {having}"
        raise ConfigError([Problem("--env", message, facts.env, hint)])
    into = Translation(f"{source.path.name}, of {tool.label}, translated by lrflow"[:100])
    tool.translate(source, facts, into)
    for name, reason in source.unreadable.items():
        into.leave(name, "...", reason)
    return into


def _kind(source: Source) -> str:
    """Return the tool whose config a file is.

    Raises:
        ConfigError: it is of none, or of several alike.
    """
    ranked = sorted(((*tool.likeness(source), name) for name, tool in TOOLS.items()), reverse=True)
    likely = [name for signs, share, name in ranked if signs and (signs, share) == ranked[0][:2]]
    if len(likely) == 1:
        return likely[0]
    message = "may be of " + " or ".join(likely) if likely else "is of no kind that is known"
    raise ConfigError([Problem("lrflow translate", message, source.name, f"give --from KIND, one of{kinds()}")])
