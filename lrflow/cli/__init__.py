"""The command line: composes and checks every job before the first one runs, then runs them."""

from lrflow.cli.command import main

__all__ = ["main"]
