"""A launcher's variables that are no numbers are named, before Lightning and torch read them."""

from __future__ import annotations

import pytest

from lrflow.cli import main
from lrflow.errors import ConfigError
from lrflow.launch import _LOWEST, check_environment, check_port


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*_LOWEST, "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", _LOWEST)
def test_numbers_of_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (
        "abc",
        "",
        "1.5",
        "-1",
        "²",
        "9" * 5000,
        *([] if name not in ("WORLD_SIZE", "SLURM_NTASKS") else ["0"]),
    ):
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError) as caught:
            check_environment()
        (problem,) = caught.value.problems
        assert (problem.key, problem.value) == (name, value)
        assert "environment, expected a whole number" in problem.message
        assert f"unset {name}" in str(problem.hint)
    monkeypatch.setenv(name, "1")
    check_environment()


def test_ranks_lie_below_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="RANK = '2': in the environment, expected less than WORLD_SIZE=2"):
        check_environment()


def test_the_port_matters_only_to_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "tcp://10.0.0.1:80")  # of a service of Kubernetes
    check_environment()
    with pytest.raises(ConfigError, match=r"MASTER_PORT = .*expected a port"):
        check_port()
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["resume=auto"]) == 2


@pytest.mark.parametrize("words", [["fast=true"], ["resume=auto"], ["-m", "seed=1,2"]])
def test_the_command_line_tells(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "abc")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "1 problem" in said
    assert "WORLD_SIZE = abc" in said
