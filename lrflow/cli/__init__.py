"""The command line: composes and checks every job, then runs them."""

from lrflow.cli.command import main

__all__ = ["main"]
