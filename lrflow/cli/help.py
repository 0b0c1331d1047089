"""The help page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap

from rich.text import Text

from lrflow.cli.report import console
from lrflow.config.catalogue import GROUPS, Catalogue

_LONGEST = 26

TOPICS = {
    "task": "what to do",
    "optimizer": "how parameters move",
    "schedule": "the LR over the run: a warmup, a shape, a cooldown",
    "feedback": "what raises or lowers the LR as the run goes",
    "layers": "parameter groups, each with its own LR",
    "scaling": "whether the peak LR follows the batch",
    "model": "what is trained",
    "data": "what it is trained on",
    "trainer": "on which devices, how long, how exactly",
    "logger": "where metrics go",
    "health": "the monitors that watch a run",
    "find": "how task=find finds a learning rate",
    "recipe": "whole jobs; recipe=NAME/VARIANT is a variant, see its README",
    "fast": "whether to make a smoke run of it: fast=true",
    "sweep": "what -m searches, and how; sweep.n_trials=50 sets how long",
}

COMMON = {
    "optimizer.lr=0.01": "the peak LR; the schedule multiplies it",
    "schedule.warmup=5%": "every duration can be 5%, 3 epochs, 500 (steps) or 64_000 samples",
    "trainer.max_epochs=20": "how long; or trainer.max_steps=1000, trainer.max_samples=64_000",
    "data.batch_size=64": "examples a batch and device",
    "seed=0": "of everything random",
    "name=first": "what the run is called",
    "resume=last": "go on with the newest run; resume=PATH: with any",
    "model=custom": "your own: model._target_=my_pkg.Net trust=my_pkg",
}

EXAMPLES = {
    "lrflow": "train on digits, in less than a minute",
    "lrflow task=plan layers=backbone_head schedule.warmup=10%": "every LR of a run before it starts",
    "lrflow -m optimizer=sgd,adamw optimizer.lr=0.01,0.001": "four runs and a table of them",
}

FLAGS = {
    "--cfg job": "the whole config, checked; --resolve fills in its ${...}",
    "-m, --multirun": "a job for each combination: optimizer.lr=0.1,0.01",
    "--config-dir DIR": "your own options and recipes, in folders like conf/",
    "--info": "how the config was composed; --hydra-help says more",
    "--shell-completion install=bash": 'for <Tab>: eval "$(lrflow -sc install=bash)"; zsh, fish too',
    "--version, --help": "LRFLOW_DEBUG=1 shows tracebacks",
}


def show_help(config_dir: Path | None = None) -> None:
    """Prints the help page: groups with their options, common overrides, examples, flags.

    Args:
        config_dir: a folder with more options.
    """
    out = console()
    catalogue = Catalogue([config_dir] if config_dir else [])
    usage = Text.assemble(("lrflow", "bold"), " [group=option ...] [key=value ...] [flags]")
    out.print(usage.append("   or python -m lrflow ...", "dim"))
    for group in dict.fromkeys([*GROUPS, *catalogue.groups]):
        # Variants of a recipe stand in its README.
        options = {name: option for name, option in catalogue.options(group).items() if "/" not in name}
        if options and not group.startswith("hydra"):
            head = Text.assemble("\n", (group, "bold cyan"), (f"  {TOPICS.get(group, '')}", "dim"))
            out.print(head + _rows({name: option.summary for name, option in options.items()}, out.width))
    for title, rows in (("common overrides", COMMON), ("examples", EXAMPLES), ("flags", FLAGS)):
        out.print(Text(f"\n{title}", "bold cyan") + _rows(rows, out.width))


def _rows(rows: Mapping[str, str], width: int) -> Text:
    """Names and what they are, in two columns; a long name stands above what it is."""
    column = max((len(name) for name in rows if len(name) <= _LONGEST), default=0) + 4
    told = Text()
    for name, summary in rows.items():
        told.append(f"\n  {name}", "green")
        parts = wrap(summary, max(24, width - column), break_on_hyphens=False)
        for index, part in enumerate(parts):
            beside = index == 0 and len(name) + 4 <= column
            told.append(" " * (column - len(name) - 2) if beside else "\n" + " " * column).append(part)
    return told
