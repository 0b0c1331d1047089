"""The traits of each optimizer class (its needs, limits and update rule), one record per class, without torch.

Checks, training, range tests and populations ask these records, never the name of a class. `traits_of` finds the record
of a class along its base classes, so that a subclass is treated as its parent; `traits_named` finds it by the dotted
name, for checks that run before anything is imported.

A class of your own can declare its traits in an attribute `lrflow_traits`: a `Traits`, or a dictionary of the
differences to its parent's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from types import FunctionType, MappingProxyType
from typing import Any, Literal, get_args

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.layers.rules import Table

ATTRIBUTE = "lrflow_traits"
"""The attribute of a class, or of a function that makes an optimizer, that holds its traits."""

IMPLEMENTATION = frozenset({"foreach", "fused", "capturable", "differentiable", "maximize", "decoupled_weight_decay"})
"""Settings of torch's implementation of a step; each torch version has its own selection of them."""

ADJUST_LR = ("original", "match_rms_adamw")
"""Muon's scalings of an update by the shape of its matrix."""

NS_DTYPES = ("auto", "float32", "bfloat16")
"""Precisions of the iterations of lrflow's Muon; auto: bfloat16 on a GPU, else float32."""

Range = (
    Literal[
        "count", "positive", "not_negative", "not_positive", "share", "below_one", "at_least_one", "above_one",
        "rising", "around_one",
    ]
    | tuple[str | None, ...]
)  # fmt: skip
"""Allowed values of an argument: a whole number above 0, a kind of number (`above_one`: or inf), or these words.

`rising` are two numbers above 0, of which the second is not below the first; `around_one` one below and one above 1.
"""

Bound = Literal["sgd", "adam", "rmsprop", "adagrad"]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """The traits of an optimizer class. The defaults describe an ordinary optimizer.

    Attributes:
        package: the import name of the optional package that it needs.
        line_search: it evaluates the loss several times per step, as L-BFGS does.
        needs_closure: it cannot step without a closure that evaluates the model.
        one_vector: it treats all parameters as one vector, so that all groups need the same settings.
        second_order: it differentiates gradients, which must keep their graph.
        modes: its training weights differ from its evaluation weights; `train()` and `eval()` switch.
        estimates_lr: it estimates the LR, one for all parameters; `lr` multiplies the estimate and is 1.
        factor: the entry of its groups by which it multiplies the LR of the next step, such as that estimate.
        first_lr_only: it reads the LR only at its first step, and adapts its step sizes itself afterwards.
        own_warmup: the name of its argument for a warmup of its own, on top of the schedule's.
        orthogonal: its updates have singular values near 1, times a factor by the shape, as those of Muon.
        whole_matrices: an update needs whole matrices, which cannot be sharded.
        compilable: `torch.compile` speeds up its step and does not change the result. A step that counts in Python
            would be compiled again each time.
        saved_by: checkpoints do not hold all of its state: the name of a class that computes the same and saves it.
        nesterov_needs_momentum: it raises for `nesterov` if momentum is 0 or damped.
        swallows: it accepts any keyword but reads only these; others would have no effect.
        ranges: allowed values of its arguments, if others would crash or train nothing.
        decoupled: weight decay is subtracted from the weights; else it is added to the gradient.
        decoupling: the name of its argument that sets `decoupled`.
        update: the torch update rule that it computes; populations train by it. This field and the three below are
            reset if a subclass defines its own `step`.
        mup: the muP table for its LR (Yang et al., 2022, appendix B): `adam` if updates are normalised entry by entry,
            `sgd` if they are sums of gradients; None: no published rule covers it.
        bound: the formula of its largest stable LR; None: no such bound is known.
        state: classes with the same word can load each other's checkpointed state.
        state_switches: settings that add state when they are on.
        state_sizes: settings that determine the size of the state.
        defaults: default values of the settings in `state_sizes`.
    """

    package: str | None = None
    line_search: bool = False
    needs_closure: bool = False
    one_vector: bool = False
    second_order: bool = False
    modes: bool = False
    estimates_lr: bool = False
    factor: str | None = None
    first_lr_only: bool = False
    own_warmup: str | None = None
    orthogonal: bool = False
    whole_matrices: bool = False
    compilable: bool = True
    saved_by: str | None = None
    nesterov_needs_momentum: bool = False
    swallows: tuple[str, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=lambda: MappingProxyType({}))
    decoupled: bool = False
    decoupling: str | None = None
    update: Table | None = None
    mup: Table | None = None
    bound: Bound | None = None
    state: str | None = None
    state_switches: tuple[str, ...] = ("amsgrad", "centered")
    state_sizes: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        for name, kind in (("update", Table), ("mup", Table), ("bound", Bound)):
            known = get_args(kind)
            if getattr(self, name) not in (None, *known):
                raise ValueError(f"{name} is one of {', '.join(known)}, or None, not {getattr(self, name)!r}")
        kinds = get_args(get_args(Range)[0])
        for name, limits in self.ranges.items():
            if not isinstance(limits, tuple) and limits not in kinds:
                raise ValueError(f"the range of {name} is a tuple of words or one of {', '.join(kinds)}")

    def is_decoupled(self, settings: Mapping[str, Any]) -> bool:
        """Whether weight decay is decoupled under these settings of a config or of a parameter group."""
        return bool(settings.get(self.decoupling, self.decoupled)) if self.decoupling else self.decoupled


