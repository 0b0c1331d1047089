from __future__ import annotations

import socket
from pathlib import Path

import pytest

from lrflow.cli import main
from lrflow.config import packages


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "outputs there is no such folder"),
        (["none"], "there is no such folder"),
        ([".", "prot=1"], "did you mean port?"),
        ([".", "port=70000"], "expected a number up to 65,535"),
        ([".", "port=-1"], "expected a number up to 65,535"),
        ([".", "open=yes"], "expected true or false"),
        ([".", ".."], "takes one folder"),
    ],
)
def test_what_is_wrong_is_reported(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["dashboard", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_port_in_use_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["dashboard", str(tmp_path), f"port={port}"]) == 2
    assert f"port = {port} another program uses it" in " ".join(capsys.readouterr().err.split())


def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = packages.importlib.util.find_spec
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    assert main(["dashboard", str(tmp_path)]) == 2
    assert "pip install 'lrflow[dashboard]'" in capsys.readouterr().err
