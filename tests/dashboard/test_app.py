"""The pages and answers of the dashboard, and who gets them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import cells, headings, tiles
from starlette.testclient import TestClient

from lrflow.dashboard.app import application
from lrflow.dashboard.index import Index
from lrflow.runs import RunFolder

TOKEN = "the-token"
LIST = "/?token=the-token"


@pytest.fixture
def index(run_folder: Callable[..., Path]) -> Index:
    run_folder("first", overrides=["optimizer.lr=0.1", "name=<b>"], findings=[{"kind": "too_high", "step": 9}])
    summary = {"status": "failed", "reason": "<script>", "metrics": {"val/loss": 0.5}}
    second = run_folder("second", summary=summary, columns={"val/loss": {9: 0.5}})
    found = Index(second.parent, pause=0)
    found.entries()
    found.read_details()
    return found


@pytest.fixture
def stranger(index: Index) -> TestClient:
    return TestClient(application(index, TOKEN), "http://127.0.0.1:80")


@pytest.fixture
def client(stranger: TestClient) -> TestClient:
    """A client that has opened the address with the token."""
    assert stranger.get(LIST).status_code == 200
    return stranger


def ids(index: Index) -> dict[str, str]:
    return {entry.name: entry.id for entry in index.entries()}


@pytest.mark.parametrize("path", ["/", "/changes.json", "/runs/0", "/none", "/?token=", "/?token=wrong", "/?token=ü"])
def test_nobody_gets_in_without_the_token(path: str, stranger: TestClient) -> None:
    answer = stranger.get(path, cookies={"lrflow-80": "wrong"})
    assert answer.status_code == 403
    assert "token" in answer.text


def test_a_cookie_replaces_the_token(stranger: TestClient) -> None:
    answer = stranger.get("http://127.0.0.1:80//evil.example/x?token=the-token&whole=1", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/evil.example/x?whole=1")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert TOKEN not in cookie
    assert stranger.get("/").status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:80", 200), ("localhost:9000", 200), ("evil.example", 400), ("127.0.0.1.evil.example", 400), ("", 400)],
)
def test_only_this_machine_is_its_name(host: str, status: int, client: TestClient) -> None:
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_it_only_reads(method: str, client: TestClient) -> None:
    answer = client.request(method, "/")
    assert answer.status_code == 405
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_headers_keep_everything_here(client: TestClient) -> None:
    first, second = client.get("/"), client.get("/")
    policy = first.headers["content-security-policy"]
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)
    assert nonce
    assert f'<script type="module" nonce="{nonce[1]}">' in first.text
    assert nonce[1] not in second.text
    assert policy.startswith("default-src 'none'")
    assert not re.findall(r"https?://(?!www.w3.org)", policy + first.text)
    for name, value in {
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-frame-options": "DENY",
    }.items():
        assert client.get("/changes.json").headers[name] == first.headers[name] == value


@pytest.mark.parametrize(
    "path",
    [
        "/runs/../../etc/passwd", "/runs/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/runs//etc/passwd", "/runs/x",
        "/runs/%00", "/runs/second/config.yaml", "/sweeps/%2e%2e", "/runs/..%5c..%5c", "/runs/first/live.json",
        "/compare?run=../x&run=/etc", "/outputs/", "/runs/0123456789abcdef",
    ],
)  # fmt: skip
def test_paths_lead_nowhere(path: str, client: TestClient) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "optimizer" not in answer.text


def test_the_list(client: TestClient, index: Index) -> None:
    text = client.get("/").text
    names, *rows = cells(text, "Runs")
    assert names[1:] == [
        "run", "status", "curve", "best", "metric", "steps", "time", "findings", "started", "settings",
    ]  # fmt: skip
    assert sorted(row[1:] for row in rows) == [
        ["first", "finished", "", "1.225", "val/loss", "40", "1 min 15 s", "too high", "2026-12-01 06:00",
         "optimizer.lr=0.1"],
        ["second", "failed", "", "0.5", "val/loss", "40", "1 min 15 s", "", "2026-12-01 06:00", ""],
    ]  # fmt: skip
    assert text.count('<svg class="spark"') == 2
    assert 'aria-label="val/loss from' in text
    assert 'title="&lt;script&gt;"' in text
    assert all(f'href="/runs/{one}"' in text for one in ids(index).values())


def test_the_page_of_a_run_is_made_and_not_written(client: TestClient, index: Index) -> None:
    text = client.get(f"/runs/{ids(index)['first']}").text
    assert tiles(text)["best val/loss"][0] == "1.225"
    assert {"Loss", "Findings", "Config"} <= {*headings(text)}
    assert "&lt;b&gt;" in text
    assert not list(index.folder.rglob("report.html"))


def test_runs_are_compared(client: TestClient, index: Index) -> None:
    text = client.get("/compare", params={"run": [*ids(index).values()]}).text
    assert "2 runs compared" in text
    assert all(f'href="/runs/{one}"' in text for one in ids(index).values())
    assert client.get("/compare", params={"run": [ids(index)["first"]]}).status_code == 400


def test_the_page_of_a_sweep_links_to_its_runs(
    client: TestClient, index: Index, run_folder: Callable[..., Path]
) -> None:
    for number in range(2):
        rate = 10.0**-number
        run_folder(f"s/{number}", overrides=[f"optimizer.lr={rate}"], config={"optimizer": {"lr": rate}})
    (index.folder / "s" / "sweep.yaml").write_text("settings: {}\nspace: ['optimizer.lr: interval(0.1, 1)']\n")
    (link,) = re.findall(r'href="(/sweeps/\w+)"', client.get("/").text)
    text = client.get(link).text
    assert [row[0] for row in cells(text, "Trials")[1:]] == ["0", "1"]
    assert all(f'href="/runs/{ids(index)[name]}"' in text for name in ("s/0", "s/1"))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", {"first", "second"}),
        ("val/loss<1", {"second"}),
        ("status=failed", {"second"}),
        ("optimizer=adamw FIRST", {"first"}),
        ("too high", {"first"}),
        ("'too high", {"first"}),
        ("nothing", set()),
    ],
)
def test_the_filter_takes_conditions_and_words(words: str, found: set[str], client: TestClient, index: Index) -> None:
    answer = client.get("/matches.json", params={"words": words}).json()
    named = {one: name for name, one in ids(index).items()}
    assert {named[one] for one in answer["ids"]} == found


def test_the_filter_says_what_is_wrong(client: TestClient) -> None:
    assert "did you mean val/loss?" in client.get("/matches.json?words=val/los<1").json()["problem"]
    assert "expected one of" in client.get("/matches.json?words=status=finishd").json()["problem"]


def test_a_run_that_is_going_on_is_followed_to_its_end(client: TestClient, index: Index) -> None:
    folder = index.folder / "second"
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").unlink()
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(lines[:10]) + lines[10][:5])
    address = f"/runs/{ids(index)['second']}"
    with RunFolder(folder).locked():
        assert 'id="live"' in client.get(address).text
        assert "Config" in headings(client.get(f"{address}?whole=true").text)
        first = client.get(f"{address}/live.json?at=").json()
        assert client.get(f"{address}/live.json", params={"at": first["at"]}).json() == {"at": first["at"]}
        with (folder / "metrics.csv").open("a") as file:
            file.write(lines[10][5:] + "".join(lines[11:]))
        second = client.get(f"{address}/live.json", params={"at": first["at"]}).json()
        loss = [next(one for one in each["figures"] if one["name"] == "loss") for each in (first, second)]
        assert [max(one["data"]["data-1"]["x"]) for one in loss] == [8, 39]
        assert not second["ended"]
        assert "running" in second["above"]
    (folder / "summary.json").write_text(json.dumps(summary))
    index.changes(0)
    assert client.get(f"{address}/live.json?at=").json()["ended"]
    assert 'id="live"' not in client.get(address).text


def test_what_is_deleted_meanwhile_is_reported(
    client: TestClient, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ids(index)
    kept = {entry.id: entry for entry in index.entries()}
    shutil.rmtree(index.folder / "first")
    assert client.get(f"/runs/{known['first']}").status_code == 404
    assert "moved or deleted" in client.get(f"/runs/{known['first']}/live.json").json()["problem"]
    assert client.get("/changes.json?since=1").json()["gone"] == [known["first"]]
    monkeypatch.setattr(index, "entry", kept.get)  # deleted after it was looked up
    answer = client.get(f"/runs/{known['first']}")
    assert (answer.status_code, tiles(answer.text)["status"][0]) == (200, "unfinished"), "as far as it can be read"


def test_names_that_are_not_unicode_are_shown(client: TestClient, index: Index) -> None:
    (index.folder / "first").rename(index.folder / "a\udcff")
    assert "a?" in "".join(client.get("/changes.json").json()["rows"].values())
    name = ids(index)["a\udcff"]
    for path in ("", "/live.json"):
        assert client.get(f"/runs/{name}{path}").status_code == 200


def test_a_folder_without_runs_says_so(tmp_path: Path) -> None:
    client = TestClient(application(Index(tmp_path), TOKEN), "http://localhost")
    assert "There are no runs under" in client.get(LIST).text
