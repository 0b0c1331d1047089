"""Judges the tests: puts each fault of faults.yaml into a copy of the project and runs the tests there.

    python tests/seed_faults.py                  # all faults, which takes hours
    python tests/seed_faults.py nan-stays-the-best --record faults.json --table faults.md

The tests of the fault's room run first, then those of the rooms that import the faulty module and those at the top of
tests/, then all others, until one fails. A test that also fails without the fault is left out.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fault:
    """A bug to seed; the fields are explained at the top of faults.yaml."""

    name: str
    what: str
    find: str
    replace: str
    inside: str | None = None

    def places(self, tree: Path) -> Iterator[tuple[Path, int, int]]:
        """Each file of the package below `tree` that holds the code to be replaced, with its start and end there."""
        pattern = re.compile(r"\s+".join(map(re.escape, self.find.split())))
        for path in sorted((tree / "lrflow").rglob("*.py")):
            text = path.read_text()
            for match in pattern.finditer(text):
                if self.inside is None or _is_inside(self.inside, text, match.start()):
                    yield path, match.start(), match.end()

    def seeded(self, tree: Path) -> tuple[Path, str]:
        """The file that gets the fault, and its content with the fault.

        Raises:
            ValueError: the code does not stand there exactly once, or the fault changes nothing.
            SyntaxError: the result is no valid module.
        """
        places = list(self.places(tree))
        if len(places) != 1:
            found = ", ".join(str(path.relative_to(tree)) for path, *_ in places) or "nowhere"
            raise ValueError(f"{self.name}: expected its code once in lrflow/, found it in {found}: {self.find}")
        path, start, end = places[0]
        before = path.read_text()
        after = before[:start] + self.replace + before[end:]
        if ast.dump(ast.parse(before)) == ast.dump(ast.parse(after)):
            raise ValueError(f"{self.name}: changes nothing")
        return path, after


def read_faults() -> list[Fault]:
    """The faults of faults.yaml."""
    return [Fault(**entry) for entry in yaml.safe_load((HERE / "faults.yaml").read_text())]


def batches(tree: Path, path: Path) -> list[list[Path]]:
    """Return the test files in batches, the most likely to catch a fault in the module first; each batch is one pytest
    process.
    """
    module = path.relative_to(tree / "lrflow").with_suffix("")
    tests = tree / "tests"
    top = sorted(tests.glob("test_*.py"), key=lambda test: test.stem != f"test_{module.name}")
    if module.parent == Path():
        own = [test for test in top if test.stem == f"test_{module.name}"]
        own += sorted((tests / module.name).rglob("test_*.py"))
    else:
        own = sorted((tests / module.parent).rglob("test_*.py"), key=lambda test: module.name not in test.stem)
    dotted = ".".join(("lrflow", *module.parts))
    importing = re.compile(rf"(from|import) {re.escape(dotted)}\b")
    users = {
        other.relative_to(tree / "lrflow").parts[0]
        for other in sorted((tree / "lrflow").rglob("*.py"))
        if importing.search(other.read_text())
    }
    near = [sorted((tests / room).rglob("test_*.py")) for room in sorted(users - {module.parts[0]})]
    found: list[list[Path]] = []
    seen: set[Path] = set()
    for batch in [own, *near, top, sorted(tests.rglob("test_*.py"))]:
        if fresh := [test for test in batch if test not in seen]:
            found.append(fresh)
            seen.update(fresh)
    return found


class FaultRunner:
    """Runs the tests on faults.

    Args:
        tree: the project whose tests are judged.
        seconds: time limit per fault.
        near: whether to leave out the tests of rooms that do not import the faulty module.
    """

    def __init__(self, tree: Path, seconds: float, near: bool) -> None:
        self._tree, self._seconds, self._near = tree, seconds, near
        self._broken: list[str] = []  # tests that fail without a fault

    def run(self, fault: Fault) -> dict[str, object]:
        """Return the result for a fault: `caught` (a test, or None), `seconds`, and the number of test `files` run."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="lrflow-fault-") as folder:
            copy = Path(folder)
            _copy(self._tree, copy)
            path, faulty = fault.seeded(copy)
            found = batches(copy, path)
            caught, files = None, 0
            for batch in found[:-1] if self._near else found:
                caught = self._catch(copy, path, faulty, batch, started + self._seconds)
                if caught or time.monotonic() > started + self._seconds:
                    break
                files += len(batch)
        where = str(path.relative_to(copy))
        seconds = round(time.monotonic() - started)
        return {
            "name": fault.name,
            "what": fault.what,
            "where": where,
            "caught": caught,
            "files": files,
            "seconds": seconds,
        }

    def _catch(self, copy: Path, path: Path, faulty: str, batch: list[Path], end: float) -> str | None:
        """The first test of a batch that fails with the fault and not without."""
        sound = path.read_text()
        while True:
            path.write_text(faulty)
            failed = _run(copy, [str(test.relative_to(copy)) for test in batch], self._broken, end - time.monotonic())
            path.write_text(sound)
            if failed is None or _run(copy, [failed], [], 300) is None:
                return failed
            self._broken.append(failed)


