from __future__ import annotations

from pathlib import Path

import pytest

from lrflow.cli.arguments import parse
from lrflow.errors import ConfigError


def test_flags_and_overrides_in_any_order() -> None:
    args = parse(["optimizer=sgd", "-m", "seed=1,2", "--config-dir", "conf", "~model.norm"])
    assert args.overrides == ("optimizer=sgd", "seed=1,2", "~model.norm")
    assert args.multirun
    assert args.config_dir == Path("conf")


def test_trust_is_not_an_override() -> None:
    args = parse(["seed=1", "trust=ours", "trust=[a,b.c]"])
    assert args.overrides == ("seed=1",)
    assert args.trust == ("ours", "a", "b.c")


def test_arguments_for_hydra() -> None:
    args = parse(["-m", "-cd", "conf", "trust=x", "seed=1"])
    assert args.for_hydra(["++seed=1"]) == ["--multirun", "--config-dir", str(Path("conf").resolve()), "++seed=1"]
    assert parse(["--info", "defaults"]).for_hydra([]) == ["--info", "defaults"]
    assert parse(["--info"]).for_hydra([]) == ["--info", "all"]
    assert parse(["-sc", "query=bash"]).for_hydra(["query=bash"]) == ["--shell-completion", "query=bash"]


@pytest.mark.parametrize(
    ("words", "key", "said"),
    [
        (["--multirn"], "--multirn", "did you mean --multirun?"),
        (["--lr", "0.1"], "--lr", "without dashes"),
        (["--lr=0.1"], "--lr=0.1", "without dashes"),
        (["--cfg", "jobs"], "--cfg", "expected one of job, hydra, all"),
        (["--info", "x"], "--info", "expected one of all, config"),
        (["--config-dir"], "command line", "expected one argument"),
        (["--resolve"], "--resolve", "needs --cfg job"),
        (["-m", "--cfg", "job"], "command line", "exclude each other"),
        (["trust=a b"], "trust", "the name of a Python package"),
        (["--experimental-rerun", "x.pkl"], "--experimental-rerun", "no such flag"),
        (["--config-path", "x"], "--config-path", "no such flag"),
    ],
)
def test_messages_about_flags(words: list[str], key: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(words)
    problem = caught.value.problems[0]
    assert problem.key == key
    assert said in f"{problem.message} {problem.hint}"
