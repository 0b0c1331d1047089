"""Which tool a file is of, and what is wrong with files that are of none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lrflow.errors import ConfigError
from lrflow.plan import Plan
from lrflow.translate import TOOLS, Facts, translate

FILES = {
    "huggingface": ("args.yaml", "per_device_train_batch_size: 8\nlearning_rate: 2e-5\nseed: 1\nweight_decay: 0.1\n"),
    "timm": ("args.yaml", "opt: adamw\nlr: 1e-3\nsched: cosine\nepochs: 10\nmodel: vit\n"),
    "lightning": ("config.yaml", "trainer: {max_epochs: 3}\noptimizer: {class_path: torch.optim.Adam}\n"),
    "nanogpt": ("train_gpt.py", "learning_rate = 1e-3\nmax_iters = 100\nwarmup_iters = 10\n"),
    "mmengine": (
        "retinanet.py",
        "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))\ntrain_cfg = dict(max_epochs=3)\n",
    ),
    "keras": ("train.json", '{"optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.1}}, "epochs": 3}'),
    "rl_zoo": ("ppo.yml", "CartPole-v1: {n_timesteps: 1e5, policy: MlpPolicy, clip_range: lin_0.2}\n"),
    "torchvision": ("run.sh", "python train.py --lr 0.5 --lr-scheduler steplr \\\n  --epochs 4 # on one GPU\n"),
}


def test_each_kind_is_found_by_its_keys(tmp_path: Path) -> None:
    assert FILES.keys() == TOOLS.keys()
    for kind, (name, text) in FILES.items():
        (tmp_path / name).write_text(text)
        assert TOOLS[kind].label in translate(tmp_path / name, Facts()).source
        assert TOOLS[kind].label in translate(tmp_path / name, Facts(), kind).source


def test_an_environment_is_an_error_where_a_tool_has_none(tmp_path: Path) -> None:
    for kind, (name, text) in FILES.items():
        (tmp_path / name).write_text(text)
        if kind == "rl_zoo":
            assert translate(tmp_path / name, Facts(env="CartPole-v1")).values["data"]["env_id"] == "CartPole-v1"
            continue
        with pytest.raises(ConfigError) as caught:
            translate(tmp_path / name, Facts(env="CartPole-v1"))
        (problem,) = caught.value.problems
        assert (problem.key, problem.value) == ("--env", "CartPole-v1")
        assert f"{name} is of {TOOLS[kind].label}" in problem.message
        assert "--from rl_zoo" in str(problem.hint)


RICH: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "transformers": (
        "given.json",
        {
            "optim": "paged_adamw_8bit",
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "lr_scheduler_kwargs": {"factor": 0.5, "min_lr": 1e-6},
            "max_steps": 100,
            "bf16": True,
            "torch_compile": True,
        },
        {"precision": "bf16-mixed", "compile": True, "max_steps": 100},
    ),
    "timm": (
        "given.json",
        {
            "opt": "lamb",
            "lr": 1e-3,
            "sched": "plateau",
            "clip_grad": 0.02,
            "clip_mode": "agc",
            "model_ema": True,
            "amp": True,
        },
        {"precision": "16-mixed", "max_epochs": 300},
    ),
    "timm's RMSprop": ("given.json", {"opt": "rmsprop", "lr": 0.1, "sched": "none"}, {"max_epochs": 300}),
    "Lightning": (
        "given.json",
        {
            "seed_everything": 7,
            "trainer": {
                "max_epochs": 10,
                "gradient_clip_val": 0.5,
                "gradient_clip_algorithm": "value",
                "precision": 16,
            },
            "model": {"class_path": "my.Net", "init_args": {"optimizer": {"class_path": "torch.optim.NAdam"}}},
            "lr_scheduler": {
                "class_path": "lightning.pytorch.cli.ReduceLROnPlateau",
                "init_args": {"monitor": "val_loss"},
            },
        },
        {"precision": "16-mixed", "max_epochs": 10},
    ),
    "torchvision": (
        "given.sh",
        "--opt rmsprop --lr 0.06 --epochs 9 --lr-step-size 2 --lr-gamma 0.9 --clip-grad-norm 1 --bias-weight-decay 0",
        {"max_epochs": 9},
    ),
}  # fmt: skip


def test_whatever_is_chosen_composes_and_has_a_plan(planned: Callable[..., Plan], tmp_path: Path) -> None:
    """Optimizers, guards, averages, layers and feedback, and not only schedules."""
    for name, content, trainer in RICH.values():
        assert planned(content, 90, 10, name=name).lr(0).max() > 0
        recipe = yaml.safe_load(translate(tmp_path / name, Facts()).text())
        assert trainer.items() <= recipe["trainer"].items()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", b"apples: 3\npears: 4\n", r"(?s)is of no kind that is known.*huggingface: .*nanogpt: "),
        ("a.yaml", b"- 1\n- 2\n", "holds no keys"),
        ("a.yaml", b"a: [1\nb: 2", "a.yaml:2"),
        ("a.yaml", b"a: !!python/object/apply:os.system [echo]\n", "could not determine a constructor"),
        ("a.yaml", b"a: &a [1,1,1,1,1,1,1,1]\n" + b"".join(
            b"%c: &%c [%s]\n" % (letter, letter, b",".join([b"*%c" % (letter - 1)] * 12)) for letter in b"bcdefgh"
        ), "aliases"),
        ("a.json", b'{"a": 1,}', "is no JSON"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.yaml", b"a: " + b"[" * 300 + b"]" * 300, "nested too deeply"),
        ("a.json", b'{"seed": 1' + b"0" * 5000 + b"}", "too many digits"),
        ("a.py", b"x = (", "is no Python file"),
        ("a.py", b"x = " + b"-" * 100_000 + b"1", "nested too deeply|is no Python file"),
        ("training_args.bin", b"\x80\x02}\0", r"(?s)nothing of a pickle is loaded.*args.to_dict"),
        ("trainer_state.json", b'{"log_history": [], "max_steps": 3, "num_train_epochs": 1}', "is the state of a run"),
        ("a.sh", b"train --lr 'unclosed", "is no command line"),
        ("a.yaml", b"sched: cosine\nopt: sgd\nlr: fast\n", "lr = 'fast': expected a number"),
        ("a.yaml", b"sched: cosin\nopt: sgd\nlr: 1\n", r"(?s)sched = 'cosin'.*did you mean cosine\?"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_translated_is_one_problem(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        translate(tmp_path / name, Facts())
    assert len(caught.value.problems) == 1


def test_nothing_of_a_file_is_executed(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    attacks = [f"__import__('pathlib').Path({str(touched)!r}).touch()", "2 ** 10 ** 10", "'a' * 10 ** 9", "9 ** 9e9"]
    lines = [f"x{i} = {attack}" for i, attack in enumerate(attacks)]
    (tmp_path / "a.py").write_text("\n".join(["max_iters = 10", "warmup_iters = 1", "lr_decay_iters = 10", *lines]))
    found = translate(tmp_path / "a.py", Facts())
    assert not touched.exists()
    assert {f"x{i}" for i in range(len(attacks))} <= {*found.left}


def test_unknown_keys_are_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "opt: sgd\nlr: 0.1\nsched: cosine\nwarmup_epoch: 5\ndrop_path: 0.1\nbce_loss: false\n"
    )
    left = translate(tmp_path / "a.yaml", Facts()).left
    assert {*left} == {"warmup_epoch", "drop_path"}
    assert "did you mean warmup_epochs?" in left["warmup_epoch"]
    assert "model=custom" in left["drop_path"]
