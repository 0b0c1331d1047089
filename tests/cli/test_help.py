from __future__ import annotations

from pathlib import Path

import pytest

from lrflow.cli import main
from lrflow.config.composition.options import GROUPS, Catalogue


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["--help", *words]) == 0
    return capsys.readouterr().out


def test_every_option_with_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    page = " ".join(shown(capsys).split())
    for group in GROUPS:
        for option in Catalogue().options(group).values():
            variant = "/" in option.name  # its recipe's README lists it
            assert (f"{option.name} {option.summary}" in page) is not variant


@pytest.mark.parametrize("mention", ["--cfg job", "--info", "-m", "--config-dir", "--shell-completion install=bash"])
def test_the_flags(mention: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert mention in shown(capsys)


def test_it_begins_with_usage_examples_and_common_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(capsys)
    heads = [line.split("  ")[0] for line in page.splitlines() if line[:1].isalpha()]
    assert heads[0].startswith("usage: lrflow")
    wanted = ["examples", "common overrides", "flags", *GROUPS]
    assert [head for head in heads if head in wanted] == wanted
    assert "(default: adamw)" in page
    assert all(f"{group}   (default" not in page for group in GROUPS)  # each says what it is


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal(width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = shown(capsys).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)
    options = sum(len(Catalogue().options(group)) for group in GROUPS)
    assert len(lines) < 60 + 2 * len(GROUPS) + 1.5 * options  # a line per option, mostly


def test_user_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer/slow.yaml").write_text("# Slow and steady.\nlr: 1e-9\n")
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher/large.yaml").write_text("# @package _global_\n# A large one.\n")
    page = " ".join(shown(capsys, "--config-dir", str(tmp_path)).split())
    assert "slow Slow and steady." in page
    assert "large A large one." in page


def test_every_group_has_options() -> None:
    for group in GROUPS:
        assert Catalogue().options(group), group