_MODES = ("train", "eval")
_ESTIMATE: dict[str, Range] = {"d0": "positive", "growth_rate": "above_one"}
_HESSIAN: dict[str, Range] = {"update_period": "count", "num_samples": "count"}
_BLOCKS: dict[str, Range] = {
    "block_size": "count", "start_preconditioning_step": "count", "preconditioning_compute_steps": "count",
}  # fmt: skip
_BLOCK_STATE: dict[str, Any] = {"state_sizes": ("block_size",), "defaults": {"block_size": 512}}
_NEWTON_SCHULZ: dict[str, Range] = {"ns_steps": "count"}
_AVERAGE: dict[str, Range] = {"t0": "not_negative", "lambd": "not_negative", "alpha": "not_negative"}
_RESETS: dict[str, Range] = {"update_proj_gap": "count"}
_SPAM: dict[str, Range] = {
    "warmup_epoch": "not_negative",
    "threshold": "not_negative",
    "grad_accu_steps": "not_negative",
}
_STABLE: dict[str, Range] = {"gamma1": "below_one", "gamma2": "below_one", "theta": "below_one"}
_SWALLOWED = ("adam_debias", "adanorm", "adanorm_r", "cautious", "stable_adamw", "use_gc")
_ADAM = Traits(
    update="adam", mup="adam", bound="adam", state="adam", decoupling="decoupled_weight_decay",
    state_switches=("amsgrad",),
)  # fmt: skip
_ADAHESSIAN = Traits(second_order=True, decoupled=True, decoupling="weight_decouple", ranges=_HESSIAN)

# No published rule of muP covers Rprop (the LR only sets its first step), LBFGS, Adadelta and Adafactor (steps relative
# to earlier steps or to the weights), LARS and LAMB (trust ratios), Shampoo, SOAP, and what estimates its own LR.
# A sign is a normalisation entry by entry. An average of iterates (schedule-free) scales as what it is taken of.
# Muon has a rule for hidden matrices only (`lrflow.layers.MuP`).

