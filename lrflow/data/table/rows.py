"""The rows of a CSV file with their lines: one that cannot be read takes no other row with it."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator


class _Lines:
    """The lines of a file, of which those since the last row can be read again.

    Args:
        file: the lines.
    """

    def __init__(self, file: Iterator[str]) -> None:
        self._file = file
        self._again: deque[str] = deque()
        self.taken: list[str] = []
        """Lines since the last row; who reads the rows empties it."""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._file)
        self.taken.append(line)
        return line

    def reject(self) -> int:
        """Give up the first line since the last row; return how many lines after it will be read again."""
        after = self.taken[1:]
        self._again.extendleft(reversed(after))
        self.taken.clear()
        return len(after)


def csv_rows(file: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """Yield each row of a CSV file: its first line from 1, its cells, and why it cannot be read, empty if it can.

    A quote that is not closed takes in the lines below it: only its own line is given up, and they are read again.

    Args:
        file: the lines, with their ends.
        delimiter: between the cells.
    """
    lines = _Lines(file)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    last = again = 0
    while True:
        try:
            for row in reader:
                lines.taken.clear()
                line, last = last + 1, reader.line_num - again  # a row in quotes may take several lines
                yield line, row, ""
            return
        except csv.Error as error:
            after = lines.reject()
            again += after
            last += 1
            still_open = f"a quote is open until line {last + after:,}, " if after else ""
            yield last, [], f"cannot be read: {still_open}{error}"
