"""The list of faults by which the tests are judged still fits the code; seed_faults.py says how they are judged."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
FAULTS = runpy.run_path(str(ROOT / "tests/seed_faults.py"))["read_faults"]()


def test_each_fault_can_be_seeded_at_one_place_and_each_room_has_two() -> None:
    problems, paths = [], []
    for fault in FAULTS:
        try:
            paths.append(fault.seeded(ROOT)[0].relative_to(ROOT / "lrflow"))
        except (ValueError, SyntaxError) as error:
            problems.append(str(error))
    assert not problems
    counts = Counter(path.parts[0] if len(path.parts) > 1 else "" for path in paths)
    rooms = {folder.parent.name for folder in (ROOT / "lrflow").glob("*/__init__.py")} | {""}
    assert {room: counts[room] for room in rooms if counts[room] < 2} == {}
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 44
