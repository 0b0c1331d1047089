"""The web application of the dashboard: it sends pages that lrflow makes, and never a file."""

from __future__ import annotations

import json
import re
import secrets
import shlex
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lrflow.dashboard import rows
from lrflow.dashboard.guard import guarded
from lrflow.dashboard.index import Entry, Index
from lrflow.errors import ConfigError, LrflowError
from lrflow.redaction import redactor
from lrflow.reports.page import Page, Served
from lrflow.reports.runs import Condition, selected

MOST_COMPARED = 50  # runs on one page
_KEPT = 16  # pages and watched runs in memory
_SCRIPT = (Path(__file__).parent / "dashboard.js").read_text(encoding="utf-8")


def application(index: Index, token: str) -> Any:
    """Return the application, which answers only those who know the token, and only requests to read.

    Args:
        index: the runs.
        token: in the address that opens the dashboard.
    """
    dashboard = Dashboard(index)
    routes = {
        "/": dashboard.list,
        "/changes.json": dashboard.changes,
        "/matches.json": dashboard.matches,
        "/compare": dashboard.compare,
        "/runs/{id}": dashboard.run,
        "/runs/{id}/live.json": dashboard.live,
        "/sweeps/{id}": dashboard.sweep,
    }
    # Each is a plain function, which Starlette runs in a thread: it reads files.
    listed = [Route(path, answer, methods=["GET"]) for path, answer in routes.items()]
    app = Starlette(routes=listed, middleware=[Middleware(GZipMiddleware, minimum_size=2000, compresslevel=3)])
    return guarded(app, token)


