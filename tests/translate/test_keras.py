"""Compiled models of Keras against the LRs that Keras (3.15.1) itself computed, and the cuts of its own callback."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lrflow.errors import ConfigError
from lrflow.feedback import Plateau
from lrflow.plan import Plan
from lrflow.translate import Facts, translate

KERAS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "references" / "keras.json").read_text(encoding="utf-8")
)  # fmt: skip
STEPS = 130


def compiled(schedule: Any, name: str = "Adam", **more: Any) -> dict[str, Any]:
    return {"optimizer": {"class_name": name, "config": {"learning_rate": schedule, **more}}, "loss": None}


def run(schedule: Any, **more: Any) -> dict[str, Any]:
    return {**compiled(schedule, **more), "epochs": STEPS // 10, "steps_per_epoch": 10}


def archive(path: Path, content: bytes, name: str = "config.json", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr(name, content)
    return path


def test_each_schedule_is_keras_own_at_every_step(lrs: Callable[..., Any]) -> None:
    wrong = []
    for name, case in KERAS["schedules"].items():
        found = lrs(run(case["config"]), STEPS)
        error = np.abs(found - case["lr"]).max() / max(case["lr"])
        if not error < 1e-12:
            wrong.append(f"{name}: {error}")
    assert not wrong, "\n".join(wrong)


def test_accumulated_batches_count_for_the_schedule(lrs: Callable[..., Any]) -> None:
    """Keras passes the number of the batch: the first of four updates has the LR of the fourth batch."""
    for name, rates in KERAS["accumulated"].items():
        content = run(KERAS["schedules"][name]["config"], gradient_accumulation_steps=4)
        np.testing.assert_allclose(lrs(content, len(rates)), rates, rtol=1e-9, err_msg=name)


def test_a_plateau_cuts_at_the_epochs_of_keras(tmp_path: Path) -> None:
    for name, case in KERAS["plateaus"].items():
        path = tmp_path / "train.json"
        callback = {"class_name": "ReduceLROnPlateau", "config": {"mode": "min", **case["config"]}}
        path.write_text(json.dumps({**compiled(0.01), "epochs": 60, "callbacks": [callback]}))
        found = translate(path, Facts())
        assert (found.options["schedule"], found.options["feedback"]) == ("constant", "plateau")
        feedback = Plateau(**found.values["feedback"])
        rates = []
        for loss in KERAS["losses"]:
            feedback.update(loss)
            rates.append(0.01 * feedback.factor)
        np.testing.assert_allclose(rates, case["lr"], rtol=1e-6, atol=1e-12, err_msg=name)


def test_an_archive_has_a_plan(planned: Callable[..., Plan], tmp_path: Path) -> None:
    model = {
        "class_name": "Sequential",
        "config": {"layers": []},
        "compile_config": compiled(
            KERAS["schedules"]["cosine after a warmup"]["config"], "AdamW", global_clipnorm=1.0, use_ema=True
        ),
    }
    path = archive(tmp_path / "model.keras", json.dumps(model).encode())
    text = translate(path, Facts()).text()
    recipe = yaml.safe_load(text)
    assert recipe["trainer"] == {"max_epochs": None, "max_steps": 115}
    assert recipe["average"] == {"decay": 0.99, "warmup": False}
    plan = planned(model, 115)
    np.testing.assert_allclose(
        plan.lr(np.arange(115))[:, 0], KERAS["schedules"]["cosine after a warmup"]["lr"][:115], rtol=1e-12
    )
    assert plan.groups[0].weight_decay == 0.004


def test_optimizers_with_the_defaults_of_keras(tmp_path: Path) -> None:
    rounded = struct.unpack("f", struct.pack("f", 0.001))[0]
    cases: list[tuple[Any, str, dict[str, Any], set[str]]] = [
        ({"optimizer": "adam"}, "adam", {"lr": 1e-3, "eps": 1e-7, "weight_decay": 0.0}, set()),
        (compiled(rounded, weight_decay=0.01), "adamw", {"lr": 1e-3, "weight_decay": 0.01}, set()),
        (compiled(0.1, "SGD", weight_decay=0.01), "sgd", {"lr": 0.1, "weight_decay": 0.01}, set()),
        (compiled(0.1, "SGD", momentum=0.9, nesterov=True, weight_decay=0.01), "sgd",
         {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0}, {"weight_decay"}),
        (compiled(0.1, "RMSprop", rho=0.95, centered=True), "rmsprop", {"alpha": 0.95, "centered": True}, set()),
        (compiled(0.1, "Nadam"), "nadam", {"momentum_decay": 1.0, "weight_decay": 0.0}, set()),
        (compiled(0.1, "Adagrad"), "adagrad", {"initial_accumulator_value": 0.1, "eps": 1e-7}, set()),
        (compiled(0.1, "Ftrl"), "adamw", {"lr": 0.1}, {"class_name"}),
        (compiled(0.1, clipnorm=1.0, use_ema=False), "adam", {}, {"clipnorm"}),
        ({"name": "adam_w_3", "learning_rate": rounded, "beta_1": 0.8, "epsilon": 1e-6}, "adamw",
         {"betas": [0.8, 0.999], "eps": 1e-6, "weight_decay": 0.004}, set()),
        ({"class_name": "LossScaleOptimizer", "config": {"inner_optimizer": compiled(0.1, "Lion")["optimizer"]}},
         "lion", {"lr": 0.1, "betas": [0.9, 0.99], "weight_decay": 0.0}, set()),
    ]  # fmt: skip
    for i, (content, option, values, left) in enumerate(cases):
        path = tmp_path / f"{i}.json"
        path.write_text(json.dumps(content))
        found = translate(path, Facts(), "keras")
        assert found.options["optimizer"] == option, content
        assert values.items() <= found.values["optimizer"].items(), content
        assert {key.rpartition(".")[2] for key in found.left} == left, content


@pytest.mark.parametrize(("accumulated", "factor"), [(2, 1.0), (1, 1.0), (1, 1.5)])
def test_many_restarts_are_read_at_once(tmp_path: Path, accumulated: int, factor: float) -> None:
    """A restart per batch, over 100,000 updates."""
    node = {"class_name": "CosineDecayRestarts", "config": {
        "initial_learning_rate": 0.1, "first_decay_steps": 1, "t_mul": factor, "m_mul": 0.9, "alpha": 0.5}}  # fmt: skip
    content = compiled(node, gradient_accumulation_steps=accumulated) | {"epochs": 1}
    (path := tmp_path / "model.json").write_text(json.dumps(content | {"steps_per_epoch": 100_000 * accumulated}))
    assert translate(path, Facts(), "keras").options["schedule"] in ("tabulated", "warm_restarts")


BOMB = b'{"a": "' + b"0" * (17 * 2**20) + b'"}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 no archive", "no archive that can be read"),
        (BOMB, "has more than 16 MiB"),
        (b"[" * 50_000, "nested too deeply"),
        (json.dumps({"compile_config": compiled({"class_name": "ExponentialDecay", "config": {
            "initial_learning_rate": 0.1, "decay_steps": 1, "decay_rate": 10.0}}) | {
            "epochs": 90, "steps_per_epoch": 99}}).encode(), "raises the LR above its first value"),
        (json.dumps({"compile_config": compiled({"class_name": "CosineDecay", "config": {
            "initial_learning_rate": 10**400, "decay_steps": 9}})}).encode(), "expected a number of at least 0"),
        (b'{"class_name": "Sequential", "config": {}}', "the file has no optimizer"),
        (json.dumps({"compile_config": compiled({"class_name": "CosinDecay", "config": {}})}).encode(),
         r"(?s)CosinDecay.*did you mean CosineDecay\?"),
        (json.dumps({"compile_config": compiled({"class_name": "CosineDecay", "config": {"decay_steps": 9}})}).encode(),
         "initial_learning_rate.*has no default"),
        (json.dumps({"compile_config": compiled(0.1) | {
            "callbacks": [3]}}).encode(), r"callbacks\.0 = 3: expected class_name"),
        (json.dumps({"compile_config": compiled({"class_name": "InverseTimeDecay", "config": {
            "initial_learning_rate": 1, "decay_steps": 2, "decay_rate": 1, "staircase": True}})}).encode(),
         "needs a table of the whole run"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_problem(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.keras"
    if content.startswith(b"PK"):
        path.write_bytes(content)
    else:
        archive(path, content)
    with pytest.raises(ConfigError, match=message) as caught:
        translate(path, Facts())
    assert len(caught.value.problems) == 1


def test_only_the_config_of_an_archive_is_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "model.keras", b"{}", "../../config.json")
    with pytest.raises(ConfigError, match=r"an archive without config\.json"):
        translate(path, Facts())
    assert [each.name for each in tmp_path.iterdir()] == ["model.keras"]
    (tmp_path / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n\0")
    with pytest.raises(ConfigError, match=r"(?s)is no text.*model\.keras"):
        translate(tmp_path / "model.h5", Facts())
