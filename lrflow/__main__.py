"""Entry point of `python -m lrflow` and of the command `lrflow`."""

import atexit
import os
import signal
import sys


def main() -> int:
    """Run `lrflow`; a signal that comes before it handles signals itself ends it with its exit code."""
    # `lrflow.launch.is_first_here` is not imported yet: nothing is, before the signals are handled.
    further = "LRFLOW_RUN_FOLDER" in os.environ and os.environ.get("LOCAL_RANK", "0") != "0"
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _ignore if further else _end)  # the first process of a run ends further ones
    atexit.register(_block)
    try:
        from lrflow.cli import main as run

        return run()
    except ModuleNotFoundError as error:  # what would explain it needs the package too
        from lrflow.imports import missing_requirement

        if (text := missing_requirement(error)) is None:
            raise
        print(f"lrflow: {text}", file=sys.stderr)
        return 1


def _end(number: int, frame: object) -> None:
    os.write(2, f"lrflow: {'interrupted' if number == signal.SIGINT else signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def _block() -> None:
    """Keep the exit code of a command that is done: Python forgets its handlers before it ends."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1})


def _ignore(number: int, frame: object) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
