"""The problems on which detectors are judged, and the runs of each: LRs, schedules, seeds and illnesses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

DENSE_SEEDS = 3

COMMON = (
    "trust=benchmarks",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=null",
    "trainer.checkpoint.every=100%",
    "trainer.progress=false",
    "health=none",
)


@dataclass(frozen=True)
class Cell:
    """One run.

    Args:
        problem: name of the problem.
        schedule: option of the group `schedule`.
        lr: peak LR, as it is typed.
        seed: seed of the run.
        illness: what else is wrong with the run, as in `Problem.ill`; `none`: nothing.
    """

    problem: str
    schedule: str
    lr: str
    seed: int = 0
    illness: str = "none"

    @property
    def place(self) -> Path:
        """Folder of the run, relative to the folder of all runs."""
        return Path(self.problem, self.schedule, self.lr, str(self.seed), self.illness)

    @classmethod
    def at(cls, folder: Path) -> Cell:
        """Return the run of a folder, of which only the last parts count."""
        problem, schedule, lr, seed, illness = folder.parts[-5:]
        return cls(problem, schedule, lr, int(seed), illness)


@dataclass(frozen=True)
class Problem:
    """A problem whose runs differ in the LR.

    Args:
        name: folder of its runs.
        title: title in tables.
        judged: False: thresholds are set on its runs; True: detectors are judged by them.
        options: overrides of `python -m lrflow`.
        steps: optimizer steps of a run.
        low: lowest LR, as a power of ten.
        high: highest LR, as a power of ten.
        runs: for each schedule the number of seeds.
        ill: for each illness its overrides; ill runs have the LRs around `good`.
        dense: LRs, as powers of ten, between which the grid has four LRs per decade and `DENSE_SEEDS` seeds: where runs
            are healthy or just too high; None: nowhere.
        good: an LR at which the problem trains well, as a power of ten; not necessarily the best.
        metric: validation metric that decides which LR is best.
        maximum: whether a higher metric is better.
    """

    name: str
    title: str
    judged: bool
    options: str
    steps: int
    low: float
    high: float
    runs: dict[str, int] = field(default_factory=lambda: {"cosine": 2, "constant": 1})
    ill: dict[str, str] = field(default_factory=dict)
    dense: tuple[float, float] | None = None
    good: float = 0.0
    metric: str = "val/loss"
    maximum: bool = False

    def cells(self) -> Iterator[Cell]:
        """Yield all runs: the grid of LRs for each schedule and seed, then the ill runs."""
        for schedule, seeds in self.runs.items():
            grid = list(product(range(seeds), _rates(self.low, self.high)))
            if self.dense is not None:
                grid += product(range(DENSE_SEEDS), _rates(*self.dense, per_decade=4))
            yield from (Cell(self.name, schedule, lr, seed) for seed, lr in dict.fromkeys(grid))
        for illness in self.ill:
            for schedule in self.runs:
                rates = _rates(self.good - 0.5, self.good)
                yield from (Cell(self.name, schedule, lr, 0, illness) for lr in rates)

    def words(self, cell: Cell) -> list[str]:
        """Return the overrides of a run, without its output folder."""
        ill = self.ill.get(cell.illness, "").split()
        varied = [f"schedule={cell.schedule}", f"optimizer.lr={cell.lr}", f"seed={cell.seed}"]
        return [*self.options.split(), f"trainer.max_steps={self.steps}", *COMMON, *varied, *ill]


def _rates(low: float, high: float, per_decade: int = 2) -> list[str]:
    count = round((high - low) * per_decade) + 1
    return [f"{10 ** (low + number / per_decade):.2g}" for number in range(count)]


def _data(name: str, facts: str, options: str) -> str:
    words = [f"data.{word}" for word in options.split()]
    facts = facts.replace(" ", "")
    return " ".join(["data=custom", f"data._target_=benchmarks.health.data.{name}", f"data.facts={{{facts}}}", *words])


_CLASSES = "outputs: 10, loss: cross_entropy"
_DIGITS = _data("Digits", f"shape: [1, 8, 8], {_CLASSES}", "batch_size=64 eval_batch_size=600 val_size=300 test_size=0")
_FEW_DIGITS = _data(
    "Digits", f"shape: [1, 8, 8], {_CLASSES}", "count=500 batch_size=32 eval_batch_size=600 val_size=350 test_size=0"
)
_CLOTHES = _data(
    "Clothes", f"shape: [1, 14, 14], {_CLASSES}", "batch_size=32 eval_batch_size=1000 val_size=1000 count=6000"
)
_FEW_CLOTHES = _data(
    "Clothes", f"shape: [1, 14, 14], {_CLASSES}", "batch_size=32 eval_batch_size=1000 val_size=800 count=1200"
)
_ROWS = "batch_size=32 eval_batch_size=1000"
_DIABETES = _data("Rows", "shape: [10], outputs: 1, loss: mse", f"{_ROWS} val_size=130 table=diabetes")
_FRIEDMAN = _data("Rows", "shape: [10], outputs: 1, loss: mse", f"{_ROWS} val_size=300 table=friedman")
_CANCER = _data("Rows", "shape: [30], outputs: 2, loss: cross_entropy", f"{_ROWS} val_size=170 table=breast_cancer")
_PASSAGES = _data(
    "Passages",
    "shape: [48], outputs: 3, loss: cross_entropy, vocabulary: 128, head: classes",
    "batch_size=16 eval_batch_size=300 val_size=300",
)
_MLP = "model=mlp model.widths=[64,64]"
_ILL = {
    "noisy": "data.illness=noisy",
    "nonfinite": "data.illness=nonfinite",
    "sorted": "data.illness=sorted data.sampler=sequential",
}
_HEAD = "{name: head, match: 'head.*', freeze: true}".replace(" ", "")
_FROZEN = {"frozen": f"layers.rules=[{_HEAD},{{name:rest,match:'*'}}]"}

PROBLEMS = (
    Problem(
        "digits-momentum", "digits, MLP, momentum", False,
        f"{_DIGITS} {_MLP} optimizer=momentum trainer.val_every=5%", 500, -6, 1,
        ill=_ILL, good=-1.5,
        dense=(-2, 0.75),
    ),
    Problem(
        "digits-adamw", "digits, MLP, AdamW", True,
        f"{_DIGITS} {_MLP} optimizer=adamw trainer.val_every=5%", 500, -6, 0.5,
        ill=_ILL, good=-2.5,
        dense=(-3, 0.25),
    ),
    Problem(
        "logistic", "digits, logistic regression, SGD", False,
        f"{_DIGITS} model=logistic optimizer=sgd trainer.val_every=5%", 500, -5, 1.5,
        ill=_ILL, good=-1,
        dense=(-0.5, 1.5),
    ),
    Problem(
        "diabetes", "diabetes, MLP, AdamW", False,
        f"{_DIABETES} {_MLP} model.dropout=0 optimizer=adamw trainer.val_every=5%", 600, -6, 0.5,
    ),
    Problem(
        "few-clothes", "400 clothes, MLP, momentum", False,
        f"{_FEW_CLOTHES} {_MLP} model.dropout=0 optimizer=momentum trainer.val_every=5%", 800, -6, 1,
        dense=(-0.5, 0.75),
    ),
    Problem(
        "friedman", "Friedman's regression, MLP, SGD", True,
        f"{_FRIEDMAN} {_MLP} model.norm=false model.dropout=0 optimizer=sgd trainer.val_every=5%", 600, -6, 1,
        ill={"noisy": _ILL["noisy"], "sorted": _ILL["sorted"]}, good=-1.5,
        dense=(-2, 0),
    ),
    Problem(
        "breast-cancer", "breast cancer, MLP, Adam", True,
        f"{_CANCER} {_MLP} optimizer=adam trainer.val_every=5%", 600, -6, 0.5,
        ill={"noisy": _ILL["noisy"]}, good=-3,
    ),
    Problem(
        "few-digits", "150 digits, MLP, AdamW", True,
        f"{_FEW_DIGITS} {_MLP} model.dropout=0 optimizer=adamw trainer.val_every=5% data.illness=noisy", 600, -6, 0.5,
        dense=(-1, 0.5),
    ),
    Problem(
        "charlm", "Shakespeare, transformer, AdamW", False,
        "recipe=charlm model.width=32 model.depth=2 model.heads=2 data.length=32 trainer.limit_val_batches=2"
        " trainer.val_every=5% trainer.checkpoint.every=100%", 400, -5, 0.5,
        runs={"cosine": 1, "constant": 1},
    ),
    Problem(
        "clothes-cnn", "FashionMNIST, CNN, AdamW", True,
        f"{_CLOTHES} model=cnn model.widths=[8,16] optimizer=adamw trainer.val_every=5%", 400, -6, 0.5,
        runs={"cosine": 1, "constant": 1}, ill=_ILL | _FROZEN, good=-2.5,
    ),
    Problem(
        "digits-cnn", "digits, CNN, momentum", False,
        f"{_DIGITS} model=cnn model.widths=[8,16] optimizer=momentum trainer.val_every=5%", 400, -6, 1,
        runs={"cosine": 1, "constant": 1}, ill=_FROZEN, good=-1.5,
    ),
    Problem(
        "passages", "kinds of plays, transformer, Adam", True,
        f"{_PASSAGES} model=transformer model.width=32 model.depth=1 model.heads=2 optimizer=adam"
        " trainer.val_every=5%", 600, -5, 0,
        runs={"cosine": 1, "constant": 1},
    ),
    Problem(
        "acrobot", "Acrobot, PPO, Adam", False,
        "recipe=rl_ppo data.env_id=Acrobot-v1 model.env_id=Acrobot-v1 model.normalize_observations=true"
        " data.normalize_rewards=true trainer.max_samples=40_960 data.num_envs=8 data.val_episodes=5"
        " data.test_episodes=2 trainer.val_every=10%", 640, -5, 0,
        runs={"linear": 2}, metric="val/return", maximum=True,
    ),
    Problem(
        "ppo", "CartPole, PPO, Adam", True,
        "recipe=rl_ppo trainer.max_samples=20_480 data.val_episodes=5 data.test_episodes=2 trainer.val_every=10%",
        640, -5, 0,
        runs={"linear": 2}, metric="val/return", maximum=True,
    ),
    Problem(
        "finetune-vision", "fine-tuning, EfficientNet, AdamW", True,
        "recipe=finetune_vision data.size=32 data.examples=1200 data.val_size=300 data.test_examples=50"
        " data.batch_size=8 trainer.val_every=10%", 150, -5, -1.5,
        runs={"cosine": 1},
    ),
)  # fmt: skip
