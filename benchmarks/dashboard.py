"""How long `lrflow dashboard` takes to list a thousand runs, and a browser to show them.

python -m benchmarks.dashboard            # 1,000 runs of 400 steps
python -m benchmarks.dashboard runs=5000
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import lrflow

STEPS = 400


def generate(folder: Path, count: int, steps: int = STEPS) -> None:
    """Write the folders of runs that differ in their LR and their curves: one real run, whose files are changed.

    Args:
        folder: gets the run folders.
        count: of the runs.
        steps: of each.
    """
    real = folder.parent / "real"
    lrflow.train("fast=true", f"output={real}", "report=false")
    (source,) = real.iterdir()
    draw = random.Random(0)
    environment = json.loads((source / "environment.json").read_text())
    summary = json.loads((source / "summary.json").read_text())
    names = (source / "metrics.csv").read_text().splitlines()[0].split(",")
    config = (source / "config.yaml").read_text()
    for number in range(count):
        path = folder / f"2026-01-01_00-00-00_run-{number}"
        path.mkdir(parents=True)
        final, rate = draw.uniform(0.01, 1), 10 ** draw.uniform(-4, -1)
        (path / "config.yaml").write_text(re.sub(r"(?m)^  lr: .*", f"  lr: {rate:.3g}", config, count=1))
        started = f"2026-01-{1 + number % 28:02}T{number % 24:02}:{number % 60:02}:00+00:00"
        (path / "environment.json").write_text(json.dumps({**environment, "started": started}))
        status = draw.choice(["finished"] * 8 + ["failed", "diverged"])
        measured = {"val/loss": final, "val/accuracy": 1 - final / 2}
        ended = {"status": status, "steps": steps, "planned": steps, "seconds": draw.uniform(1, 9000)}
        (path / "summary.json").write_text(json.dumps({**summary, **ended, "metrics": measured}))
        shutil.copy(source / "plan.json", path)
        lines = [",".join(names)]
        for step in range(steps):
            loss = final + 2 / (1 + step) * draw.uniform(0.8, 1.2)
            row = {"step": step, "train/loss": f"{loss:.6g}", "val/loss": f"{loss:.6g}" if step % 20 == 19 else ""}
            lines.append(",".join(str(row.get(name, "0.001")) for name in names))
        (path / "metrics.csv").write_text("\n".join([*lines, ""]))
    shutil.rmtree(real)


def main(count: int) -> None:
    """Generate runs, and print the times."""
    from lrflow.dashboard.app import application
    from lrflow.dashboard.index import Index
    from lrflow.dashboard.rows import list_page

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "outputs"
        generate(folder, count)

        def timed(what: str, index: Index) -> None:
            start = time.perf_counter()
            size = len(list_page(index).text())
            print(f"{what:58} {time.perf_counter() - start:7.2f} s  {size / 1e6:.1f} MB")

        index = Index(folder, pause=0)
        timed("first list: status, steps, time, findings", index)
        start = time.perf_counter()
        index.read_details()
        print(f"{'configs, curves and best values, in the background':58} {time.perf_counter() - start:7.2f} s")
        timed("list with all of it", index)
        start = time.perf_counter()
        index.changes(index.changes(0)[0])
        print(f"{'a look at the folder, in which nothing has changed':58} {time.perf_counter() - start:7.2f} s")
        if browser := shutil.which("chromium") or shutil.which("google-chrome"):
            import uvicorn

            config = uvicorn.Config(application(index, "token"), port=0, log_config=None, lifespan="off", ws="none")
            server = uvicorn.Server(config)
            threading.Thread(target=server.run, daemon=True).start()
            while not server.started:
                time.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            print(f"{'first paint in chromium':58} {first_paint(browser, port, Path(place)):7.2f} s")
            server.should_exit = True


def first_paint(browser: str, port: int, place: Path) -> float:
    """Return the seconds from the request of the list to the first paint of its content, as the browser measured it."""
    trace = place / "trace.json"
    words = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        f"--user-data-dir={place / 'browser'}", f"--trace-startup-file={trace}", "--trace-startup-duration=20",
        "--trace-startup=loading,blink.user_timing", "--trace-startup-format=json",
        "--timeout=8000", "--dump-dom",
        f"http://127.0.0.1:{port}/?token=token",
    ]  # fmt: skip
    subprocess.run(words, capture_output=True, timeout=120, check=True)
    events = json.loads(trace.read_text())["traceEvents"]
    painted = max(event["ts"] for event in events if event["name"] == "firstContentfulPaint")
    started = max(event["ts"] for event in events if event["name"] == "navigationStart" and event["ts"] < painted)
    return float(painted - started) / 1e6


if __name__ == "__main__":
    given = dict(word.split("=") for word in sys.argv[1:])
    main(int(given.get("runs", 1000)))
