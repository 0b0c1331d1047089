"""The dashboard as a process, and in a browser: its address, its end, a port in use, a curve that grows."""

from __future__ import annotations

import http.client
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from browser import needs_browser, shown

from lrflow.dashboard.app import application
from lrflow.dashboard.index import Index
from lrflow.runs import RunFolder


def test_it_prints_its_address_and_ends_with_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "lrflow", "dashboard", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = re.search(r"http://(127\.0\.0\.1:\d+)(/\?token=[\w-]{30,})", process.stdout.readline())
            assert found
            assert process.stdout.readline() == "Ctrl-C ends it.\n"
            connection = http.client.HTTPConnection(found[1], timeout=20)
            for path, status in ((found[2], 303), ("/", 403), ("/runs/../../etc/passwd", 403)):
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == status
            process.send_signal(signal.SIGINT)
            rest, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (rest, error.strip(), process.returncode) == ("", "", 0)


@contextmanager
def served(app: Any) -> Iterator[int]:
    """Serves an application in a thread, and yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@needs_browser
def test_a_browser_lists_200_runs_and_follows_one(run_folder: Callable[..., Path], tmp_path: Path) -> None:
    first = run_folder("run-000")
    for number in range(1, 200):
        shutil.copytree(first, first.with_name(f"run-{number:03}"))
    running = first / "summary.json"
    running.unlink()
    lines = (first / "metrics.csv").read_text().splitlines(keepends=True)
    (first / "metrics.csv").write_text("".join(lines[:9]))
    index = Index(first.parent, pause=0)
    index.entries()
    index.read_details()
    app = application(index, "token")

    async def growing(scope: Any, receive: Any, send: Any) -> None:
        """Add a row whenever the page asks for news."""
        if scope["path"].endswith("live.json"):
            with (first / "metrics.csv").open("a") as file:
                file.write(lines[(first / "metrics.csv").read_text().count("\n")])
        await app(scope, receive, send)

    (entry,) = [entry for entry in index.entries() if entry.name == "run-000"]
    with RunFolder(first).locked(), served(growing) as port:
        listed = shown(f"http://127.0.0.1:{port}/?token=token", tmp_path / "list", (1280, 900), 6000)
        page = shown(f"http://127.0.0.1:{port}/runs/{entry.id}?token=token", tmp_path / "live", (1280, 900), 6000)
    assert listed.console == page.console == []
    assert listed.dom.count("<tr data-name=") == listed.dom.count('<svg class="spark"') == 200
    assert '<p id="shown" role="status">200 runs</p>' in listed.dom
    assert page.dom.count("This chart cannot be drawn") == 1  # in the script
    made = (first / "metrics.csv").read_text().count("\n") - 2
    assert made > 9
    (label,) = re.findall(
        r'role="img" aria-label="loss against[^"]*train/loss: from \S+ at 0 to \S+ at (\d+)', page.dom
    )
    assert int(label) >= made - 1
