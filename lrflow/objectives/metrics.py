"""Metrics of torchmetrics by name: their classes, the tasks that they are for, and which value is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.objectives.losses import DESCRIBED, ChosenLoss, Kind

Task = Literal["binary", "multiclass", "multilabel"]


@dataclass(frozen=True)
class Score:
    """A metric of torchmetrics with one value.

    Args:
        name: name of its class; of a classification metric without Binary, Multiclass or Multilabel.
        higher: torchmetrics' `higher_is_better`; None: torchmetrics does not say.
        tasks: the tasks for which it exists; empty: it is a metric of regression.
        arguments: arguments that lrflow gives by default.
        per_output: whether it needs `num_outputs`.
    """

    name: str
    higher: bool | None
    tasks: tuple[Task, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    per_output: bool = False


_ANY: tuple[Task, ...] = ("binary", "multiclass", "multilabel")
_ONE: tuple[Task, ...] = ("binary", "multiclass")

SCORES = {
    "accuracy": Score("Accuracy", True, _ANY),
    "auroc": Score("AUROC", True, _ANY),
    "average_precision": Score("AveragePrecision", True, _ANY),
    "calibration_error": Score("CalibrationError", False, _ONE),
    "cohen_kappa": Score("CohenKappa", True, _ONE),
    "eer": Score("EER", None, _ANY),
    "exact_match": Score("ExactMatch", True, ("multiclass", "multilabel")),
    "f1": Score("F1Score", True, _ANY),
    "fbeta": Score("FBetaScore", True, _ANY),
    "hamming_distance": Score("HammingDistance", False, _ANY),
    "hinge": Score("HingeLoss", False, _ONE),
    "jaccard": Score("JaccardIndex", True, _ANY),
    "log_auc": Score("LogAUC", True, _ANY),
    "mcc": Score("MatthewsCorrCoef", True, _ANY),
    "npv": Score("NegativePredictiveValue", None, _ANY),
    "precision": Score("Precision", True, _ANY),
    "recall": Score("Recall", True, _ANY),
    "specificity": Score("Specificity", None, _ANY),
    "coverage_error": Score("CoverageError", False, ("multilabel",)),
    "ranking_average_precision": Score("RankingAveragePrecision", True, ("multilabel",)),
    "ranking_loss": Score("RankingLoss", False, ("multilabel",)),
    "concordance": Score("ConcordanceCorrCoef", True, per_output=True),
    "cosine_similarity": Score("CosineSimilarity", True, arguments={"reduction": "mean"}),
    "csi": Score("CriticalSuccessIndex", True),
    "explained_variance": Score("ExplainedVariance", True),
    "kendall": Score("KendallRankCorrCoef", None, per_output=True),
    "log_cosh": Score("LogCoshError", False, per_output=True),
    "mae": Score("MeanAbsoluteError", False),
    "mape": Score("MeanAbsolutePercentageError", False),
    "minkowski": Score("MinkowskiDistance", False),
    "mse": Score("MeanSquaredError", False),
    "msle": Score("MeanSquaredLogError", False),
    "nrmse": Score("NormalizedRootMeanSquaredError", False, per_output=True),
    "pearson": Score("PearsonCorrCoef", None, per_output=True),
    "r2": Score("R2Score", True),
    "rmse": Score("MeanSquaredError", False, arguments={"squared": False}),
    "rse": Score("RelativeSquaredError", False, per_output=True),
    "smape": Score("SymmetricMeanAbsolutePercentageError", False),
    "spearman": Score("SpearmanCorrCoef", True, per_output=True),
    "tweedie": Score("TweedieDevianceScore", None),
    "wmape": Score("WeightedMeanAbsolutePercentageError", False),
}
"""Metrics by name."""

_BY_CLASS = {score.name: name for name, score in reversed(SCORES.items()) if name != "rmse"}

SEVERAL = (
    "ConfusionMatrix", "ROC", "PrecisionRecallCurve", "StatScores", "PrecisionAtFixedRecall", "RecallAtFixedPrecision",
    "SensitivityAtSpecificity", "SpecificityAtSensitivity", "Fairness", "GroupStatRates",
)  # fmt: skip
"""Classification metrics of torchmetrics with more than one value."""

_ROOMS = ("torchmetrics", "torchmetrics.classification", "torchmetrics.regression")

_SIZES = {"binary": None, "multiclass": "num_classes", "multilabel": "num_labels"}


@dataclass(frozen=True)
class ChosenScore:
    """A metric as a config chooses it.

    Args:
        target: dotted name of its class.
        arguments: its arguments.
        task: the task of a classification metric; `numbers` of a regression metric; None: it gets outputs and targets
            as they are.
    """

    target: str
    arguments: Mapping[str, Any]
    task: Task | Literal["numbers"] | None


def named_metrics(spec: Any) -> dict[str, Mapping[str, Any]]:
    """Return the arguments of each metric by its name, for a name, a list of names or a mapping; others give none."""
    if isinstance(spec, str):
        spec = [spec]
    if isinstance(spec, list | tuple):
        return {str(name): {} for name in spec}
    if isinstance(spec, Mapping):
        return {str(name): given or {} for name, given in spec.items() if isinstance(given or {}, Mapping)}
    return {}


def higher_is_better(spec: Any) -> dict[str, bool]:
    """Return whether more is better for each metric of `model.metrics` of which torchmetrics says it."""
    found = {}
    for name, given in named_metrics(spec).items():
        score, _ = _score_of(name, given)
        if score is not None and score.higher is not None:
            found[name] = score.higher
    return found


def is_known(target: Any) -> bool:
    """Return whether a `_target_` of a metric is one whose arguments `chosen_score` and its table settle."""
    return _score_of("", {"_target_": target})[0] is not None or _has_several(str(target))


def _has_several(target: str) -> bool:
    room, _, cls = target.rpartition(".")
    for task in _ANY:
        cls = cls.removeprefix(task.capitalize())
    return room in _ROOMS and cls in SEVERAL


def _score_of(name: str, given: Mapping[str, Any]) -> tuple[Score | None, Task | None]:
    """Return the metric and the task that its `_target_` settles; None for each that is unknown."""
    target = given.get("_target_")
    if target is None:
        return SCORES.get(name), None
    room, _, cls = str(target).rpartition(".")
    if room not in _ROOMS:
        return None, None
    for task in _ANY:
        if room == "torchmetrics.classification" and cls.startswith(task.capitalize()):
            return SCORES.get(_BY_CLASS.get(cls.removeprefix(task.capitalize()), "")), task
    return SCORES.get(_BY_CLASS.get(cls, "")), None


def chosen_score(
    name: str, given: Mapping[str, Any], loss: ChosenLoss | None, outputs: int | None, key: str = "model.metrics"
) -> ChosenScore:
    """Return the metric that a config names, with the number of classes and all that follows from the loss filled in.

    Args:
        name: name under which it is logged, and in `SCORES` unless `given` has a `_target_`.
        given: its arguments, and perhaps `_target_` and `task`.
        loss: the loss, which knows the kind of the targets.
        outputs: number of outputs of the model; None: unknown.
        key: config key of the metrics.

    Raises:
        ConfigError: there is no such metric, it does not fit the targets, or it has several values.
    """
    score, task = _score_of(name, given)
    at, target = f"{key}.{name}", given.get("_target_")
    if name == "loss":
        raise ConfigError([Problem(at, "the loss is logged under this name", hint="choose another name")])
    arguments = {argument: value for argument, value in given.items() if argument not in ("_target_", "task")}
    if score is None:
        if target is None:
            hint = did_you_mean(name, SCORES)
            raise ConfigError([Problem(at, "there is no such metric", hint=hint)])
        if _has_several(str(target)):
            raise ConfigError(
                [Problem(f"{at}._target_", "has more than one value, and a metric is one number", target)]
            )
        return ChosenScore(str(target), arguments, None)
    if arguments.get("average", "") in (None, "none"):
        message = "gives a value per class, and a metric is one number"
        raise ConfigError([Problem(f"{at}.average", message, arguments["average"], "macro is their mean")])
    kind = loss.kind if loss else None
    if not score.tasks:
        if kind != "numbers":
            raise ConfigError([Problem(at, f"compares numbers, and {_targets(loss, kind)}", hint=_fitting(kind))])
        if score.per_output:
            arguments = {"num_outputs": outputs or 1, **arguments}
        return ChosenScore(f"torchmetrics.regression.{score.name}", {**score.arguments, **arguments}, "numbers")
    task = given.get("task") or task or _task(kind, outputs)
    if task is None:
        what = f"compares classes, and {_targets(loss, kind)}" if kind != "classes" else "needs the number of classes"
        raise ConfigError(
            [Problem(at, what, hint="model.outputs or data.facts.outputs" if kind == "classes" else _fitting(kind))]
        )
    if task not in score.tasks:
        message = (
            f"{score.name} is not defined for {task} targets"
            if task in _ANY
            else f"expected one of {', '.join(score.tasks)}"
        )
        raise ConfigError([Problem(f"{at}.task" if "task" in given else at, message, given.get("task", ...))])
    if task == "binary" and kind == "classes" and outputs is not None and outputs > 2:
        message = f"compares two classes, and the model has {outputs} outputs"
        raise ConfigError([Problem(at, message, hint="leave out the task, or choose multiclass")])
    defaults: dict[str, Any] = {"validate_args": False}  # the checks of torchmetrics wait for the device at each update
    if size := _SIZES[task]:
        if outputs is None and size not in arguments:
            raise ConfigError(
                [Problem(f"{at}.{size}", "needs the number of classes", hint="model.outputs or data.facts.outputs")]
            )
        defaults[size] = outputs
        number, most = arguments.get(size, outputs), arguments.get("top_k")
        if outputs is not None and number != outputs:
            raise ConfigError([Problem(f"{at}.{size}", f"the model has {outputs} outputs", number, "leave it out")])
        if isinstance(most, int) and isinstance(outputs, int) and not 0 < most <= outputs:
            raise ConfigError([Problem(f"{at}.top_k", f"expected a whole number from 1 to {outputs}", most)])
    if loss and loss.ignored is not None:
        defaults["ignore_index"] = loss.ignored
    name_of_class = f"{task.capitalize()}{score.name}"
    return ChosenScore(
        f"torchmetrics.classification.{name_of_class}", {**score.arguments, **defaults, **arguments}, task
    )


def _task(kind: Kind | None, outputs: int | None) -> Task | None:
    if outputs is None:
        return None
    if kind == "classes":
        return "binary" if outputs == 2 else "multiclass"
    if kind == "labels":
        return "binary" if outputs == 1 else "multilabel"
    return None


def _targets(loss: ChosenLoss | None, kind: Kind | None) -> str:
    if kind is None:
        return f"the targets of {loss} are of an unknown kind" if loss else "the kind of the targets is unknown"
    return f"the targets of {loss} are {DESCRIBED[kind]}"


def _fitting(kind: Kind | None) -> str:
    if kind is None:
        return "set data.facts.loss to a loss of torch.nn with such targets, such as cross_entropy"
    fitting = {
        "numbers": "mae, rmse, r2, pearson",
        "classes": "accuracy, f1, precision, recall, auroc",
        "labels": "accuracy, f1, auroc, average_precision",
    }
    return f"such as {fitting[kind]}" if kind in fitting else "leave it out"
