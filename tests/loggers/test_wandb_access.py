"""A run on W&B is online only where there is a key and a server that answers; otherwise it is offline, or refused."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from lrflow.errors import ConfigError, LrflowError
from lrflow.loggers.wandb_access import ReachableWandbLogger, resolve_mode, unreachable


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY",
                 "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr("sys.stdin", None)


@pytest.fixture
def server() -> Iterator[str]:
    """A server that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def refused() -> str:
    """The URL of a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("wanted", "variables", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_MODE": ""}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled"),
        ("auto", {"WANDB_MODE": "dryrun"}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ("online", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "online"),
        ("offline", {"WANDB_API_KEY": "k"}, "offline"),
        ("disabled", {"WANDB_MODE": "online"}, "disabled"),
    ],
)
def test_the_mode(
    wanted: str, variables: dict[str, str], mode: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**variables, "WANDB_BASE_URL": server}.items():
        monkeypatch.setenv(name, value)
    assert resolve_mode(wanted, tmp_path) == mode
    assert os.environ.get("WANDB_MODE") != ""


def test_a_key_of_the_users_netrc_counts(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server)
    (tmp_path / "netrc").write_text(f"machine {server.removeprefix('http://')} login user password key\n")
    assert resolve_mode("online", tmp_path) == "online"


@pytest.mark.parametrize(
    ("wanted", "variables", "key", "said"),
    [
        ("online", {}, "logger.wandb.mode", "needs an API key"),
        ("auto", {"WANDB_MODE": "online"}, "logger.wandb.mode", "needs an API key"),
        ("auto", {"WANDB_MODE": "ofline"}, "WANDB_MODE", "expected online"),
    ],
)
def test_what_is_refused(
    wanted: str, variables: dict[str, str], key: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said) as caught:
        resolve_mode(wanted, tmp_path)
    assert caught.value.problems[0].key == key


def test_without_a_network_the_run_is_offline_and_the_upload_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setenv("WANDB_BASE_URL", refused())
    with caplog.at_level(logging.WARNING):
        assert resolve_mode("auto", tmp_path) == "offline"
    (line,) = caplog.messages
    assert "Connection refused" in line
    assert f"wandb sync {tmp_path}/wandb/offline-run-*" in line


def test_the_search_for_an_address_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr("socket.create_connection", lambda *_, **__: threading.Event().wait())
    assert unreachable("https://api.wandb.ai", patience=0.05) == "no answer within 0.05 seconds"


def test_behind_a_proxy_the_proxy_is_asked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", server)
    assert unreachable("https://nowhere.invalid") is None
    monkeypatch.setenv("https_proxy", refused())
    assert unreachable("https://nowhere.invalid") == "Connection refused"


def test_a_server_that_does_not_accept_the_run_makes_it_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wandb = pytest.importorskip("wandb")
    modes: list[str] = []

    def init(**options: str) -> object:
        modes.append(options["mode"])
        if options["mode"] == "online":
            raise wandb.errors.CommError("the server is down")
        return object()

    monkeypatch.setattr("wandb.init", init)
    logger = ReachableWandbLogger(save_dir=tmp_path, mode="online")
    assert logger.experiment is logger.experiment
    assert modes == ["online", "offline"]
    assert "the server is down" in caplog.text


def test_a_refused_key_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")

    refused = wandb.errors.AuthenticationError("API key must have 40+ characters, has 1.")
    in_use = RuntimeError("run ID abc is in use")
    for error, kind in ((refused, ConfigError), (in_use, LrflowError)):
        monkeypatch.setattr("wandb.init", Mock(side_effect=error))
        with pytest.raises(kind, match=r"must have 40|cannot start the run: run ID abc is in use"):
            _ = ReachableWandbLogger(save_dir=tmp_path, mode="online").experiment
