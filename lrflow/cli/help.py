"""The help page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrflow.cli.arguments import FLAGS
from lrflow.config.catalogue import GROUPS, Catalogue

TOPICS = {
    "task": "what to do",
    "optimizer": "how parameters move",
    "schedule": "the LR over the run",
    "layers": "parameter groups, with an LR each",
    "model": "what is trained",
    "data": "what it is trained on",
    "trainer": "devices, precision, length",
    "logger": "where metrics go",
    "health": "what is watched",
    "recipe": "whole jobs, ready to run",
}

COMMON = {
    "optimizer.lr=0.01": "the peak LR",
    "schedule.warmup=5%": "a duration: 500 (steps), 3 epochs, 10% of the run",
    "trainer.max_epochs=20": "how long; trainer.max_steps=1000 counts optimizer steps",
    "data.batch_size=64": "examples a batch and device",
    "seed=0": "of everything random",
    "name=first": "what the run is called",
    "resume=last": "go on where the newest run stopped; resume=PATH: any run",
    "model._target_=my_pkg.Net trust=my_pkg": "a model of your own; keys beside it are its arguments",
}

EXAMPLES = {
    "lrflow": "train on the digits in scikit-learn, under a minute",
    "lrflow task=plan layers=backbone_head schedule.warmup=10%": "every LR of the run, before it starts",
    "lrflow -m optimizer=sgd,adamw optimizer.lr=0.01,0.001": "four runs and a table",
}


def show_help(console: Console, config_dir: Path | None = None) -> None:
    """Prints the help page: groups with their options, common overrides, examples, flags.

    Args:
        console: where to.
        config_dir: a folder with more options.
    """
    catalogue = Catalogue([config_dir] if config_dir else [])
    console.print(Text.assemble(("lrflow", "bold"), " [group=option ...] [key=value ...]", ("   declare, plan, train", "dim")))
    console.print(Text("`python -m lrflow` is the same command.", "dim"))

    for group in dict.fromkeys([*GROUPS, *catalogue.groups]):
        options = catalogue.options(group)
        if not options or group.startswith("hydra"):
            continue
        console.print()
        console.print(Text.assemble((group, "bold cyan"), (f"  {TOPICS.get(group, '')}", "dim")))
        console.print(_columns({name: option.summary for name, option in options.items()}, "green", indent=2))
    for title, rows in (("common overrides", COMMON), ("examples", EXAMPLES), ("flags", FLAGS)):
        console.print()
        console.print(Text(title, "bold"))
        console.print(_columns(rows, "green" if title != "examples" else "bold", indent=2))
    console.print()
    console.print(Text("LRFLOW_DEBUG=1 shows tracebacks.", "dim"))


def _columns(rows: dict[str, str], style: str, indent: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style=style, no_wrap=True)
    table.add_column(overflow="fold")
    for name, summary in rows.items():
        table.add_row(" " * indent + name, Text(summary))
    return table
