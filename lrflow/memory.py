"""The memory of what a process trains one after the other."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def freed_after() -> Iterator[None]:
    """Frees at its end what was made within and is no longer referred to.

    A run's trainer, module, loops and data hang in cycles. Python looks for those when it has counted enough objects,
    of which a data set or a model on a GPU are few: several runs' would stay beside the one that trains. What was
    there before is not looked through, so this takes milliseconds.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()


@contextmanager
def garbage_collection(enabled: bool) -> Iterator[None]:
    """Switches Python's garbage collector on or off within.

    It is off while a command starts: imports and a composition create hundreds of thousands of objects and hardly any
    garbage, and going through them again and again takes a sixth of the time.
    """
    before = gc.isenabled()
    switch = {True: gc.enable, False: gc.disable}
    switch[enabled]()
    try:
        yield
    finally:
        switch[before]()


def clear_locals(error: BaseException) -> None:
    """Lets an error that is kept let go of what was local where it was raised, such as a trainer with its data."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__