def _run(copy: Path, tests: list[str], left_out: list[str], seconds: float) -> str | None:
    """Return the first test that fails, hangs or cannot be collected, without its parameters; None: none did within the
    time.
    """
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    words += ["--ignore=tests/test_faults.py"]  # it misses the code that the fault has replaced
    words += [f"--deselect={test}" for test in left_out]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        words,
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode in (0, 5):  # 5: no test was left
        return None
    if match := re.search(r"^(?:FAILED|ERROR) ([^\s\[]+)", output, re.MULTILINE):
        return match[1]
    if "Timeout" in output:  # pytest-timeout ended the process
        return next(iter(re.findall(r'File "\S*?(tests/\S+\.py)"', output)), tests[0])
    raise RuntimeError(output[-3000:])


def _copy(tree: Path, copy: Path) -> None:
    """Copy the files that git tracks, in their present state."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=tree, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (tree / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, copy / name)


def _is_inside(name: str, text: str, at: int) -> bool:
    line = text.count("\n", 0, at) + 1
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds) and node.name == name]
    return any(node.lineno <= line <= (node.end_lineno or 0) for node in nodes)


def table(rows: list[dict[str, object]]) -> str:
    """The results in Markdown."""
    lines = ["| fault | what | module | caught by | s |", "| --- | --- | --- | --- | ---: |"]
    for row in rows:
        caught = row["caught"] or f"**missed** (within {row['files']} files)"
        lines.append(f"| {row['name']} | {row['what']} | {row['where']} | {caught} | {row['seconds']} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """The command line; returns 1 where a fault was missed."""
    parser = argparse.ArgumentParser(description="Seed faults and see which tests catch them.")
    parser.add_argument("names", nargs="*", help="faults to seed (default: all)")
    parser.add_argument("--tree", type=Path, default=HERE.parent, help="the checkout to judge (default: this one)")
    parser.add_argument("--seconds", type=float, default=3600, help="time limit per fault (default: 3600)")
    parser.add_argument("--near", action="store_true", help="leave out rooms that do not import the faulty module")
    parser.add_argument(
        "--record", type=Path, help="a JSON file of the results; faults that are in it are not run again"
    )
    parser.add_argument("--table", type=Path, help="a Markdown file to write the results to")
    arguments = parser.parse_args()
    faults = [fault for fault in read_faults() if not arguments.names or fault.name in arguments.names]
    if unknown := set(arguments.names) - {fault.name for fault in faults}:
        parser.error(f"there is no such fault: {', '.join(sorted(unknown))}")
    tree = arguments.tree.resolve()
    for fault in faults:
        fault.seeded(tree)
    record = arguments.record
    known = {row["name"]: row for row in json.loads(record.read_text())} if record and record.exists() else {}
    runner = FaultRunner(tree, arguments.seconds, arguments.near)
    for fault in faults:
        if fault.name not in known:
            row = known[fault.name] = runner.run(fault)
            print(f"{fault.name}: {row['caught'] or 'MISSED'} ({row['seconds']} s)", flush=True)
            if record:
                record.write_text(json.dumps(list(known.values()), indent=1))
    rows = [known[fault.name] for fault in faults]
    if arguments.table:
        arguments.table.write_text(table(rows))
    missed = [row["name"] for row in rows if not row["caught"]]
    print(
        f"{len(rows) - len(missed)} of {len(rows)} faults are caught"
        + (f", not {', '.join(map(str, missed))}" if missed else "")
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
