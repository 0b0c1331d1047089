"""Memory of a process that trains several runs in sequence."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def freed_after() -> Iterator[None]:
    """Collect garbage when the block ends, of objects created within it.

    Trainer, module, loops and data of a run form reference cycles. Python collects cycles by the number of new objects,
    and a data set or a model on a GPU counts as few, so those of several runs would pile up. Objects from before the
    block are frozen and not traversed, so this takes milliseconds.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()


@contextmanager
def garbage_collection(enabled: bool) -> Iterator[None]:
    """Switch Python's garbage collector on or off within the block.

    It is off while a command starts: imports and composition create hundreds of thousands of objects and little
    garbage, and traversing them takes a sixth of the time.
    """
    before = gc.isenabled()
    switch = {True: gc.enable, False: gc.disable}
    switch[enabled]()
    try:
        yield
    finally:
        switch[before]()


@contextmanager
def kept_for_good() -> Iterator[None]:
    """Pause garbage collection for imports, and freeze what they created.

    The modules of torch and Lightning are a million objects that stay. Later collections do not traverse them.
    """
    with garbage_collection(False):
        try:
            yield
        finally:
            gc.freeze()


def clear_locals(error: BaseException) -> None:
    """Clear the traceback frames of a stored exception, so that their locals, such as a trainer, can be freed."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__
