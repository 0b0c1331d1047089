"""The base class of augmentations, several of them as one, and the data set whose training batches they change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import Dataset

from lrflow.augment.traits import LIMITS, TRAITS, Traits
from lrflow.data.order import SeededBatch, fetch_whole
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.limits import outside
from lrflow.objectives import Kind


class Augmentation:
    """Changes a training batch by random numbers of a generator alone, so that a resumed run makes the same batches.

    A class of your own has `__call__`, and `traits` if it needs more than a batch of inputs.
    """

    traits: ClassVar[Traits] = Traits()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__module__.startswith("lrflow.augment.") and cls.__name__ in TRAITS:
            cls.traits = TRAITS[cls.__name__]

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Return other inputs and targets.

        Args:
            inputs: [batch, ...], on the CPU, normalised unless `traits.pixels`; not to be changed in place.
            targets: of the batch; float, [batch, classes] for classes, if an augmentation of the run mixes.
            generator: draws the random numbers, on the CPU.
        """
        raise NotImplementedError(f"{type(self).__name__} has no __call__")

    def _check(self, key: str, **values: Any) -> None:
        """Check arguments against their ranges.

        Raises:
            ConfigError: every value that is out of range.
        """
        if problems := outside(LIMITS, values, f"augment.{key}"):
            raise ConfigError(problems)


class Pipeline:
    """Several augmentations, one after another, with the pixels and targets that they need.

    Args:
        steps: augmentations by their names in the config, in their order.
        kind: kind of the targets; None: class numbers if they are whole numbers.
        classes: number of classes, for those that mix.
        moments: mean and standard deviation of each channel, by which pixels from 0 to 1 were normalised.

    Raises:
        ConfigError: an augmentation needs pixels, and there are no moments.
    """

    def __init__(
        self,
        steps: Mapping[str, Callable[..., Any]],
        kind: Kind | None = None,
        classes: int | None = None,
        moments: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        self.steps = dict(steps)
        self._kind, self._classes = kind, classes
        if moments is None and (needing := [name for name, step in self.steps.items() if traits_of(step).pixels]):
            message = "needs pixels from 0 to 1, and the data module does not say how it normalises them"
            hint = "pixel_moments of the data module holds the mean and the deviation of each channel"
            raise ConfigError([Problem(f"augment.{name}", message, hint=hint) for name in needing])
        self._moments = None if moments is None else tuple(torch.tensor(one).view(-1, 1, 1) for one in moments)

    def __call__(self, inputs: Any, targets: Any, generator: torch.Generator) -> tuple[Any, Any]:
        """Return the augmented inputs and targets of a batch.

        Raises:
            LrflowError: the batch is not what an augmentation needs.
        """
        in_pixels = False
        for name, step in self.steps.items():
            traits = traits_of(step)
            if not isinstance(inputs, Tensor) or (traits.images and inputs.ndim != 4):
                what = "images [batch, channels, height, width]" if traits.images else "a tensor of inputs"
                raise LrflowError(f"augment.{name} needs batches of ({what}, targets)")
            if traits.mixes:
                if not inputs.is_floating_point():
                    raise LrflowError(
                        f"augment.{name} mixes inputs, and whole numbers such as those of tokens do not mix"
                    )
                targets = self._soft(targets, name)
            if traits.pixels != in_pixels:
                inputs, in_pixels = self._converted(inputs, traits.pixels), traits.pixels
            inputs, targets = step(inputs, targets, generator)
        return (self._converted(inputs, False) if in_pixels else inputs), targets

    def _converted(self, images: Tensor, to_pixels: bool) -> Tensor:
        assert self._moments is not None
        mean, deviation = self._moments
        return (images * deviation + mean).clamp_(0, 1) if to_pixels else (images - mean) / deviation

    def _soft(self, targets: Any, name: str) -> Tensor:
        if not isinstance(targets, Tensor):
            raise LrflowError(f"augment.{name} needs batches of (inputs, targets)")
        if targets.is_floating_point():
            return targets
        if self._kind not in ("classes", None):
            return targets.float()
        if targets.ndim != 1 or self._classes is None:
            what = "one class number per example" if targets.ndim != 1 else "the number of classes, data.facts.outputs"
            raise LrflowError(f"augment.{name} mixes targets and needs {what}")
        if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < self._classes:
            raise LrflowError(f"augment.{name} needs class numbers from 0 to {self._classes - 1}")
        return one_hot(targets.long(), self._classes).float()


def traits_of(augmentation: object) -> Traits:
    """Return the traits of an augmentation; a function has none."""
    found = getattr(augmentation, "traits", None)
    return found if isinstance(found, Traits) else Traits()


class Augmented(Dataset[Any]):
    """A data set whose batches are augmented, if a loader in lrflow's order fetches them; single examples are not.

    Args:
        dataset: whose examples or batches are inputs and targets.
        collate: makes a batch of examples.
        augment: changes the inputs and targets of a batch; None: they stay.
    """

    def __init__(self, dataset: Dataset[Any], collate: Callable[[Any], Any], augment: Pipeline | None) -> None:
        whole = fetch_whole(dataset) if collate is torch.utils.data.default_collate else None
        self.dataset = whole or dataset
        self._collate = None if whole else collate
        self._augment = augment
        self.epoch_order = getattr(dataset, "epoch_order", None)  # of data that are not read at random places

    def plain(self) -> Augmented:
        """Return the same data set without augmentation."""
        return Augmented(self.dataset, self._collate or _as_it_is, None)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        """An example as it is."""
        return self.dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """A batch, augmented.

        Raises:
            LrflowError: it is not what an augmentation needs.
        """
        fetch = getattr(self.dataset, "__getitems__", None)
        batch = fetch(indices) if fetch else [self.dataset[index] for index in indices]
        batch = self._collate(batch) if self._collate else batch
        if self._augment is None or not isinstance(indices, SeededBatch):
            return batch
        if not isinstance(batch, list | tuple) or len(batch) < 2:
            raise LrflowError(f"augment.{next(iter(self._augment.steps))} needs batches of (inputs, targets)")
        # Another seed than that of the worker's own generators, from which a data set of the user may draw.
        generator = torch.Generator().manual_seed(indices.seed + 2**32)
        return [*self._augment(batch[0], batch[1], generator), *batch[2:]]


def _as_it_is(batch: Any) -> Any:
    return batch
