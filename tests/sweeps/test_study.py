from __future__ import annotations

import math
import os
import pickle
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from lrflow.config.composition.overrides import Override
from lrflow.errors import ConfigError, LrflowError
from lrflow.sweeps.samplers import GridSampler, make_sampler
from lrflow.sweeps.space import Space, read_space
from lrflow.sweeps.study import JOURNAL, RECORD, open_storage, quiet_optuna, read_record, repair_journal

SAMPLERS = ["random", "qmc", "tpe", "gp", "cmaes", "nsga2"]
LR, MOMENTUM = map(Override.read, ("optimizer.lr=interval(1e-4,1)", "optimizer.momentum=interval(0.1,0.9)"))
SPACE = read_space(None, None, [LR, MOMENTUM])
CONDITIONAL = read_space(
    {"optimizer": "sgd,adamw"},
    {"optimizer=sgd": {"optimizer.momentum": "interval(0.1,0.9)"}},
    [LR],
)


def draw(path: Path, sampler: str, count: int, space: Space = SPACE) -> list[dict[str, str]]:
    """Run trials as in a separate process, which shares only the journal."""
    study = optuna.create_study(
        storage=open_storage(str(path)), study_name="s", load_if_exists=True,
        sampler=make_sampler(sampler, 0, 12, space.common()),
    )  # fmt: skip
    drawn = []
    for _ in range(count):
        trial = study.ask()
        drawn.append(space.suggest(trial))
        study.tell(trial, (math.log10(float(drawn[-1]["optimizer.lr"])) + 2) ** 2)
    return drawn


WHOLE = "overrides: [seed=1]\nspace: []\nstudy: s\nsettings: {sampler: tpe}\n"
BROKEN = {
    "no sampler": WHOLE.replace("sampler: tpe", ""),
    "no settings": WHOLE.partition("settings")[0],
    "settings that are none": WHOLE.replace("{sampler: tpe}", "3"),
    "a space that is none": WHOLE.replace("space: []", "space: 3"),
    "overrides that are no texts": WHOLE.replace("[seed=1]", "[1]"),
    "a number of 5,000 digits": WHOLE.replace("study: s", f"study: {'9' * 5000}"),
    "nested too deeply": "[" * 5000,
    "empty": "",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_record_that_was_cut_or_edited(text: str, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(WHOLE)
    assert read_record(tmp_path)["settings"] == {"sampler": "tpe"}
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_record(tmp_path)
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("sweep.resume", str(tmp_path))
    assert problem.message.startswith(f"{RECORD} in this folder")


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "gp"])
def test_a_resumed_sampler_continues_its_sequence(sampler: str, tmp_path: Path) -> None:
    whole = draw(tmp_path / "whole", sampler, 7)
    parts = [*draw(tmp_path / "parts", sampler, 2), *draw(tmp_path / "parts", sampler, 5)]
    assert parts == whole
    assert len({tuple(values.items()) for values in whole}) == 7


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_from_a_conditional_space(sampler: str, tmp_path: Path) -> None:
    for values in draw(tmp_path / "journal", sampler, 6, CONDITIONAL):
        assert ("optimizer.momentum" in values) == (values["optimizer"] == "sgd")


def test_machines_share_a_grid(tmp_path: Path) -> None:
    space = read_space(
        {"optimizer": "sgd,adamw"},
        {"optimizer=sgd": {"optimizer.momentum": "0.5,0.9"}},
        [Override.read("seed=1,2")],
    )
    machines = [
        optuna.create_study(
            storage=open_storage(str(tmp_path / JOURNAL)), study_name="s", load_if_exists=True,
            sampler=GridSampler(space, make_sampler("grid", 0, 9, {})),
        )
        for _ in range(2)
    ]  # fmt: skip
    drawn = []
    for number in range(6):
        trial = machines[number % 2].ask()
        drawn.append(space.suggest(trial))
        if number == 2:  # it fell silent, and is run again
            machines[0].tell(trial, state=TrialState.FAIL)
            with quiet_optuna():
                optuna.storages.RetryHeartbeatStaleTrialCallback()(machines[0], machines[0].trials[2])
            again = machines[1].ask()
            assert (again.number, space.suggest(again)) == (3, drawn[2])
    assert drawn == space.grid()
    assert set(space.suggest(machines[0].ask())) >= {"optimizer", "seed"}  # beyond the grid


def test_quasi_random_trials_of_one_batch_are_spread(tmp_path: Path) -> None:
    study = optuna.create_study(sampler=make_sampler("qmc", 0, 8, SPACE.common()))
    rates = [math.log10(float(SPACE.suggest(study.ask())["optimizer.lr"])) for _ in range(8)]
    assert sorted(int((rate + 4) * 2) for rate in rates) == list(range(8))  # one in each eighth of the range


def test_an_adaptive_sampler_learns(tmp_path: Path) -> None:
    rates = [math.log10(float(values["optimizer.lr"])) for values in draw(tmp_path / "journal", "gp", 12)]
    early, late = (sum(abs(rate + 2) for rate in part) for part in (rates[:4], rates[-4:]))
    assert late < early / 4


def test_the_next_write_removes_an_incomplete_line(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    draw(path, "random", 2)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"{" + b"x" * 10_000)
    draw(path, "random", 1)
    assert path.read_bytes()[size : size + 2] == b'{"'
    assert repair_journal(path) is None
    assert len(open_storage(str(path)).get_all_trials(0)) == 3


@pytest.mark.parametrize("tail", [b'{"op', b"\x00\x00\x00\n", b"\x00\n{\n"])
def test_repairs_a_broken_end_and_keeps_a_backup(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    draw(path, "random", 2)
    sound = path.read_bytes()
    path.write_bytes(sound + tail)
    message = repair_journal(path)
    assert message is not None
    assert "removed " in message
    assert path.read_bytes() == sound
    assert (tmp_path / f"{JOURNAL}.broken-1").read_bytes() == sound + tail
    assert repair_journal(path) is None


def test_cuts_a_journal_that_is_broken_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    draw(path, "random", 2)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\x00\n", *lines[1:]]))
    message = repair_journal(path)
    assert message
    assert f"removed {len(lines)} lines from the first broken one on; the original file is" in message
    assert path.read_bytes() == lines[0]


def test_a_failed_write_leaves_complete_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / JOURNAL
    draw(path, "random", 1)
    before = path.read_bytes()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(LrflowError, match="No space left on device; free disk space"):
        draw(path, "random", 1)
    assert path.read_bytes() == before


class Shell:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


@pytest.mark.parametrize("state", [pickle.dumps(Shell()), pickle.dumps(getattr), pickle.dumps([1])[:-1], b"text"])
def test_the_state_of_a_sampler_in_a_study_runs_no_code(
    state: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "journal", "cmaes", 9)
    storage = open_storage(str(tmp_path / "journal"))
    study = optuna.load_study(storage=storage, study_name="s", sampler=make_sampler("random", 0, 12, SPACE.common()))
    trial = study.ask()
    SPACE.suggest(trial)
    storage.set_trial_system_attr(trial._trial_id, "cma:optimizer:0", state.hex())
    study.tell(trial, 0.0)
    with pytest.raises(LrflowError, match=r"does not hold the state .* sweep\.sampler=tpe"):
        draw(tmp_path / "journal", "cmaes", 1)
    assert not Path("hacked").exists()
