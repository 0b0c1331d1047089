from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from lrflow.config.composition.literal import in_shell, literal_paths
from lrflow.config.composition.overrides import Override, expand, quoted

NAMES = [
    "plain-1.2_x", "my run", "a, b", "a,b", "k=v", "run [1]", "[1,2]", "{a: 1}", "(x)", "it's", "'quoted'", '"quoted"',
    'say "hi"', "50%", "#1", "a#b", "läuft ☃", "日本", "back\\slash", "ends with \\", "\\'", "tab\there", "a:b", "a;b",
    "a&b", "$HOME", "`ls`", "!x", "*", "~", "-dash", "null", "true", "1e-3", "choice(a,b)", "a  b", "name's \"both\"",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_path_of_any_name_is_read_as_it_is_typed_and_as_it_is_printed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    for key in ("resume", "sweep.resume", "output", "task.from"):
        (typed, *_) = literal_paths(expand([f"{key}=./{name}"]))
        assert typed.plain == f"./{name}"
        assert typed.parsed.value() == f"./{name}"
        (word,) = shlex.split(in_shell(key, name))
        (printed, *_) = literal_paths(expand([word]))
        if name != "null":  # means none
            assert printed.plain == name


@pytest.mark.parametrize(
    ("text", "sweep", "expected"),
    [
        ("output=runs", False, "runs"),
        ("output='my, runs'", False, "'my, runs'"),  # quoted for Hydra
        ("output=my, runs", False, quoted("my, runs")),  # as after a shell's quotes
        ("output=${oc.env:HOME}/x", False, "${oc.env:HOME}/x"),
        ("name=a,b", True, "a,b"),  # a sweep
        ("name=a,b", False, quoted("a,b")),
        ("resume=a,b", False, "a,b"),  # two runs, which is refused
        ("resume=null", False, "null"),
        ("optimizer.lr=1,2", False, "1,2"),
    ],
)
def test_only_paths_and_names_are_read_literally(
    text: str, sweep: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert literal_paths(expand([text]), sweep)[0].value == expected


@pytest.mark.parametrize("text", [*NAMES, "a\\\\'b", "\\\\"])
def test_quoted_text_is_read_back_by_hydra(text: str) -> None:
    assert Override("name", quoted(text)).parsed.value() == text