_RECORDS = {
    "torch.optim.SGD": Traits(update="sgd", mup="sgd", bound="sgd", nesterov_needs_momentum=True),
    "torch.optim.ASGD": Traits(mup="sgd", ranges=_AVERAGE),
    "torch.optim.Adam": _ADAM,
    "torch.optim.AdamW": replace(_ADAM, decoupled=True, decoupling=None),
    "torch.optim.Adamax": Traits(mup="adam"),
    "torch.optim.NAdam": Traits(
        mup="adam", decoupling="decoupled_weight_decay", ranges={"momentum_decay": "not_negative"}
    ),
    "torch.optim.RAdam": Traits(mup="adam", decoupling="decoupled_weight_decay"),
    "torch.optim.RMSprop": Traits(
        mup="adam", bound="rmsprop", state_switches=("centered", "momentum"), ranges={"alpha": "below_one"}
    ),
    "torch.optim.Adagrad": Traits(
        mup="adam", bound="adagrad", ranges={"lr_decay": "not_negative", "initial_accumulator_value": "not_negative"}
    ),
    "torch.optim.Adadelta": Traits(ranges={"rho": "share"}),
    "torch.optim.Adafactor": Traits(decoupled=True, ranges={"beta2_decay": "not_positive", "d": "at_least_one"}),
    "torch.optim.Rprop": Traits(first_lr_only=True, ranges={"etas": "around_one", "step_sizes": "rising"}),
    "torch.optim.LBFGS": Traits(
        line_search=True, needs_closure=True, one_vector=True, compilable=False,
        state_sizes=("history_size",), defaults={"history_size": 100},
        ranges={
            "max_iter": "count", "history_size": "count", "line_search_fn": ("strong_wolfe", None),
            "tolerance_grad": "not_negative", "tolerance_change": "not_negative",
        },
    ),
    "torch.optim.Muon": Traits(
        orthogonal=True, whole_matrices=True, decoupled=True,
        ranges=_NEWTON_SCHULZ | {"adjust_lr_fn": (*ADJUST_LR, None)},
    ),
    "lrflow.optimizers.Muon": Traits(
        orthogonal=True, whole_matrices=True, decoupled=True,
        ranges=_NEWTON_SCHULZ | {"adjust_lr_fn": ADJUST_LR, "ns_dtype": NS_DTYPES},
    ),
    "lrflow.optimizers.OfModule": Traits(compilable=False),
    "lrflow.optimizers.ASGD": Traits(modes=True, mup="sgd", compilable=False, ranges=_AVERAGE),
    "lrflow.optimizers.Shampoo": Traits(
        package="pytorch_optimizer", compilable=False, decoupling="decoupled_weight_decay", ranges=_BLOCKS,
        swallows=_SWALLOWED, **_BLOCK_STATE,
    ),
    "lrflow.optimizers.SPAM": Traits(
        package="pytorch_optimizer", compilable=False, mup="adam", decoupled=True, factor="factor",
        ranges=_RESETS | _SPAM,
    ),
    "lrflow.optimizers.StableSPAM": Traits(
        package="pytorch_optimizer", compilable=False, mup="adam", decoupled=True, ranges=_RESETS | _STABLE
    ),
    "schedulefree.SGDScheduleFree": Traits(mup="sgd", modes=True, own_warmup="warmup_steps", decoupled=True),
    "schedulefree.AdamWScheduleFree": Traits(mup="adam", modes=True, own_warmup="warmup_steps", decoupled=True),
    "schedulefree.RAdamScheduleFree": Traits(mup="adam", modes=True, decoupled=True),
    "prodigyopt.Prodigy": Traits(
        estimates_lr=True, factor="d", decoupled=True, decoupling="decouple",
        ranges=_ESTIMATE | {"d_coef": "positive", "slice_p": "count"},
    ),
    "pytorch_optimizer.DAdaptAdam": Traits(
        estimates_lr=True, factor="d", decoupling="weight_decouple", ranges=_ESTIMATE
    ),
    "pytorch_optimizer.AdaHessian": _ADAHESSIAN,
    "pytorch_optimizer.SophiaH": _ADAHESSIAN,
    "pytorch_optimizer.ScalableShampoo": Traits(
        saved_by="lrflow.optimizers.shampoo.Shampoo", decoupling="decoupled_weight_decay", ranges=_BLOCKS,
        **_BLOCK_STATE,
    ),
    "pytorch_optimizer.SOAP": Traits(decoupled=True, ranges={"precondition_frequency": "count"}),
    "pytorch_optimizer.Lion": Traits(mup="adam", decoupled=True, decoupling="weight_decouple"),
    "pytorch_optimizer.AdEMAMix": Traits(mup="adam", decoupling="weight_decouple"),
    "pytorch_optimizer.Adan": Traits(decoupling="weight_decouple"),
    "pytorch_optimizer.ADOPT": Traits(decoupling="weight_decouple"),
    "pytorch_optimizer.MARS": Traits(decoupled=True, decoupling="weight_decouple"),
    "pytorch_optimizer.StableAdamW": Traits(mup="adam", decoupled=True, decoupling="weight_decouple"),
    "pytorch_optimizer.SPAM": Traits(saved_by="lrflow.optimizers.spam.SPAM", mup="adam", decoupled=True),
    "pytorch_optimizer.StableSPAM": Traits(saved_by="lrflow.optimizers.spam.StableSPAM", mup="adam", decoupled=True),
    "pytorch_optimizer.Lamb": Traits(decoupled=True, decoupling="weight_decouple"),
    "pytorch_optimizer.LARS": Traits(),
}  # fmt: skip
"""By package and class name; the module inside the package does not matter."""

_PACKAGES: dict[str, dict[str, Any]] = {
    "torch.optim": {},
    "lrflow.optimizers": {},
    "schedulefree": {"package": "schedulefree", "compilable": False},
    "prodigyopt": {"package": "prodigyopt", "compilable": False},
    "pytorch_optimizer": {
        "package": "pytorch_optimizer",
        "compilable": False,
        "swallows": _SWALLOWED,
    },
}
"""Traits of all classes of a package."""

_NAMED = {name: replace(record, **_PACKAGES[name.rpartition(".")[0]]) for name, record in _RECORDS.items()}
_UPDATE: dict[str, Any] = {"update": None, "mup": None, "bound": None, "state": None}
"""Traits that are reset for a class that computes its steps differently from its parent."""


def traits_named(target: str) -> Traits | None:
    """Return the record of a class by its dotted name; None if lrflow has no record of it.

    Args:
        target: such as `torch.optim.AdamW`, or `torch.optim.adamw.AdamW`.
    """
    return _NAMED.get(_name(*target.rpartition(".")[::2]))


def names_with(trait: str) -> list[str]:
    """Return the names, without packages, of the classes whose records have a trait, in the order of the records."""
    return list(dict.fromkeys(name.rpartition(".")[2] for name, record in _NAMED.items() if getattr(record, trait)))


