from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lrflow.config import compose, load_config, save_config, validate
from lrflow.errors import ConfigError
from lrflow.redaction import redact_text, redactor

SECRET = "s3cr3t-0123456789"
ANY = "model._target_=torch.nn.Identity"  # takes any argument


@pytest.fixture(autouse=True)
def a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    redactor.forget()


@pytest.mark.parametrize(
    "override",
    [
        "+logger.wandb.api_key=abcdefgh",
        f"name={SECRET}",
        f"name=x-{SECRET}-y",
        f"optimizer={SECRET}",
        f"+token={SECRET}",
        "+model.credentials=[abc]",
        "+model.accessToken=abc",
        "+model.url=postgresql://me:abcdefgh@host/name",
        "+model.dsn='host=h password=abcdefgh'",
        "+model.auth=abcdefgh12345678",
        "+model.api_key=${oc.env:NO_SUCH_VARIABLE,abcdefgh}",
        "+model.url=postgresql://${oc.env:USER_NAME,me}:abcdefgh@host/name",
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


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://me:${oc.env:WANDB_API_KEY}@host/name",
        "Bearer ${oc.env:WANDB_API_KEY}",
        "${oc.env:WANDB_API_KEY,null}",
    ],
)
def test_interpolations_within_a_text_are_saved_as_typed(value: str, tmp_path: Path) -> None:
    config = compose([ANY, f"+model.api_token='{value}'"])
    save_config(config, tmp_path / "config.yaml")
    saved = OmegaConf.to_container(load_config(tmp_path / "config.yaml"))
    assert saved["model"]["api_token"] == value
    assert saved["lrflow"]["overrides"] == [ANY, f"model.api_token='{value}'"]
    assert SECRET not in (tmp_path / "config.yaml").read_text()


def test_what_hydra_resolves_does_not_bring_the_secret_beside_it_along(tmp_path: Path) -> None:
    config = compose([ANY, "+model.tag='${now:%Y}-${oc.env:WANDB_API_KEY}'"])
    save_config(config, tmp_path / "config.yaml")
    found = re.search(r"tag: (\S+)", (tmp_path / "config.yaml").read_text())
    assert found
    assert re.fullmatch(r"\d{4}-\$\{oc\.env:WANDB_API_KEY\}", found[1])


def test_a_value_saved_without_its_secret_is_asked_for(tmp_path: Path) -> None:
    save_config(compose([ANY, "+model.tag=x"]), tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    for masked in ("'***'", "postgresql://me:***@host"):
        (tmp_path / "config.yaml").write_text(text.replace("tag: x", f"tag: {masked}"))
        with pytest.raises(ConfigError) as caught:
            validate(load_config(tmp_path / "config.yaml"))
        (problem,) = caught.value.problems
        assert (problem.key, problem.message) == ("model.tag", "was saved without its secret")


def test_a_name_read_from_the_environment_and_typed_elsewhere_is_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHICH_PART", "lower-half-7")
    compose([ANY, "+model.part=${oc.env:WHICH_PART}"])
    assert redact_text("lower-half-7") == "***"
    compose([ANY, "+model.part=${oc.env:WHICH_PART}", "+model.other=lower-half-7"])
    assert redact_text("lower-half-7") == "lower-half-7"
