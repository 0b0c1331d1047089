"""The field `schedule.batch`: batch sizes, each with the duration after which it begins."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from lrflow.config.schemas.field_checks import Json, any_of, array
from lrflow.limits import is_whole
from lrflow.schedules.time import Duration

MOST_SIZES = 1000
"""Most batch sizes of a run."""


def _batch_sizes(value: Any) -> list[list[Any]]:
    """Return the sizes of `schedule.batch`, each with its duration."""

    def wrong(sentence: str) -> PydanticCustomError:
        return PydanticCustomError("expected", "expected {sentence}", {"sentence": sentence})

    form = "a list of [duration, batch size], such as [[0 samples, 64], [100_000 samples, 256]]"
    if not isinstance(value, list | tuple) or not value or not all(isinstance(one, list | tuple) for one in value):
        raise wrong(form)
    if len(value) > MOST_SIZES:
        raise wrong(f"at most {MOST_SIZES:,} batch sizes, and there are {len(value):,}")
    sizes = []
    for one in value:
        if len(one) != 2 or not is_whole(one[1]) or one[1] < 1:
            raise wrong(f"{form}, not {list(one)}; a batch size is a whole number above 0")
        try:
            duration = Duration.parse(one[0])
        except ValueError as error:
            raise wrong(f"{form}; {error}") from None
        if duration.unit == "fraction" and duration.value >= 1:
            raise wrong(f"sizes that begin before the end of the run, not {list(one)}")
        sizes.append([duration, one[1]])
    if sizes[0][0].value:
        raise wrong(f"a first size that begins at 0, not at {sizes[0][0]}")
    return sizes


BatchSizes = Annotated[
    list[list[Any]],
    PlainValidator(_batch_sizes),
    Json(array(array(any_of({"type": "number"}, {"type": "string"}), 2, 2), 1, MOST_SIZES)),
]
