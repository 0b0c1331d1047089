"""How much deeper a residual network is than its base: the lists of blocks that grow, and by which ratio."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lrflow.wording import joined


class UnevenDepthError(Exception):
    """Raised if lists of blocks grow by different ratios, so that no single multiplier is right."""


@dataclass(frozen=True)
class Depth:
    """The depth of a model over that of its base.

    Args:
        lists: each list of blocks that grows (`blocks`, `stages.*.blocks`), with its length in the model and the base.
        ratio: blocks of the model over those of the base; 1 if no list grows.
    """

    lists: Mapping[str, tuple[int, int]]
    ratio: float
    _here: Mapping[str, Sequence[int]] = field(repr=False)
    _base: Mapping[str, Sequence[int]] = field(repr=False)

    @classmethod
    def of(cls, names: Collection[str], base: Collection[str]) -> Depth:
        """Return the depth of a model.

        Args:
            names: of its parameters.
            base: names of the parameters of the base.

        Raises:
            UnevenDepthError: lists of blocks grow by different ratios.
        """
        here, before = _indices(names), _indices(base)
        counts: dict[str, set[tuple[int, int]]] = {}
        for path in before.keys() & here.keys():
            counts.setdefault(pattern(path), set()).add((len(here[path]), len(before[path])))
        grown = {path: found for path, found in sorted(counts.items()) if any(now != then for now, then in found)}
        ratios = {now / then for found in grown.values() for now, then in found}
        if len(ratios) > 1:
            each = [f"{path} {then} to {now}" for path, found in grown.items() for now, then in sorted(found)]
            raise UnevenDepthError(f"lists of blocks grow by different ratios: {joined(each, 7)}")
        lists = {path: max(found) for path, found in grown.items()}
        return cls(lists, ratios.pop() if ratios else 1.0, here, before)

    def holds(self, name: str) -> bool:
        """Whether a parameter of the model is in a list of blocks that grows."""
        return any(pattern(path) in self.lists for path, _ in _steps(name))

    def counterpart(self, name: str) -> str:
        """Return the parameter of the base that stands for one of the model: that of the same block, or of the last."""
        parts, path = name.split("."), list[str]()
        for index, part in enumerate(parts):
            own, theirs = self._here.get(".".join(parts[:index]), ()), self._base.get(".".join(path), ())
            if part.isdecimal() and own and theirs:
                path.append(str(theirs[min(own.index(int(part)), len(theirs) - 1)]))
            else:
                path.append(part)
        return ".".join(path)


def pattern(name: str) -> str:
    """Return a name with its indices replaced: `stages.0.blocks.3` is `stages.*.blocks.*`."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def _steps(name: str) -> Iterator[tuple[str, int]]:
    """Yield each list on the way to a parameter, with the index there."""
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part.isdecimal():
            yield ".".join(parts[:index]), int(part)


def _indices(names: Collection[str]) -> dict[str, list[int]]:
    """Return the indices of the entries of each list that have parameters, in order."""
    found: dict[str, set[int]] = {}
    for name in names:
        for path, index in _steps(name):
            found.setdefault(path, set()).add(index)
    return {path: sorted(indices) for path, indices in found.items()}
