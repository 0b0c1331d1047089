"""The gallery of docs/health.md: for each illness a run that has it and one that is cured, as they were trained.

python docs/health_gallery.py                 # all illnesses, into a folder that is thrown away; some minutes
python docs/health_gallery.py diverging       # trains and draws one, and keeps the text of the others
python docs/health_gallery.py --runs FOLDER   # keeps the runs, and trains only those that are missing
"""

from __future__ import annotations

import argparse
import csv
import re
import shlex
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import lrflow
from lrflow.display import CURVES, INK, plain_axes
from lrflow.finding import Finding, read_findings
from lrflow.runs import RunFolder

PAGE = Path(__file__).parent / "health.md"
IMAGES = Path(__file__).parent / "images" / "health"
BEGIN, END = "<!-- gallery: written by docs/health_gallery.py -->\n", "<!-- end of gallery -->\n"
TIME = "train/step_time"
"""The column that holds the seconds of each step."""

ILL, CURED = CURVES[1], CURVES[0]


@dataclass(frozen=True)
class Case:
    """An illness of the gallery.

    Args:
        kind: the monitor that finds it.
        title: heading.
        about: what is wrong, in one or two sentences.
        words: overrides of the run that has it.
        cure: overrides that are added.
        cured: what they do; a clause.
        validation: whether the validation loss is drawn instead of the training loss.
        name: of the picture; empty: as `kind`.
        found: the kind whose first line is shown; empty: as `kind`.
        times: whether the seconds of each step are drawn instead of the loss.
    """

    kind: str
    title: str
    about: str
    words: str
    cure: str
    cured: str
    validation: bool = False
    name: str = ""
    found: str = ""
    times: bool = False

    @property
    def place(self) -> str:
        """Name of its runs and its picture."""
        return self.name or self.kind


CASES = (
    Case(
        "diverging",
        "The loss diverges",
        "Training goes well until the warmup, far too long here, reaches an LR that this network does not take.",
        "data=digits model=mlp model.norm=false optimizer=momentum optimizer.lr=0.7 schedule=linear"
        " schedule.warmup=90%",
        "health=recover",
        "Rolled back, the run goes on at 0.3 times the LR",
    ),
    Case(
        "too_high",
        "The LR is too high",
        "The first steps throw the weights far away, and the loss stays at that of a network that knows nothing.",
        "data=digits model=mlp model.norm=false optimizer=adamw optimizer.lr=0.2 schedule=constant",
        "optimizer.lr=0.003",
        "At the default LR of this optimizer, the model learns",
    ),
    Case(
        "too_high",
        "An LR 30 times too high",
        "This model trains well at an LR of 0.03, where its test accuracy is 0.978. At 30 times that, it is lost "
        "within the first hundred steps.",
        "data=digits model=mlp model.norm=false optimizer=momentum optimizer.lr=0.9 schedule.warmup=5%",
        "health=recover",
        "One rollback cuts the LR to 0.27, and the run ends as well as one that began with a good LR",
        name="thirty_times",
        found="diverging",
    ),
    Case(
        "spiking",
        "The loss has spikes",
        "A few batches have gradients so large that one step undoes much of what was learned. The loss comes back each "
        "time, but the model ends worse. Healthy runs have spikes, too, so they are looked for only if asked to: by "
        "`health.spiking.action=watch`.",
        "data=digits model=mlp model.norm=false optimizer=momentum optimizer.lr=0.35 schedule.warmup=5%"
        " health.spiking.action=watch",
        "clip=norm clip.max_norm=1",
        "With gradients of a norm of at most 1, no step is that large",
    ),
    Case(
        "oscillating",
        "The loss jumps to and fro",
        "The LR stays so high that each step leaps over the valley. The loss swings around a level, which a constant "
        "LR never leaves. This, too, is looked for only if asked to: by `health.oscillating.action=watch`.",
        "data=digits model=mlp model.norm=false optimizer=adamw optimizer.lr=0.05 schedule=constant"
        " health.oscillating.action=watch",
        "schedule=cosine",
        "An LR that decays ends in the valley",
    ),
    Case(
        "plateau",
        "The validation loss is on a plateau",
        "The model learns within one epoch, and then its validation loss does not improve for half of the run, since "
        "the steps are too large for what is left to learn. In the end the loss rises as well, found as `too_high`.",
        "data=digits model=mlp model.norm=false model.widths=[256,256,256] optimizer=adamw optimizer.lr=0.045"
        " schedule=flat_cosine schedule.warmup=4%",
        "optimizer.lr=0.01",
        "At a lower LR it goes on improving",
        validation=True,
    ),
    Case(
        "dead_group",
        "A group of parameters is dead",
        "The second stage of this network does not pass its gradient on: `features.detach()`, forgotten in its code. "
        "The first stage keeps its random weights, and nothing else shows it, since the loss falls all the same.",
        "data=digits model=custom model._target_=benchmarks.health.models.Detached model.loss=cross_entropy"
        ' trust=benchmarks +model.width=8 \'layers.rules=[{name: first, match: "first.*"},'
        ' {name: rest, match: "*"}]\'',
        "+model.detached=false",
        "With its gradient, the first stage learns, too",
    ),
    Case(
        "nonfinite",
        "A batch holds NaN",
        "One training example of the benchmark's data is not a number. The run ends as `diverged`, and its last finite "
        "checkpoint is kept.",
        "data=custom data._target_=benchmarks.health.data.Digits data.illness=nonfinite"
        " 'data.facts={shape: [1, 8, 8], outputs: 10, loss: cross_entropy}' trust=benchmarks model=mlp"
        " trainer.max_epochs=4",
        "health=recover",
        "Rolled back once, the run leaves out one batch of each epoch, and keeps its LR",
    ),
    Case(
        "nonfinite",
        "A shard of the data holds NaN",
        "128 training examples in a row are not numbers, as in a file that was written badly.",
        "data=custom data._target_=benchmarks.health.data.Digits data.illness=shard data.sampler=sequential"
        " 'data.facts={shape: [1, 8, 8], outputs: 10, loss: cross_entropy}' trust=benchmarks model=mlp"
        " trainer.max_epochs=4",
        "health=recover",
        "The batches of the shard are left out in each epoch, and the LR stays",
        name="shard",
    ),
    Case(
        "too_low",
        "The LR is far too low",
        "The model hardly moves, and always in the same direction.",
        "data=digits model=mlp optimizer=adamw optimizer.lr=1e-5",
        "optimizer.lr=0.001",
        "At the LR that the finding names, the model learns",
    ),
    Case(
        "overfitting",
        "The model overfits",
        "150 digits, some with wrong labels: the network learns them by heart, and its validation loss rises.",
        "data=custom data._target_=benchmarks.health.data.Digits data.illness=noisy"
        " 'data.facts={shape: [1, 8, 8], outputs: 10, loss: cross_entropy}' trust=benchmarks model=mlp"
        " data.count=500 data.val_size=350 data.test_size=0 data.batch_size=32 task.test=false"
        " model.dropout=0 optimizer=adamw trainer.val_every=5%",
        "health.overfitting.action=stop",
        "The run ends once the validation loss has risen for three validations, and its best checkpoint is kept",
        validation=True,
    ),
    Case(
        "data_stall",
        "Steps wait for data",
        "Each example of this data module takes 5 ms to fetch, as from a slow disc, one after the other.",
        "data=custom data._target_=benchmarks.health.data.SlowDigits"
        " 'data.facts={shape: [1, 8, 8], outputs: 10, loss: cross_entropy}' trust=benchmarks model=mlp"
        " trainer.max_epochs=6 trainer.log_every=1",
        "data.num_workers=4",
        "Four processes fetch batches ahead of the steps",
        times=True,
    ),
)