class Dashboard:
    """The answers of the application.

    Args:
        index: the runs.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._making, self._watching = Lock(), Lock()
        self._pages: OrderedDict[Any, Page] = OrderedDict()
        self._watched: OrderedDict[str, Any] = OrderedDict()

    def list(self, request: Request) -> Response:
        """Send the page of all runs."""
        return _page(rows.list_page(self._index), is_list=True)

    def changes(self, request: Request) -> Response:
        """Send the rows that changed since a version."""
        since = request.query_params.get("since", "0")
        version, entries, gone = self._index.changes(int(since) if since.isdecimal() and len(since) < 19 else 0)
        changed = {entry.id: rows.row(entry) for entry in entries}
        found = {"version": version, "rows": changed, "gone": gone, "unread": self._index.unread}
        return _json(found | ({"sweeps": rows.sweeps(self._index)} if changed or gone else {}))

    def matches(self, request: Request) -> Response:
        """Send the ids of the runs that meet the words of a filter."""
        entries = self._index.entries()
        try:
            found = _matching(entries, request.query_params.get("words", ""))
        except ConfigError as error:
            return _json({"problem": " ".join(str(error).split())})
        return _json({"ids": [entry.id for entry in found]})

    def run(self, request: Request) -> Response:
        """Send the page of a run; of one that is going on, the page that follows it."""
        entry = self._index.entry(request.path_params["id"])
        if entry is None:
            return _gone("run")
        if entry.is_going_on and "whole" not in request.query_params:
            from lrflow.dashboard.live import live_page

            return _page(live_page(entry))

        def make() -> Page:
            from lrflow.reports.run_page import run_page

            return run_page(entry.run.folder)

        return self._made((entry.id, entry.facts, entry.curve, entry.run.status), make)

    def live(self, request: Request) -> Response:
        """Send what changed of a run since its reader last asked."""
        from lrflow.dashboard.live import Live

        entry = self._index.entry(request.path_params["id"])
        if entry is None:
            return _json({"problem": "The run is gone: its folder was moved or deleted."}, 404)
        with self._watching:
            live = _keep(self._watched, entry.id, lambda: Live(entry))
            return _json(live.changes(entry, request.query_params.get("at", "")))

    def sweep(self, request: Request) -> Response:
        """Send the page of a sweep."""
        wanted = request.path_params["id"]
        entries = self._index.entries()
        sweep = next((one for one in self._index.sweeps(entries) if one.id == wanted), None)
        if sweep is None or not all(self._index.entry(entry.id) for entry in sweep.entries):
            return _gone("sweep")
        ids = {entry.run.folder: entry.id for entry in sweep.entries}

        def make() -> Page:
            from lrflow.reports.sweep import sweep_page

            return sweep_page(sweep.folder, lambda folder: f"/runs/{ids[folder]}" if folder in ids else "/")

        return self._made((wanted, *((each.id, each.facts) for each in sweep.entries)), make)

    def compare(self, request: Request) -> Response:
        """Send the page that compares some runs."""
        wanted = list(dict.fromkeys(request.query_params.getlist("run")))[: MOST_COMPARED + 1]
        if not 2 <= len(wanted) <= MOST_COMPARED:
            text = f"Select two to {MOST_COMPARED} runs in the list."
            return _page(_message("These runs cannot be compared", text), 400)
        entries = [entry for one in wanted if (entry := self._index.entry(one))]
        if len(entries) < len(wanted):
            return _gone("run")
        ids = {entry.run.folder: entry.id for entry in entries}

        def make() -> Page:
            from lrflow.reports.compare_page import comparison

            return comparison([entry.run for entry in entries], lambda folder: f"/runs/{ids[folder]}")

        return self._made(("compare", *((each.id, each.facts, each.curve) for each in entries)), make)

    def _made(self, key: tuple[Any, ...], make: Callable[[], Page]) -> Response:
        """Send a page, which is made unless it was made of the same files before."""
        try:
            with self._making:  # one at a time: each takes a core
                return _page(_keep(self._pages, key, make))
        except Exception as error:  # of a folder of another version, or one that is deleted meanwhile
            text = str(error) if isinstance(error, LrflowError) else f"{type(error).__name__}: {error}"
            return _page(_message("This page cannot be made", text), 500)


def _keep(kept: OrderedDict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    """Return what was made for a key, or make it; what was not asked for the longest is forgotten."""
    if key not in kept:
        kept[key] = make()
    kept.move_to_end(key)
    while len(kept) > _KEPT:
        kept.popitem(last=False)
    return kept[key]


def _matching(entries: Sequence[Entry], text: str) -> Sequence[Entry]:
    """Return the runs that meet all words: conditions as `lrflow list` takes them, and parts of what the list shows."""
    try:
        words = shlex.split(text)
    except ValueError:  # a quote that is still open
        words = re.sub("['\"]", " ", text).split()
    conditions = [Condition.parse(word) for word in words if any(sign in word for sign in "=<>")]
    parts = [word.lower() for word in words if not any(sign in word for sign in "=<>")]
    by_run = {id(entry.run): entry for entry in entries}
    found = [by_run[id(run)] for run in selected([entry.run for entry in entries], conditions)]
    return [entry for entry in found if all(part in _described(entry) for part in parts)]


def _described(entry: Entry) -> str:
    """Return what the list shows of a run, and its options, in small letters."""
    run = entry.run
    options = [str(value) for key, value in run.config.items() if "." not in key and isinstance(value, str)]
    shown = [cell.text if isinstance(cell, rows.Cell) else str(cell or "") for cell in rows.cells(entry)]
    return " ".join([*shown, *options]).lower()


def _message(title: str, text: str) -> Page:
    page = Page(title)
    page.warnings([text])
    return page


def _gone(what: str) -> Response:
    text = f"It is no {what} below the folder of this dashboard, or its folder was moved or deleted."
    return _page(_message(f"There is no such {what}", text), 404)


def _page(page: Page, status: int = 200, is_list: bool = False) -> Response:
    nonce = secrets.token_urlsafe(16)
    text = redactor.file(page.text(Served(nonce, "" if is_list else "/", _SCRIPT)))
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return Response(text, status, {"Content-Security-Policy": policy}, "text/html")


def _json(content: dict[str, Any], status: int = 200) -> Response:
    text = redactor.file(json.dumps(content, ensure_ascii=False, allow_nan=False))
    return Response(text.encode(errors="replace"), status, media_type="application/json")
