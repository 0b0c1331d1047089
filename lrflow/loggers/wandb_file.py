"""Reads the files of Weights & Biases, in which an offline run keeps all that it logged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

_BLOCK, _HEADER = 32768, 7  # of LevelDB's log format, in which W&B writes its files
_WHOLE, _FIRST, _LAST = 1, 2, 4  # kinds of a record's parts


def records_of(path: Path) -> Iterator[Any]:
    """Yield the records of a file of W&B, protobuf messages of many kinds; ends at a part that is incomplete."""
    messages: Any = import_module("wandb.proto.wandb_internal_pb2")
    for content in _contents(path.read_bytes()):
        record = messages.Record()
        record.ParseFromString(content)
        yield record


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a file of W&B: its own step, and the values by name; ends at a part that is incomplete."""
    for record in records_of(path):
        if record.WhichOneof("record_type") != "history":
            continue
        values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        own = values.pop("_step", record.history.step.num)
        yield int(own), {name: value for name, value in values.items() if not name.startswith("_")}


def _contents(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file in LevelDB's log format, behind a head of seven bytes."""
    at, parts = _HEADER, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        start, at = at + _HEADER, at + _HEADER + length
        if kind == 0 or at > len(data):
            return
        parts = data[start:at] if kind in (_WHOLE, _FIRST) else parts + data[start:at]
        if kind in (_WHOLE, _LAST):
            yield parts
