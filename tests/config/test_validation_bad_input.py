"""One table: what is typed, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

# overrides -> for each problem, its key and a fragment of what is said about it
TABLE: dict[str, tuple[list[str], dict[str, str]]] = {
    # what there is to choose from
    "unknown option": (["optimizer=adamww"], {"optimizer": "did you mean optimizer=adamw?"}),
    "unknown option, nothing near": (["schedule=zzz"], {"schedule": "known: airbench, constant, "}),
    "unknown group": (["optimiser=adamw"], {"optimiser": "did you mean optimizer?"}),
    "unknown task": (
        ["task=tune"],
        {"task": "known: analyze, evaluate, export, find, forecast, merge, plan, predict, train"},
    ),
    "group deleted": (["~optimizer"], {"optimizer": "choose an option"}),
    "no key": (["=3"], {"=3": "such as optimizer=sgd"}),
    "no key=value": (["plan"], {"plan": "did you mean task=plan?"}),
    "unreadable value": (["name=a(b"], {"name": "put special characters in quotes"}),
    "no sweep": (["optimizer.lr=0.1,0.2"], {"optimizer.lr": "add -m"}),
    "no list": (["optimizer.betas=0.9,0.99"], {"optimizer.betas": "write a list as optimizer.betas=[0.9,0.99]"}),
    "Hydra's own key": (["hydra.foo=1"], {"hydra.foo": "Hydra has no such key"}),
    "settings of detectors": (
        ["health.overfitting.patience=0", "health.diverging.growth=-1", "health.data_stall.share=40"],
        {
            "health.overfitting.patience": "expected a whole number above 0",
            "health.diverging.growth": "expected a number above 0",
            "health.data_stall.share": "expected a number above 0 and at most 1",
        },
    ),
    "a detector whose findings no earlier state helps against": (
        ["health.too_low.action=recover"],
        {"health.too_low.action": "expected one of watch, stop, raise, ignore, or null"},
    ),
    "a higher LR against an LR that is too high": (
        ["health.diverging.action=raise"],
        {"health.diverging.action": "expected one of watch, stop, recover, ignore, or null"},
    ),
    "an action of another kind": (
        ["health.on_too_low=kick"],
        {"health.on_too_low": "expected one of none, stop, raise"},
    ),
    "an action for what nothing finds": (
        ["health=none", "health.on_plateau=kick"],
        {"health.on_plateau": "health.plateau is off, so that nothing finds one"},
    ),
    "an action without a monitor": (["health=none", "health.action=stop"], {"health.action": "every monitor is off"}),
    "actions on what is not measured": (
        ["signals=none", "health.on_too_low=raise", "data.val_size=0", "health.overfitting.action=stop"],
        {"health.on_too_low": "needs the norms", "health.overfitting.action": "there is no validation"},
    ),
    "a guard that would end the training": (["clip=adagc", "clip.ratio=0.5"], {"clip.ratio": "a number of at least 1"}),
    "actions that would change nothing": (
        ["health.restart.peak=0%", "health.kick.factor=1.1", "health.raise.most=1"],
        {
            "health.restart.peak": "a share above 0",
            "health.kick.factor": "from 1.2 to 1000",
            "health.raise.most": "from 1.2 to 1000",
        },
    ),
    "shares of more than the run": (
        ["health.recover.rewarm=200%", "trainer.val_every=150%", "average=swa", "average.start=101%"],
        dict.fromkeys(
            ("health.recover.rewarm", "trainer.val_every", "average.start"), "expected at most 100%, the whole run"
        ),
    ),
    "a monitor without its class": (["health.foo=3"], {"health.foo": "is named by health.foo._target_"}),
    # keys
    "misspelt key": (["optimizer.lrr=1"], {"optimizer.lrr": "did you mean optimizer.lr?"}),
    "misspelt key of a section": (["trainer.max_epoch=1"], {"trainer.max_epoch": "did you mean trainer.max_epochs?"}),
    "misspelt key deep down": (["trainer.checkpoint.evry=1"], {"trainer.checkpoint.evry": "trainer.checkpoint.every?"}),
    "misspelt key of a shape": (["schedule=step", "schedule.shape.gama=0.5"], {"schedule.shape.gama": "gamma"}),
    "another framework's name": (["optimizer.learning_rate=1"], {"optimizer.learning_rate": "optimizer.lr?"}),
    "name on a dashboard": (
        ["logger=wandb", "logger.wandb.name=x"],
        {"logger.wandb.name": "name=... names the run, on dashboards too"},
    ),
    "tags": (["tags=[a]"], {"tags": "did you mean logger.wandb.tags?"}),
    "tags of the logger": (["logger.tags=[a]"], {"logger.tags": "did you mean logger.wandb.tags?"}),
    "warmup as a ratio": (["schedule.warmup_ratio=0.1"], {"schedule.warmup_ratio": "schedule.warmup=10%"}),
    "warmup in epochs": (["schedule.warmup_epochs=3"], {"schedule.warmup_epochs": "schedule.warmup='3 epochs'"}),
    "a list of options": (["schedule=[cosine]"], {"schedule": "expected the name of one option"}),
    "callbacks": (["callbacks=[x]"], {"callbacks": "known: device_stats, early_stopping"}),
    "smoothing outside the loss": (
        ["model.label_smoothing=0.1"],
        {"model.label_smoothing": "model.loss.label_smoothing"},
    ),
    "a run by another word": (["task=evaluate", "task.run=x"], {"task.run": "task.from=RUN"}),
    "callbacks of the trainer": (["trainer.callbacks=[x]"], {"trainer.callbacks": "callbacks=timer"}),
    "a key of analyze": (["task=analyze", "task.magin=3%"], {"task.magin": "did you mean task.margin?"}),
    "a key of a rule": (["layers={rules: [{name: a, mach: '*'}]}"], {"layers.rules[0].mach": "layers.rules[0].match?"}),
    "a key of a moved setting": (
        ["schedule.also={momentum: {hihg: 0.9}}", "optimizer=momentum"],
        {"schedule.also.momentum.hihg": "schedule.also.momentum.high?"},
    ),
    "group forgotten": (["lr=1"], {"lr": "did you mean optimizer.lr?"}),
    "another group's key": (["optimizer.batch_size=1"], {"optimizer.batch_size": "takes no batch_size"}),
    "unknown key, nothing near": (["health.zzz=1"], {"health.zzz": "health has action, nonfinite"}),
    "not in the signature": (
        ["+optimizer.momentum=0.9"],
        {"optimizer.momentum": "torch.optim.AdamW takes no momentum"},
    ),
    "a key of a value": (["optimizer.lr.base=1"], {"optimizer.lr": "expected a number above 0"}),
    "misspelt key of a rule": (
        ["layers.rules=[{name: a, match: '*', lr_mul: 3}]"],
        {"layers.rules[0].lr_mul": "there is no such key"},
    ),
    "another task's key": (["task.split=val"], {"task.split": "there is no such key"}),
    "trust in a config": (["+trust=os"], {"trust": "cannot be set in a config"}),
    # values
    "lr negative": (["optimizer.lr=-1"], {"optimizer.lr": "expected a number above 0 and at most 1000"}),
    "lr zero": (["optimizer.lr=0"], {"optimizer.lr": "above 0"}),
    "lr nan": (["optimizer.lr=nan"], {"optimizer.lr": "above 0"}),
    "lr inf": (["optimizer.lr=inf"], {"optimizer.lr": "above 0"}),
    "lr huge": (["optimizer.lr=1e30"], {"optimizer.lr": "at most 1000"}),
    "lr text": (["optimizer.lr=abc"], {"optimizer.lr": "expected a number"}),
    "lr bool": (["optimizer.lr=true"], {"optimizer.lr": "expected a number"}),
    "lr null": (["optimizer.lr=null"], {"optimizer.lr": "expected a number"}),
    "lr missing": (["optimizer.lr='???'"], {"optimizer.lr": "must be given a value"}),
    "lr deleted": (["~optimizer.lr"], {"optimizer.lr": "is missing"}),
    "a line search of another name": (
        ["optimizer=lbfgs", "optimizer.line_search_fn=wolfe", "optimizer.history_size=0", "optimizer.max_iter=0"],
        {
            "optimizer.line_search_fn": "expected strong_wolfe",
            "optimizer.history_size": "above 0",
            "optimizer.max_iter": "above 0",
        },
    ),
    "of Prodigy": (
        ["optimizer=prodigy", "optimizer.slice_p=0", "optimizer.d_coef=-1", "optimizer.growth_rate=0.5"],
        {"optimizer.slice_p": "above 0", "optimizer.d_coef": "above 0", "optimizer.growth_rate": "above 1, or inf"},
    ),
    "never a Hessian": (["optimizer=sophia", "optimizer.update_period=0"], {"optimizer.update_period": "above 0"}),
    "averaged before the start": (["optimizer=asgd", "optimizer.t0=-5"], {"optimizer.t0": "at least 0"}),
    "blocks of nothing": (["optimizer=shampoo", "optimizer.block_size=0"], {"optimizer.block_size": "above 0"}),
    "betas of 1": (["optimizer.betas=[0.9,1.0]"], {"optimizer.betas": "below 1"}),
    "betas negative": (["optimizer.betas=[-0.1,0.9]"], {"optimizer.betas": "at least 0"}),
    "four betas": (["optimizer.betas=[0.9,0.9,0.9,0.9]"], {"optimizer.betas": "two numbers"}),
    "eps of 0": (["optimizer.eps=0"], {"optimizer.eps": "above 0"}),
    "momentum of 1": (["optimizer=sgd", "optimizer.momentum=1"], {"optimizer.momentum": "below 1"}),
    "nesterov without momentum": (
        ["optimizer=sgd", "optimizer.nesterov=true", "optimizer.momentum=0"],
        {"optimizer.nesterov": "needs momentum above 0"},
    ),
    "weight decay negative": (["optimizer.weight_decay=-1"], {"optimizer.weight_decay": "at least 0"}),
    "zero epochs": (["trainer.max_epochs=0"], {"trainer.max_epochs": "expected a whole number above 0"}),
    "half an epoch": (["trainer.max_epochs=0.5"], {"trainer.max_epochs": "whole number"}),
    "no end": (["trainer.max_epochs=null"], {"trainer.max_epochs": "the run would never end"}),
    "no such accelerator": (["trainer.accelerator=gpuu"], {"trainer.accelerator": "did you mean gpu?"}),
    "no such precision": (["trainer.precision=fp16"], {"trainer.precision": "expected one of 32-true"}),
    "no such strategy": (["trainer.strategy=ddpp"], {"trainer.strategy": "auto, ddp, fsdp"}),
    "no devices": (["trainer.devices=0"], {"trainer.devices": "from 1 to 256"}),
    "processes without end": (
        ["trainer.devices=100000", "data.num_workers=257"],
        {"trainer.devices": "a whole number from 1 to 256", "data.num_workers": "a whole number from 0 to 256"},
    ),
    "no switch": (["trainer.compile=maybe"], {"trainer.compile": "expected true or false"}),
    "bad duration": (["trainer.val_every=5 parsecs"], {"trainer.val_every": "write a number of steps (500)"}),
    "negative duration": (["schedule.warmup=-5"], {"schedule.warmup": "cannot be negative"}),
    "fractional steps": (["schedule.warmup=0.5"], {"schedule.warmup": "not a whole number of steps"}),
    "section is a value": (["trainer={checkpoint: 3}"], {"trainer.checkpoint": "expected a mapping"}),
    "no rules": (["layers.rules=[]"], {"layers.rules": "at least one entry"}),
    "rule's lr": (
        ["layers.rules=[{name: a, match: '*', lr: fast}]"],
        {"layers.rules[0].lr": "a multiple of the peak (10x)"},
    ),
    "rule's kind of parameter": (
        ["layers.rules=[{name: a, select: [norm, bais]}]"],
        {"layers.rules[0].select": "did you mean bias?"},
    ),
    "rule's kinds, nothing near": (
        ["layers.rules=[{name: a, select: {}}]"],
        {"layers.rules[0].select": "expected one of bias, norm, vector, embedding, matrix"},
    ),
    "no kind of parameter": (["layers.rules=[{name: a, select: []}]"], {"layers.rules[0].select": "expected one of"}),
    "rule's regular expression": (
        ["layers.rules=[{name: a, match: ['*', 're:(']}]"],
        {"layers.rules[0].match": "got re:(: missing ), unterminated subpattern"},
    ),
    "rule's name twice": (
        ["layers.rules=[{name: a, match: 'head.*'}, {name: a, match: '*'}]"],
        {"layers.rules[1].name": "layers.rules[0] has the same name"},
    ),
    "rule without a name": (["layers.rules=[{match: '*'}]"], {"layers.rules[0].name": "is missing"}),
    "seed": (["seed=-1"], {"seed": "from 0 to 4294967295"}),
    "path in a name": (["name=../x"], {"name": "a name for a folder"}),
    "absolute name": (["name=/etc/x"], {"name": "a name for a folder"}),
    "parent of a name": (["name=.."], {"name": "a name for a folder"}),
    "path escape": (["output=../../x"], {"output": "without `..`"}),
    # what fits together
    "warmup longer than the run": (
        ["schedule.warmup=500", "trainer.max_epochs=2"],
        {"schedule.warmup": "is 500 steps, but the run has only 40"},
    ),
    "warmup longer than a run of which only the steps are known": (
        ["task=plan", "schedule.warmup=500", "horizon.steps=100"],
        {"schedule.warmup": "the run has only 100"},
    ),
    "warmup of the whole run, whatever its length": (
        ["trainer.max_epochs=0", "schedule.warmup=150%"],
        {"trainer.max_epochs": "above 0", "schedule.warmup": "less than the whole run"},
    ),
    "cooldown of the whole run, whatever its length": (
        ["trainer.max_epochs=0", "schedule=constant", "schedule.cooldown=100%"],
        {"trainer.max_epochs": "above 0", "schedule.cooldown": "less than the whole run"},
    ),
    "cooldown of the whole run": (
        ["schedule=constant", "schedule.cooldown=100%"],
        {"schedule.cooldown": "the run has only 400"},
    ),
    "cooldown overlaps the warmup": (
        ["schedule=constant", "schedule.warmup=60%", "schedule.cooldown=60%"],
        {"schedule.cooldown": "before the warmup ends"},
    ),
    "milestone past the end": (
        ["schedule=multistep", "schedule.shape.milestones=[40 epochs]"],
        {"schedule.shape.milestones[0]": "the run has 400"},
    ),
    "a rule's schedule": (
        [
            "layers.rules=[{name: a, match: '*', schedule: {_target_: lrflow.schedules.Schedule, "
            "shape: {_target_: lrflow.schedules.Cosine}, warmup: 999}}]"
        ],
        {"layers.rules[0].schedule.warmup": "the run has only 400"},
    ),
    "batch larger than the data": (
        ["data.batch_size=2000"],
        {"data.batch_size": "larger than the 1257 training examples"},
    ),
    "batch larger than a device's share": (
        ["data.batch_size=700", "trainer=ddp"],
        {"data.batch_size": "larger than the 629 training examples of each device"},
    ),
    "everything held out": (["data.val_size=1437"], {"data.val_size": "leave none to train on"}),
    "horizon for another task": (["horizon.steps=10"], {"horizon.steps": "only task=plan uses it"}),
    "against for another task": (["against=x"], {"against": "only task=plan uses it"}),
    "resume.horizon alone": (["resume.horizon=keep"], {"resume.horizon": "only a resumed run uses it"}),
    # targets
    "target missing": (["~model._target_"], {"model._target_": "is missing"}),
    "target not allowed": (["model._target_=os.system"], {"model._target_": "the package os is not trusted"}),
    "target private": (["model._target_=torch.nn.modules._functions.x"], {"model._target_": "without private parts"}),
    "alias": (["model._target_=lrflow.models.torch.load"], {"model._target_": "only what lrflow.models exports"}),
    "alias in torch": (["model._target_=torch.nn.modules.module.torch.load"], {"model._target_": "leads to another"}),
    "no such class": (["optimizer._target_=torch.optim.AdamWW"], {"optimizer._target_": "did you mean AdamW?"}),
    "torch's scheduler": (
        ["schedule.shape._target_=torch.optim.lr_scheduler.CosineAnnealingLR"],
        {"schedule.shape._target_": "use schedule=cosine, which has the same curve"},
    ),
    "no shape": (
        ["schedule.shape._target_=lrflow.schedules.Schedule"],
        {"schedule.shape._target_": "expected a shape"},
    ),
    "target of a rule's schedule missing": (
        ["layers.rules=[{name: a, match: '*', schedule: {warmup: 10%}}]"],
        {"layers.rules[0].schedule._target_": "such as lrflow.schedules.Schedule"},
    ),
    "target of a shape missing": (
        ["~schedule.shape._target_"],
        {"schedule.shape._target_": "such as lrflow.schedules.Cosine"},
    ),
    "argument missing": (["model=mlp", "~model.outputs"], {"model.outputs": "lrflow.models.MLP needs it"}),
    # interpolations
    "to nothing": (["model.shape=${data.factz.shape}"], {"model.shape": "did you mean ${data.facts.shape}?"}),
    "to an unset variable": (["name=${oc.env:LRFLOW_NOT_SET}"], {"name": "LRFLOW_NOT_SET is not set"}),
    "in a circle": (["name=${name}"], {"name": "refer to each other in a circle"}),
    "by no resolver": (["name=${nope:1}"], {"name": "there is no resolver nope"}),
}


@pytest.mark.parametrize("name", TABLE)
def test_messages(name: str, problems_of: Callable) -> None:
    overrides, expected = TABLE[name]
    problems = problems_of(overrides)
    assert {problem.key for problem in problems} == set(expected)
    for problem in problems:
        said = f"{problem.message} {problem.hint or ''}"
        assert expected[problem.key] in said
        assert "use +" not in said
        assert "Traceback" not in said


def test_all_problems_are_reported_at_once(problems_of: Callable) -> None:
    typed = {
        "optimizer.lrr=1": "optimizer.lrr",
        "optimizer.lr=abc": "optimizer.lr",
        "schedule=cosin": "schedule",
        "trainer.max_epochs=0": "trainer.max_epochs",
        "lr=3": "lr",
        "name=${oc.env:LRFLOW_NOT_SET}": "name",
        "layers.rules=[{name: a, match: '*', lr_mul: 3}]": "layers.rules[0].lr_mul",
        "model._target_=os.system": "model._target_",
        "plan": "plan",
    }
    problems = problems_of(list(typed))
    assert {problem.key for problem in problems} == set(typed.values())


def test_data_that_cannot_be_read_are_the_only_problem(problems_of: Callable, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "a b"}\n' * 20)
    data = ["data=huggingface", f"data.name_or_path={tmp_path / 'texts.jsonl'}", "data.kind=language_model"]
    assert [problem.key for problem in problems_of([*data, "model=transformer"])] == ["data.tokenizer"]


def test_an_unknown_option_is_the_only_problem_of_its_group(problems_of: Callable) -> None:
    problems = problems_of(["optimizer=sdg", "optimizer.momentum=0.5"])
    assert [problem.key for problem in problems] == ["optimizer"]


@pytest.mark.parametrize(
    ("bad", "key"),
    [
        ("optimizer.lr=-1", "optimizer.lr"),
        ("layers.rules=[{name: a, match: '*', lr_mul: 3}]", "layers.rules[0].lr_mul"),
        ("trainer.progress=3", "trainer.progress"),
        ("model.widht=3", "model.widht"),
    ],
)
def test_an_invalid_value_does_not_hide_other_problems(bad: str, key: str, problems_of: Callable) -> None:
    problems = problems_of([bad, "schedule.warmup=2000"])
    assert {problem.key for problem in problems} == {key, "schedule.warmup"}


def test_checks_that_depend_on_an_invalid_value_are_skipped(problems_of: Callable) -> None:
    problems = problems_of(["trainer.max_epochs=0", "schedule.warmup=2000", "schedule.shape.every=1", "schedule=step"])
    assert [problem.key for problem in problems] == ["trainer.max_epochs"]


def test_a_shape_is_checked_if_the_length_of_the_run_is_unknown(problems_of: Callable) -> None:
    problems = problems_of(["trainer.max_epochs=0", "schedule=step", "schedule.shape.gamma=3"])
    assert {problem.key for problem in problems} == {"trainer.max_epochs", "schedule.shape.gamma"}
