"""The batch of every optimizer step where it changes over a run: its clocks in steps, samples and epochs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from lrflow.imports import np
from lrflow.schedules.numbers import Floats, whole
from lrflow.wording import counted


@dataclass(frozen=True)
class BatchSteps:
    """Batches of several sizes, each from an optimizer step on; every step is counted as full.

    An epoch is one pass over its samples: its last step takes those that are left.

    Args:
        starts: first step of each size, from 0 upwards.
        sizes: samples per optimizer step on all devices together, one of each start.
        epoch: samples of an epoch; None: unknown, then epochs cannot be counted.
        dropped: batches per step, if an epoch leaves out its last batch where that is smaller; 0: it does not.

    Raises:
        ValueError: the starts do not rise from 0, a size is not a whole number of at least 1, or no step of a size fits
            into an epoch.
    """

    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    epoch: int | None = None
    dropped: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", tuple(self.starts))
        object.__setattr__(self, "sizes", tuple(whole("a batch size", size) for size in self.sizes))
        rising = all(earlier < later for earlier, later in zip(self.starts, self.starts[1:], strict=False))
        if not self.starts or len(self.starts) != len(self.sizes) or self.starts[0] != 0 or not rising:
            raise ValueError(f"the first steps of {len(self.sizes)} batch sizes rise from 0, not {list(self.starts)}")
        if self.epoch is not None:
            object.__setattr__(self, "epoch", whole("samples of an epoch", self.epoch))
            for size in self.sizes:
                if not self._steps_of(self.epoch, size):
                    raise ValueError(f"an epoch of {counted(self.epoch, 'sample')} has no full batch of {size}")

    def _steps_of(self, samples: int, size: int) -> int:
        """Return the steps that the last `samples` of an epoch take."""
        full, rest = divmod(samples, size)
        return full + (rest > 0 if not self.dropped else rest >= size // self.dropped)

    def _piece(self, step: int) -> int:
        return bisect_right(self.starts, step) - 1

    def size(self, step: int) -> int:
        """Return the samples of a step."""
        return self.sizes[self._piece(step)]

    def sizes_at(self, steps: Floats) -> Floats:
        """Return the samples of steps, of which fractions are allowed; float64 of the same shape."""
        return np.asarray(self.sizes, dtype=np.float64)[np.searchsorted(self.starts, steps, side="right") - 1]

    def changes(self, steps: int) -> list[tuple[int, int]]:
        """Return the first step and the size of each batch that a run of so many steps has."""
        return [(start, size) for start, size in zip(self.starts, self.sizes, strict=True) if start < steps]

    @cached_property
    def _counts(self) -> list[int]:
        """The samples before each start."""
        counts = [0]
        for index in range(1, len(self.starts)):
            counts.append(counts[-1] + (self.starts[index] - self.starts[index - 1]) * self.sizes[index - 1])
        return counts

    def samples(self, step: int) -> int:
        """Return the samples before a step."""
        piece = self._piece(step)
        return self._counts[piece] + (step - self.starts[piece]) * self.sizes[piece]

    def step_of_samples(self, samples: Fraction) -> Fraction:
        """Return the step before which there are so many samples; a fraction of one within a step."""
        piece = bisect_right(self._counts, samples) - 1
        return self.starts[piece] + (samples - self._counts[piece]) / self.sizes[piece]

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """The epoch and the samples of it that are over, before each start."""
        places = [(0, 0)]
        for index in range(1, len(self.starts)):
            steps = self.starts[index] - self.starts[index - 1]
            places.append(self._after(places[-1], self.sizes[index - 1], steps))
        return places

    def _after(self, place: tuple[int, int], size: int, steps: int) -> tuple[int, int]:
        """Return the place in the data after steps of one size; at an epoch's end that of what is left of it.

        Whether that is enough for another step depends on the size of the next one.
        """
        samples, (epoch, offset) = self._known_epoch, place
        left, each = self._steps_of(samples - offset, size), self._steps_of(samples, size)
        if steps <= left:
            return epoch, min(offset + steps * size, samples)
        epochs, steps = divmod(steps - left - 1, each)
        return epoch + 1 + epochs, min((steps + 1) * size, samples)

    @property
    def _known_epoch(self) -> int:
        if self.epoch is None:
            raise ValueError("the training data has no length, so an epoch cannot be counted")
        return self.epoch

    def place(self, step: int) -> tuple[int, int]:
        """Return the epoch of a step, from 0, and the samples of that epoch before it.

        Raises:
            ValueError: the samples of an epoch are unknown.
        """
        piece = self._piece(step)
        epoch, offset = self._after(self._places[piece], self.sizes[piece], step - self.starts[piece])
        if not self._steps_of(self._known_epoch - offset, self.size(step)):  # what is left is no batch of this size
            return epoch + 1, 0
        return epoch, offset

    def first_step(self, epoch: int) -> int:
        """Return the first step of an epoch, both from 0; raises as `place` does."""
        samples = self._known_epoch
        if epoch == 0:
            return 0
        piece = bisect_right(self._places, (epoch, -1)) - 1  # the last size that begins before the epoch does
        at, offset = self._places[piece]
        size = self.sizes[piece]
        steps = self._steps_of(samples - offset, size) + (epoch - at - 1) * self._steps_of(samples, size)
        return self.starts[piece] + steps

    def steps_in(self, epoch: int) -> int:
        """Return the steps of an epoch; raises as `place` does."""
        return self.first_step(epoch + 1) - self.first_step(epoch)

    def step_of_epochs(self, epochs: Fraction) -> Fraction:
        """Return the step before which there are so many epochs; a part of an epoch is one of its steps."""
        whole_epochs = int(epochs)
        return self.first_step(whole_epochs) + (epochs - whole_epochs) * self.steps_in(whole_epochs)

    def epochs(self, step: int) -> Fraction:
        """Return the epochs before a step; raises as `place` does."""
        epoch = self.place(step)[0]
        return epoch + Fraction(step - self.first_step(epoch), self.steps_in(epoch))

    def batches_in(self, epoch: int, parts: int = 1) -> list[int]:
        """Return the samples of an epoch before each of its batches, and after the last one.

        Args:
            epoch: from 0.
            parts: batches per step.
        """
        ends, samples = [0], self._known_epoch
        for step in range(self.first_step(epoch), self.first_step(epoch + 1)):
            each = self.size(step) // parts
            for _ in range(parts):
                if samples - ends[-1] >= (each if self.dropped else 1):
                    ends.append(min(ends[-1] + each, samples))
        return ends

    def from_step(self, start: int) -> BatchSteps:
        """Return the batches of the rest of a run, as a run of its own whose epochs are counted anew."""
        piece = self._piece(start)
        starts = [0, *(step - start for step in self.starts[piece + 1 :])]
        return BatchSteps(tuple(starts), self.sizes[piece:], self.epoch, self.dropped)

    def same_until(self, step: int, other: BatchSteps) -> bool:
        """Whether all steps before this one have the batches of another run."""
        return self.changes(step) == other.changes(step)


def described(changes: Sequence[tuple[int, int]]) -> str:
    """Return batches in words: `64, from step 1,563 on 256`; of many, the first and the last."""
    words = [f"{size:,}" if not start else f"from step {start:,} on {size:,}" for start, size in changes]
    return ", ".join(words if len(words) <= 4 else [*words[:2], f"{len(words) - 3} more", words[-1]])