def make(words: Sequence[str], folder: Path) -> str:
    """Train a run, unless it is there, and return why it did not finish."""
    if not RunFolder(folder).read_summary():
        config = lrflow.compose(*words, "trainer.progress=false")
        config._run_folder = folder
        try:
            lrflow.train(config)
        except lrflow.LrflowError as error:
            print(error)
    summary = RunFolder(folder).read_summary()
    return "" if summary["status"] == "finished" else f"{summary['status']}: {summary['reason']}"


def series(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and the values of a column of metrics.csv."""
    with RunFolder(folder).metrics.open(newline="", encoding="utf-8") as file:
        rows = [(int(row["step"]), float(row[name])) for row in csv.DictReader(file) if row.get(name)]
    return np.array([step for step, _ in rows]), np.array([value for _, value in rows])


def smooth(values: np.ndarray, average: Callable[..., Any] = np.nanmedian) -> np.ndarray:
    """Return the running median or mean over about a fortieth of the values, or nine of them."""
    half = max(1 if average is np.nanmedian else 4, len(values) // 80)
    padded = np.pad(values, half, constant_values=np.nan)
    smoothed: np.ndarray = average(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)
    return smoothed


def draw(case: Case, ill: Path, cured: Path, findings: Sequence[Finding]) -> Path:
    """Draw the loss and the LR of both runs, with a mark at each finding."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top = 0.0
    for folder, colour, label in ((ill, ILL, "ill"), (cured, CURED, "cured")):
        steps, loss = series(folder, TIME if case.times else "train/loss")
        lrs = sorted(
            name
            for name in RunFolder(folder).metrics.read_text().partition("\n")[0].split(",")
            if name.startswith("lr/")
        )
        drawn = smooth(loss, np.nanmean if case.times else np.nanmedian)
        if case.times:
            top = max(top, 1.1 * float(np.nanmax(drawn)))
        else:
            top = max(top, 1.6 * float(loss[0]), 1.1 * float(np.nanquantile(drawn[np.isfinite(drawn)], 0.5)))
        axes[0].plot(steps, loss, color=colour, alpha=0.2, linewidth=0.7)
        axes[0].plot(steps, drawn, color=colour, label=label)
        if case.validation:
            axes[0].plot(*series(folder, "val/loss"), color=colour, linestyle="--", label=f"{label}, validation")
        axes[1].plot(*series(folder, lrs[0]), color=colour)
        for rollback in RunFolder(folder).read_summary().get("recoveries", []):
            axes[0].axvline(rollback["step"], color=colour, linestyle=":", linewidth=1)
    for finding in findings[:3]:
        axes[0].axvspan(finding.since, finding.step, color=ILL, alpha=0.12, linewidth=0)
        for each in axes:
            each.axvline(finding.step, color=INK, linewidth=0.9)
        axes[0].annotate(
            finding.kind.replace("_", " "), (finding.step, 1), (3, -3), textcoords="offset points",
            xycoords=("data", "axes fraction"), color=INK, fontsize=8, va="top",
        )  # fmt: skip
    axes[0].set(ylim=(0, top), ylabel="seconds per step" if case.times else "loss")
    axes[1].set(ylabel="LR", xlabel="step", ylim=(0, None))
    is_late = any(finding.step > 0.75 * axes[0].get_xlim()[1] for finding in findings[:3])  # its name is in that corner
    axes[0].legend(frameon=False, fontsize=8, loc="center right" if is_late else "upper right")
    for each in axes:
        plain_axes(each)
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / f"{case.place}.png"
    figure.savefig(path, dpi=90, facecolor="white")
    return path


def section(case: Case, runs: Path) -> str:
    """Train and draw an illness, and return its section of the page."""
    words = shlex.split(case.words)
    ill, cured = runs / case.place / "ill", runs / case.place / "cured"
    ended = make(words, ill)
    cure = [*words, *shlex.split(case.cure)]
    ended_cured = make(cure, cured)
    findings = [finding for finding in read_findings(ill) if finding.kind == (case.found or case.kind)]
    line = findings[0].line if findings else ended
    if not line:
        raise SystemExit(f"{case.place}: nothing was found; all findings: {[one.line for one in read_findings(ill)]}")
    path = draw(case, ill, cured, findings)
    end, end_cured = (ends_with(folder, case.times) for folder in (ill, cured))
    print(
        f"{case.place}: {line}\n  {end}; {end_cured}, {ended_cured or 'finished'}; {path.stat().st_size / 1000:.0f} kB"
    )
    when = "On average, a step takes " if case.times else "At the end, "
    lines = [
        f"### {case.title}", "", textwrap.fill(case.about, 120), "", f"    {wrapped(case.words)}", "",
        "```text", line, "```", "",
        f"{case.cured}: the same with `{case.cure}`. {when}{end}; cured, {end_cured}.", "",
        f"![{case.title}: {'step time' if case.times else 'loss'} and LR of the run and of the cured one]"
        f"(images/health/{case.place}.png)", "",
    ]  # fmt: skip
    return "\n".join(lines)


def ends_with(folder: Path, times: bool) -> str:
    """Return the last metrics of a run: the test accuracy, or else the validation loss; or how long a step takes."""
    if times:
        return f"{float(np.mean(series(folder, TIME)[1])):.2g} s"
    metrics = RunFolder(folder).read_summary()["metrics"]
    for name, title in (("test/accuracy", "the test accuracy"), ("val/loss", "the validation loss")):
        if name in metrics:
            return f"{title} is {float(metrics[name]):.3g}"
    return "there is no model to test"


def wrapped(words: str) -> str:
    """Return a command in lines of at most 110 characters."""
    whole = re.sub("'[^']*'", lambda quoted: quoted[0].replace(" ", "\0"), f"python -m lrflow {words}")
    lines = textwrap.wrap(whole, 106, break_long_words=False, break_on_hyphens=False)
    return " \\\n        ".join(lines).replace("\0", " ")


def main() -> None:
    """Train, draw and write the gallery."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", help="illnesses; none: all")
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs")
    given = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    kept = {
        text.splitlines()[0].removeprefix("### "): text
        for text in re.split(r"(?m)^(?=### )", rest.partition(END)[0])
        if text.strip()
    }
    with tempfile.TemporaryDirectory() as thrown_away:
        runs = given.runs or Path(thrown_away)
        for case in CASES:
            if not given.names or case.place in given.names:
                kept[case.title] = section(case, runs) + "\n"
    sections = [kept[case.title] for case in CASES if case.title in kept]
    PAGE.write_text(before + BEGIN + "\n" + "".join(sections) + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
