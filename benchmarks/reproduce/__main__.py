"""Reproduce published results on learning rates, each in minutes on one CPU core.

    python -m benchmarks.reproduce                 # list the reproductions
    python -m benchmarks.reproduce catapult        # measure one, and write results/catapult.json
    python -m benchmarks.reproduce all             # measure all
    python -m benchmarks.reproduce catapult --fast # a miniature of it, whose numbers mean nothing; writes nothing

`python docs/reproductions.py` then writes docs/reproductions.md and its pictures.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Sequence

from rich.console import Console

from benchmarks.reproduce.claims import VERDICTS, Record, claim, names, run
from lrflow.display import Grid
from lrflow.errors import LrflowError, did_you_mean
from lrflow.wording import duration, number

ALL = "all"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="reproductions, or `all`; none: list them")
    parser.add_argument("--fast", action="store_true", help="a miniature, whose numbers mean nothing")
    chosen = parser.parse_args(arguments)
    known = names()
    if unknown := [name for name in chosen.names if name not in (*known, ALL)]:
        print(f"no reproduction is called {unknown[0]}: {did_you_mean(unknown[0], [*known, ALL])}", file=sys.stderr)
        return 2
    console = Console(width=160)
    if not chosen.names:
        console.print(listing(known))
        return 0
    for name in known if ALL in chosen.names else chosen.names:
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                record = run(name, chosen.fast)
        except LrflowError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return error.exit_code
        console.print(told(name, record), markup=False, soft_wrap=True)
        if not chosen.fast:
            record.write(name)
    return 0


def listing(known: Sequence[str]) -> Grid:
    """The names with their claims, how long they take, and whether they held when they were measured."""
    grid = Grid("<name", "about", "<measured", "<claim")
    for name in known:
        record, of = Record.read(name), claim(name)
        grid.row(name, duration(of.seconds), VERDICTS[record.result.held] if record else "not yet", of.claim)
    return grid


def told(name: str, record: Record) -> str:
    """The row of a result."""
    result = record.result
    spread = f"{number(result.number)} ({number(result.low)} to {number(result.high)})"
    verdict = VERDICTS[result.held]
    return f"{name}: {verdict}. {claim(name).number}: {spread}. {result.told} {duration(record.seconds)} of CPU"


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(main())
