"""The figure shows each distinct curve once, with its name, on suitable axes."""

import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lrflow.config.targets import locate
from lrflow.plan import Plan
from lrflow.plan.actual import Actual
from lrflow.plan.events import record_events
from lrflow.plan.figure import draw
from lrflow.plan.values import PlanSetting
from lrflow.schedules import Constant, Cosine, Horizon, Linear, MultiStep, Schedule

COSINE = Schedule(Cosine(), warmup="5%")


def curves(figure):
    from matplotlib.patches import StepPatch

    return [patch for patch in figure.axes[0].patches if isinstance(patch, StepPatch)]


def names(figure):
    legend = figure.axes[0].get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_every_step_is_drawn_as_it_is_planned(plan_of, schedule, horizon):
    plan = plan_of(schedule, horizon, 0.1)
    (curve,) = curves(draw(plan))
    values, edges, _ = curve.get_data()
    assert np.array_equal(values, plan.lr(np.arange(200))[:, 0])
    assert np.array_equal(edges, np.arange(201))


def test_the_lr_that_a_run_used_is_drawn_beside_its_plan(plan_of, horizon, tmp_path):
    plan = plan_of(COSINE, horizon, 0.1)
    rates = np.where(np.arange(200) < 50, 1.0, 0.3) * plan.lr(np.arange(200))[:, 0]
    rows = [f"{step},{rate!r},0.5" for step, rate in enumerate(rates.tolist())] + ["199,,0.25"]
    (tmp_path / "metrics.csv").write_text("\n".join(["step,lr/a,val/loss", *rows, ""]))
    plan.write(tmp_path)
    events = [{"step": 60, "action": "rollback", "to": 50, "factor": 0.3, "reason": "a test"}]
    record_events(tmp_path / "plan.json", tmp_path / "metrics.csv", events, locate)
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["events"] == events
    assert Plan.from_dict(content).fingerprint == plan.fingerprint
    figure = draw(plan, Actual.read(tmp_path / "metrics.csv", plan.names, events))
    used = next(line for line in figure.axes[0].lines if len(line.get_xdata()) == 200)
    assert np.array_equal(used.get_ydata(), rates)
    assert names(figure) == ["a", "as planned"]
    assert "rollback x 0.3" in [text.get_text() for text in figure.axes[0].texts]


def test_equal_curves_are_drawn_once_and_all_are_named(group, horizon):
    plan = Plan(
        (group("no_decay", 0.1, COSINE, weight_decay=0.0), group("decay", 0.1, COSINE), group("head", 0.3, COSINE)),
        horizon,
    )
    figure = draw(plan)
    assert len(curves(figure)) == 2
    assert names(figure) == ["head", "no_decay, decay"]


@pytest.mark.parametrize(("ratio", "scale"), [(1, "linear"), (9, "linear"), (11, "log")])
def test_the_lr_axis_is_logarithmic_for_peaks_far_apart(plan_of, horizon, ratio, scale):
    axes = draw(plan_of(COSINE, horizon, 0.01, 0.01 * ratio)).axes[0]
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    assert low <= 0.01 <= 0.01 * ratio < high


def test_of_very_many_lines_some_are_named(plan_of, horizon):
    figure = draw(plan_of(COSINE, horizon, *(0.1 * 0.9**i for i in range(24))))
    assert len(curves(figure)) == 24
    assert len(names(figure)) == 12
    assert (names(figure)[0], names(figure)[-1]) == ("a", "x")


def test_a_drop_in_a_long_run_is_upright(plan_of):
    plan = plan_of(Schedule(MultiStep(milestones=[333_333])), Horizon(1_000_000), 0.1)
    (curve,) = curves(draw(plan))
    values, edges, _ = curve.get_data()
    assert len(values) <= 2_000
    at = list(edges).index(333_333)
    assert edges[at - 1] == 333_332
    assert values[at - 1] == 0.1
    assert values[at] == pytest.approx(0.01)


def test_phases_are_named_where_there_is_room_and_all_groups_have_the_same(group, horizon):
    cooled = Schedule(Constant(), warmup="20%", cooldown="20%")
    same = draw(Plan((group("a", 0.1, cooled),), horizon)).axes[0]
    assert [text.get_text() for text in same.texts] == ["warmup", "cooldown"]
    other = draw(Plan((group("a", 0.1, cooled), group("b", 0.1, Schedule(Linear()))), horizon)).axes[0]
    assert not other.texts


@pytest.mark.parametrize("epoch", [None, 20])
def test_labels_and_legends_lie_within_the_picture_and_not_on_each_other(group, epoch):
    moved = PlanSetting("momentum", Schedule(Cosine()), 0.85, 0.95, setting="momentum")
    named = [group(name, lr, COSINE, also=(moved,)) for name, lr in (("body.layers.0.weight", 0.123), ("head", 1e-5))]
    figure = draw(Plan(tuple(named), Horizon(123_000, epoch)))
    FigureCanvasAgg(figure).draw()
    above, below = figure.axes
    legend = above.get_legend().get_window_extent()
    assert above.bbox.x1 < legend.x0 < legend.x1 <= figure.bbox.x1
    parts = [above.title, above._left_title, above.yaxis.label, below.yaxis.label, below.xaxis.label]
    parts += [epochs.xaxis.label for epochs in above.child_axes]
    ticks = [*below.get_xticklabels(), *above.get_yticklabels(), *below.get_yticklabels()]
    ticks += [label for epochs in above.child_axes for label in epochs.get_xticklabels()]
    texts = [text for text in (*parts, *ticks) if text.get_text() and text.get_visible()]
    boxes = [text.get_window_extent() for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        if text in parts:
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, text
            assert not any(box.overlaps(other) for other in boxes if other is not box), text


def test_very_long_names_leave_room_for_the_curves(group, horizon):
    figure = draw(Plan((group("layer." * 40, 0.1, COSINE),), horizon))
    assert figure.axes[0].bbox.width > 250


@pytest.mark.usefixtures("rendered")
@pytest.mark.parametrize("steps", [1, 2, 1_000_000])
def test_it_is_a_small_png_and_warns_of_nothing(plan_of, tmp_path, steps, recwarn):
    path = plan_of(COSINE, Horizon(steps, 1), 0.1, 0.002).plot(tmp_path / "sub" / "plan.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 100_000
    assert not recwarn.list


def test_nothing_to_train_is_drawn_too(group, horizon, tmp_path):
    plan = Plan((group("a", 0.1, COSINE, frozen=True),), horizon)
    assert plan.plot(tmp_path / "plan.png").stat().st_size > 0


@pytest.mark.usefixtures("rendered")
def test_a_picture_that_cannot_be_drawn_leaves_the_one_before(plan_of, tmp_path, monkeypatch):
    path = tmp_path / "plan.png"
    path.write_bytes(b"before")

    def killed(self, file, **options):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", killed)
    with pytest.raises(OSError, match="no space"):
        plan_of(COSINE, Horizon(10, 1)).plot(path)
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"before"]
