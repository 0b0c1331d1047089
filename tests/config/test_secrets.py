from __future__ import annotations

from pathlib import Path

import pytest

from lrflow.config import compose, redact, save_config
from lrflow.config.secrets import is_secret_name, redact_text
from lrflow.errors import ConfigError

SECRET = "s3cr3t-0123456789"


@pytest.fixture(autouse=True)
def a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)


@pytest.mark.parametrize(
    "key", ["api_key", "logger.wandb.api_key", "WANDB_API_KEY", "hf_token", "token", "password", "x.secret", "apikey"]
)
def test_names_of_secrets(key: str) -> None:
    assert is_secret_name(key)


@pytest.mark.parametrize("key", ["tokenizer", "max_tokens", "pad_token", "num_tokens", "key", "monkey", "secretary"])
def test_names_that_are_not_secrets(key: str) -> None:
    assert not is_secret_name(key)


@pytest.mark.parametrize(
    "override",
    [
        "+logger.wandb.api_key=abcdefgh",
        f"name={SECRET}",
        f"name=x-{SECRET}-y",
        f"optimizer={SECRET}",
        f"+token={SECRET}",
        f"hydra.job.env_set={{A: {SECRET}}}",
        "hydra.job.env_copy=[WANDB_API_KEY]",
    ],
)
def test_a_plain_text_secret_is_an_error_and_masked(override: str, problems_of) -> None:
    problems = problems_of(["logger=wandb", override])
    assert any("oc.env" in str(problem.hint) for problem in problems)
    for problem in problems:
        assert SECRET not in str(problem)
        assert "abcdefgh" not in str(problem)


def test_a_plain_text_secret_in_a_file_is_an_error(write, problems_of) -> None:
    write("conf/logger/mine.yaml", f"csv: true\nwandb:\n  entity: {SECRET}\n")
    (problem,) = problems_of(["logger=mine"], Path("conf"))
    assert (problem.key, problem.value, problem.where) == ("logger.wandb.entity", "***", "conf/logger/mine.yaml:3")


def test_a_secret_from_the_environment_is_not_saved(tmp_path: Path) -> None:
    config = compose(["task=plan", "against=${oc.env:WANDB_API_KEY}"])
    assert config.against == SECRET
    save_config(config, tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    assert SECRET not in text
    assert "against: ${oc.env:WANDB_API_KEY}" in text


def test_redaction() -> None:
    given = {"api_key": "abc", "a": [f"x{SECRET}y", 1, None], "b": {"token": "${oc.env:T}", "lr": 0.1}, "password": ""}
    given["credentials"] = ["abc", {"user": "me"}]
    assert redact(given) == {
        "api_key": "***",
        "a": ["x***y", 1, None],
        "b": {"token": "${oc.env:T}", "lr": 0.1},
        "password": "",
        "credentials": ["***", {"user": "me"}],
    }
    assert redact_text(f"it is {SECRET}.") == "it is ***."
    for text in ("postgresql+psycopg://lr:p%40ss:w@host:5432/trials", "see mysql://lr:p%40ss:w@host, and me@host"):
        assert redact_text(text) == redact({"url": text})["url"] == text.replace("p%40ss:w", "***")
    for text in ("sqlite:///trials.db", "https://host:80/a", "https://host/a:b@c", "postgresql://lr@host/trials"):
        assert redact_text(text) == redact([text])[0] == text


def test_a_problem_masks_an_interpolated_secret(problems_of) -> None:
    (problem,) = problems_of(["seed=${oc.env:WANDB_API_KEY}"])
    assert problem.key == "seed"
    with pytest.raises(ConfigError):
        compose(["seed=${oc.env:WANDB_API_KEY}"])


def test_short_values_are_not_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "sgd")
    assert compose(["optimizer=sgd"]).choices["optimizer"] == "sgd"


@pytest.mark.parametrize("key", ["name", "logger.wandb.entity"])
def test_an_interpolation_that_publishes_a_secret_is_an_error(key: str, problems_of) -> None:
    (problem,) = problems_of(["logger=wandb", f"{key}=${{oc.env:WANDB_API_KEY}}"])
    assert (problem.key, problem.value) == (key, "***")
