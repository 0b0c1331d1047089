"""The field `schedule.batch`: batch sizes, each with the duration after which it begins."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from lrflow.config.schemas.field_checks import Json, any_of, array
from lrflow.limits import is_whole
from lrflow.schedules.time import Duration

MOST_SIZES = 200
"""Most batch sizes of a run."""


def _batch_sizes(value: Any) -> list[list[Any]]:
    """Return the sizes of `schedule.batch`, each with its duration."""

    def wrong(sentence: str) -> PydanticCustomError:
        return PydanticCustomError("expected", "expected {sentence}", {"sentence": sentence})

    form = "a list of [duration, batch size], such as [[0 samples, 64], [100_000 samples, 256]]"
    if is_whole(value) and value > 0:
        raise wrong(f"{form}; for one batch size: data.batch_size={value}")
    if not isinstance(value, list | tuple) or not value or not all(isinstance(one, list | tuple) for one in value):
        raise wrong(form)
    if len(value) > MOST_SIZES:
        raise wrong(f"at most {MOST_SIZES:,} batch sizes, and there are {len(value):,}")
    sizes: list[list[Any]] = []
    for one in value:
        if len(one) != 2 or isinstance(one[1], list | tuple | dict):
            raise wrong(f"{form}, not {list(one)}")
        if not is_whole(one[1]) or one[1] < 1:
            raise wrong(f"batch sizes that are whole numbers above 0, such as [[0, 64]], not {one[1]!r}")
        if sizes and sizes[-1][1] == one[1]:
            raise wrong(f"sizes that differ from the one before, not {one[1]} twice in a row: leave out the second one")
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