def package_of(target: str) -> str | None:
    """Return the optional package that a dotted name is in or is known to need."""
    if record := traits_named(target):
        return record.package
    package: str | None = _PACKAGES.get(_package(target) or "", {}).get("package")
    return package


def traits_of(factory: Callable[..., Any], key: str = "optimizer._target_") -> Traits:
    """Return the traits of an optimizer class, or those that a function which makes an optimizer shows.

    From the first base class to the class itself, each contributes its record, the traits shown by its methods and
    arguments, and finally its own `lrflow_traits`.

    Args:
        factory: the class or function.
        key: its key in the config, for the message.

    Raises:
        ConfigError: its `lrflow_traits` is invalid.
    """
    if not isinstance(factory, type):
        return _with_own(factory, getattr(factory, ATTRIBUTE, None), _inspected(factory, Traits()), key)
    traits = Traits()
    for base in reversed(factory.__mro__[:-1]):
        name = _name(base.__module__, base.__name__)
        traits = _NAMED[name] if name in _NAMED else _inspected(base, replace(traits, **_package_traits(base)))
        traits = _with_own(base, vars(base).get(ATTRIBUTE), traits, key)
    own = _defaults(factory, traits.state_sizes)
    return replace(traits, defaults={**traits.defaults, **own}) if own else traits


def _inspected(made: Callable[..., Any], traits: Traits) -> Traits:
    """Return the parent's traits changed by what a class or function without a record shows."""
    own = vars(made) if isinstance(made, type) else {}
    changes: dict[str, Any] = {}
    if isinstance(made, type) and _has_own_step(made):
        closure = _parameters(own["step"]).get("closure")
        changes |= {**_UPDATE, "needs_closure": closure is not None and closure.default is closure.empty}
    # The compiler runs `_init_group` only while it traces; torch's own versions only create state there.
    if "_init_group" in own and not made.__module__.startswith("torch."):
        changes["compilable"] = False
    if own.keys() & {*_MODES} and all(callable(getattr(made, mode, None)) for mode in _MODES):
        changes["modes"] = True
    arguments = _parameters(own.get("__init__") if isinstance(made, type) else made)
    if "d0" in arguments:  # the initial estimate
        changes |= {"estimates_lr": True, "factor": "d"}
    if "warmup_steps" in arguments and (changes.get("modes") or traits.modes):
        changes["own_warmup"] = "warmup_steps"
    return replace(traits, **changes)


def _has_own_step(made: type) -> bool:
    """Whether a class defines `step`; torch may set the parent's, wrapped, on a class."""
    steps = [inspect.unwrap(vars(base)["step"]) for base in made.__mro__ if "step" in vars(base)]
    return "step" in vars(made) and steps[0] not in steps[1:2]


def _with_own(made: Any, own: Any, traits: Traits, key: str) -> Traits:
    """Return the traits changed by those that a class or function declares."""
    if own is None or isinstance(own, Traits):
        return own or traits
    where = f"{getattr(made, '__qualname__', 'the optimizer')}.{ATTRIBUTE}"
    if not isinstance(own, Mapping):
        raise ConfigError([Problem(key, f"{where} is {own!r}: expected Traits(...) or a dictionary of traits")])
    known = [one.name for one in fields(Traits)]
    if problems := [
        Problem(key, f"{where}: there is no such trait", name, did_you_mean(str(name), known))
        for name in own
        if name not in known
    ]:
        raise ConfigError(problems)
    try:
        return replace(traits, **own)
    except ValueError as error:
        raise ConfigError([Problem(key, f"{where}: {error}")]) from error


def _parameters(made: Any) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a function, class or other callable; none for None and built-in functions."""
    return _arguments(made) if isinstance(made, FunctionType) else _read_arguments(made)


@lru_cache(maxsize=1024)
def _arguments(made: FunctionType) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a function, read once: a run asks for the traits of its optimizer a dozen times."""
    return _read_arguments(made)


def _read_arguments(made: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(made).parameters if made is not None else {}
    except (TypeError, ValueError):  # built-in functions have no signature
        return {}


def _defaults(made: type, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the default values of a class's settings, taken from the nearest base class that names them."""
    found: dict[str, Any] = {}
    for base in reversed(made.__mro__):
        arguments = _parameters(vars(base).get("__init__"))
        found |= {name: arguments[name].default for name in names if name in arguments}
    return {name: default for name, default in found.items() if default is not inspect.Parameter.empty}


def _package_traits(base: type) -> dict[str, Any]:
    return _PACKAGES.get(_package(base.__module__) or "", {})


def _package(module: str) -> str | None:
    return next((package for package in _PACKAGES if f"{module}.".startswith(f"{package}.")), None)


def _name(module: str, name: str) -> str:
    """Return the key of a class in the records; the module inside its package does not matter."""
    return f"{_package(module) or module}.{name}"
