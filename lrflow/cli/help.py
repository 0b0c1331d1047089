"""The page of `--help`: usage, examples, common overrides, flags, and every option of every group."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap

from rich.text import Text

from lrflow.cli.errors import console
from lrflow.cli.subcommands import SUBCOMMANDS
from lrflow.config.composition.options import GROUPS, Catalogue, Option, home

_LONGEST = 26
"""Longer names get a line of their own, above their description."""

EXAMPLES = {
    "lrflow": "Train a small network on handwritten digits, in less than a minute.",
    "lrflow task=plan layers=backbone_head schedule.warmup=10%": "Print and plot every LR of a run without training.",
    "lrflow -m optimizer=sgd,adamw optimizer.lr=0.01,0.001": "Train four runs and compare them in a table.",
}

COMMON = {
    "optimizer.lr=0.01": "peak learning rate (LR); the schedule multiplies it",
    "schedule.warmup=5%": "warmup; every duration can be 5%, 3 epochs, 500 (steps) or 64_000 samples",
    "trainer.max_epochs=20": "length of the run; or trainer.max_steps=1000, trainer.max_samples=64_000",
    "data.batch_size=64": "examples per batch and device",
    "seed=0": "random seed",
    "name=first": "name of the run",
    "resume=last": "resume the newest run; resume=PATH resumes another",
    "model=custom": "your own model: model._target_=my_pkg.Net trust=my_pkg",
}

FLAGS = {
    "-m, --multirun": "run every combination of comma-separated values: optimizer.lr=0.1,0.01",
    "--cfg job": "print the whole config and exit; --resolve fills in its ${...}",
    "--config-dir DIR": "add your own options from DIR, which is laid out like conf/",
    "--info": "print how the config was composed and exit",
    "--shell-completion install=bash": 'eval "$(lrflow -sc install=bash)" enables <Tab> completion; also zsh, fish',
    "--hydra-help": "print Hydra's own help and exit",
    "--version": "print the version and exit",
    "-h, --help": "print this page and exit",
}

TOPICS = {
    "task": "what to do",
    "optimizer": "the update rule",
    "schedule": "the LR over the run: warmup, shape and cooldown",
    "feedback": "raise or lower the LR in reaction to the run",
    "clip": "clip gradients, or skip steps that are outliers",
    "average": "average the weights over the steps",
    "layers": "parameter groups, each with its own LR",
    "scaling": "rescale the peak LR with the batch size",
    "model": "the model to train",
    "data": "the data to train it on",
    "augment": "random changes of training batches: augment=[flip_crop,mixup]",
    "trainer": "devices, length and precision of the run",
    "logger": "where metrics are written",
    "signals": "what is measured besides loss and LRs, and how often",
    "health": "monitors that watch the run",
    "callbacks": "further callbacks: callbacks=[early_stopping,timer]",
    "find": "what task=find finds: an LR, a batch size or a warmup",
    "recipe": "complete jobs; each README lists the variants, recipe=NAME/VARIANT",
    "fast": "a quick smoke run: fast=true",
    "sweep": "searches to run with -m; sweep.n_trials=50 sets how many trials",
}


def show_help(config_dir: Path | None = None) -> None:
    """Print the help page: usage, examples, common overrides, flags, then every option of every group.

    Args:
        config_dir: folder with additional options.
    """
    out = console()
    catalogue = Catalogue([config_dir] if config_dir else [])
    defaults = Option("", "config", home("conf") / "config.yaml").selected_options()
    usage = Text.assemble(("lrflow", "bold"), " [GROUP=OPTION ...] [KEY=VALUE ...] [FLAG ...]")
    out.print(Text("usage: ").append(usage))
    for name, subcommand in SUBCOMMANDS.items():
        lead = f"       lrflow {name} "
        words = wrap(subcommand.usage, max(24, out.width - len(lead)), break_long_words=False, break_on_hyphens=False)
        text = Text(lead + f"\n{' ' * len(lead)}".join(words))
        text.stylize("bold", 7, len(lead))
        out.print(text, soft_wrap=True)
    out.print(Text("       python -m lrflow ... does the same", "dim"))
    subcommands = {name: subcommand.summary for name, subcommand in SUBCOMMANDS.items()}
    for title, rows in (
        ("examples", EXAMPLES),
        ("subcommands, which train nothing", subcommands),
        ("common overrides", COMMON),
        ("flags", FLAGS),
    ):
        out.print(Text(f"\n{title}", "bold cyan") + _rows(rows, out.width))
    out.print("\nSet LRFLOW_DEBUG=1 in the environment to see the tracebacks of errors.")
    out.print("\nAll groups and their options follow. --cfg job prints every key and its value.")
    for group in dict.fromkeys([*GROUPS, *catalogue.groups]):
        # The README of a recipe lists its variants.
        options = {name: option for name, option in catalogue.options(group).items() if "/" not in name}
        if options and not group.startswith("hydra"):
            head = Text.assemble("\n", (group, "bold cyan"), (f"  {TOPICS.get(group, '')}", "dim"))
            if (default := defaults.get(group)) in options:
                head.append(f" (default: {default})", "dim")
            out.print(head + _rows({name: option.summary for name, option in options.items()}, out.width))


def _rows(rows: Mapping[str, str], width: int) -> Text:
    """Two columns, names and descriptions; a long name has its own line above its description."""
    column = max((len(name) for name in rows if len(name) <= _LONGEST), default=0) + 4
    text = Text()
    for name, summary in rows.items():
        text.append(f"\n  {name}", "green")
        lines = wrap(summary, max(24, width - column), break_on_hyphens=False)
        for index, line in enumerate(lines):
            same_line = index == 0 and len(name) + 4 <= column
            text.append(" " * (column - len(name) - 2) if same_line else "\n" + " " * column).append(line)
    return text
