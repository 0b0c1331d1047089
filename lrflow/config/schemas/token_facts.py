"""Facts of data whose inputs are sequences of tokens: a part of the schema of `data.facts`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel

from lrflow.config.schemas import types as f
from lrflow.objectives import HEADS


class TokenFacts(BaseModel):
    """Facts about sequences of tokens that are known before the data is read."""

    vocabulary: f.Count | None = None
    """Number of different tokens."""
    head: Annotated[str, f.one_of(*HEADS)] | None = None
    """What is predicted: the next token at each place (`language_model`), or a class for each sequence (`classes`)."""
    padding: f.CountOrNone | None = None
    """Token after the end of a short sequence."""
    separator: f.CountOrNone | None = None
    """Token at the end of the first text of a pair, after which the token type of a model such as BERT is 1."""
    held_out: f.CountOrNone | None = None
    """Number of examples held out, if `val_size` and `test_size` count something else, such as documents."""
    bytes_per_token: dict[str, f.Positive] | None = None
    """Mean bytes of the text of a token, by part: `val` and `test`."""
