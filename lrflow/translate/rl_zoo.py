"""Hyperparameters of rl-baselines3-zoo (2.9): of an environment, in ppo.yml and its kin or config.yml of an agent.

Stable-Baselines3 sets the LR before the updates that follow a rollout, by the environment steps made until then: a
linear schedule has fallen at the first update already, and the updates after the last rollout have an LR of 0 or below.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.translate.assignments import read_assignments
from lrflow.translate.facts import Facts
from lrflow.translate.files import Source, sibling
from lrflow.translate.keys import Keys, names
from lrflow.translate.translation import Translation, shape
from lrflow.wording import counted, joined

TOOL = "rl-baselines3-zoo's hyperparameters"
SIGNS = ("n_timesteps", "policy", "n_envs", "clip_range", "ent_coef", "train_freq", "learning_starts", "policy_kwargs")
KNOWN = names(
    """
    n_timesteps policy n_envs learning_rate n_steps batch_size n_epochs gamma gae_lambda clip_range clip_range_vf
    normalize_advantage ent_coef vf_coef max_grad_norm rms_prop_eps use_rms_prop use_sde sde_sample_freq target_kl
    use_sde_at_warmup buffer_size learning_starts tau train_freq gradient_steps replay_buffer_class
    replay_buffer_kwargs optimize_memory_usage target_update_interval exploration_fraction exploration_initial_eps
    exploration_final_eps target_entropy policy_kwargs normalize env_wrapper vec_env_wrapper frame_stack env_kwargs
    monitor_kwargs callback noise_type noise_std seed device
    """
)
REASONS = {
    "policy": "model.hidden=[...]: the recipe has networks of linear layers for observations that are vectors",
    "use_sde": "the recipe draws its noise anew at each step",
    "target_kl": "feedback=kl lowers the LR where the policy moves too far",
    "env_wrapper": "data.env_id of an environment that is wrapped: register it in a package of yours",
    "frame_stack": "data.env_id of an environment that is wrapped: register it in a package of yours",
    "batch_size": "a rollout that batches do not divide: Stable-Baselines3 makes its last batch smaller",
    "policy_kwargs": "model.hidden, and a model of your own for the rest",
}
ALGORITHMS = ("ppo", "a2c", "dqn", "sac")
"""Algorithms that lrflow has a recipe for; A2C is PPO with one batch and one pass (Huang et al., 2022, 2205.09123)."""

MOST_STEPS = 10**9
"""Most environment steps of a rollout or between two trainings."""

_OTHERS = ("ars", "crossq", "ddpg", "her", "ppo_lstm", "qrdqn", "td3", "tqc", "trpo")
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ppo": {"learning_rate": 3e-4, "n_steps": 2048, "n_epochs": 10, "gae_lambda": 0.95, "normalize_advantage": True},
    "a2c": {"learning_rate": 7e-4, "n_steps": 5, "n_epochs": 1, "gae_lambda": 1.0, "normalize_advantage": False},
    "dqn": {"learning_rate": 1e-4, "batch_size": 32, "train_freq": 4, "hidden": [64, 64]},
    "sac": {"learning_rate": 3e-4, "batch_size": 256, "train_freq": 1, "hidden": [256, 256]},
}


def names_in(source: Source) -> list[str]:
    """Return the keys of a file: those of each environment's entry, where the file has several."""
    entries = [entry for entry in source.data.values() if isinstance(entry, Mapping) and "n_timesteps" in entry]
    return [str(key) for entry in entries for key in entry] or [*source.data]


@dataclass(frozen=True)
class _Run:
    """A run of Stable-Baselines3: updates at an LR each, after every so many steps of the environments.

    Args:
        length: environment steps that were asked for, of which the LR is a function.
        every: environment steps between the trainings.
        first: number of the training before which the first updates are made; from 1.
        updates: optimizer steps of a training.
    """

    length: int
    every: int
    first: int
    updates: int

    @property
    def last(self) -> int:
        """The number of the last training, by whose end `length` is reached."""
        return math.ceil(self.length / self.every)

    def left(self, number: int) -> float:
        """Return the share of the steps that is left at a training; at the last one 0 or below."""
        return (self.length - number * self.every) / self.length


def translate(source: Source, facts: Facts, into: Translation) -> None:
    """Translate an environment's hyperparameters; the defaults are those of Stable-Baselines3 (2.9).

    Raises:
        ConfigError: a value is wrong, or the file says neither the algorithm nor the environment.
    """
    arguments = sibling(source.path, "args.yml")
    algorithm = _algorithm(source, arguments)
    keys, env = _entry(source, facts, arguments)
    usual = _DEFAULTS[algorithm]
    on_policy = algorithm in ("ppo", "a2c")
    into.base = f"rl_{algorithm}" if algorithm != "a2c" else "rl_ppo"
    if env is None:
        into.note("the file has no environment: data.env_id=NAME")
    into.set("data", env_id=env, num_envs=keys.whole("n_envs", 1, 1), gamma=None)
    given = arguments.get("n_timesteps")
    length = keys.whole("n_timesteps", None, 1)
    if isinstance(given, int) and given > 0:
        length = given
    if length is None:
        keys.wrong("n_timesteps", "expected the number of environment steps")
    policy = _policy(keys, into)
    run = (_on_policy if on_policy else _off_policy)(algorithm, keys, policy, length, into)
    peak, falls = _schedule_of(keys, "learning_rate", usual["learning_rate"])
    clip, clip_falls = _schedule_of(keys, "clip_range", 0.2) if algorithm == "ppo" else (0.2, False)
    last = run.last
    if (falls or clip_falls) and run.left(last) <= 0:
        made = counted(run.updates, "update")
        why = f"one training less: Stable-Baselines3 makes the last one, of {made}, at {run.left(last):g} of the LR"
        into.leave("n_timesteps", length, why)
        last -= 1
    count = last - run.first + 1
    if count < 1:
        message = f"expected more: no update is made, since a training comes after every {run.every:,} steps"
        raise ConfigError([Problem(f"{keys.prefix}n_timesteps", message, length)])
    _set_length(on_policy, run, count, into)
    hold = None if run.updates == 1 or count == 1 else "1 epoch" if on_policy else run.updates
    if falls:
        line = {"shape": shape("Linear"), "start": run.left(run.first - 1), "end": run.left(last)}
        into.schedule("piecewise", {"pieces": [line]}, count_from=1, hold=hold)
        into.note("the LR is set before the updates after a rollout, by the environment steps made until then")
    else:
        into.schedule("constant")
    if clip_falls:
        ends = {"from": clip * run.left(run.first), "to": clip * run.left(last + 1)}
        into.set("scalars", clip_range={**ends, **({"hold": hold} if hold else {})})
    elif algorithm == "ppo":
        into.set("model", clip=clip)
    _optimizer(algorithm, keys, policy, peak, into)
    if isinstance(seed := arguments.get("seed"), int) and seed >= 0:
        into.values["seed"] = seed
    policy.rest(into, (), {}, "policy_kwargs, or no counterpart in the recipe")
    keys.rest(into, KNOWN, REASONS, TOOL)


def _algorithm(source: Source, arguments: Mapping[str, Any]) -> str:
    """Return the algorithm, by the name of the file, or by args.yml beside the config of a trained agent."""
    given = arguments.get("algo") or source.path.stem
    if given in ALGORITHMS:
        return str(given)
    hint = f"rl-zoo names its files by the algorithm: {', '.join(f'{name}.yml' for name in ALGORITHMS)}"
    message = "is an algorithm that lrflow has no recipe for" if given in _OTHERS else "names no algorithm"
    raise ConfigError([Problem("lrflow translate", message, source.name, hint)])


def _entry(source: Source, facts: Facts, arguments: Mapping[str, Any]) -> tuple[Keys, str | None]:
    """Return the keys of an environment, and its id; None: the entry is for any."""
    if "n_timesteps" in source.data:
        env = facts.env or arguments.get("env")
        return Keys(source.data), str(env) if env else None
    entries = {key: value for key, value in source.data.items() if isinstance(value, Mapping)}
    env = facts.env or (next(iter(entries)) if len(entries) == 1 else None)
    if env is None:
        message = f"the file has {len(entries)} environments: give the name of one"
        raise ConfigError([Problem("--env", message, hint=joined(list(entries), 12) or None)])
    if env not in entries:
        hint = did_you_mean(env, entries) or "an entry such as default also has hyperparameters: --env default"
        raise ConfigError([Problem("--env", "is no environment of the file", env, hint)])
    return Keys(entries[env], f"{env}."), None if env in ("default", "atari") else env


def _schedule_of(keys: Keys, name: str, usual: float) -> tuple[float, bool]:
    """Return the value of a key that may be scheduled, `lin_3e-4`, and whether it falls to 0."""
    value = keys.raw(name, usual)
    if not isinstance(value, str) or not value.startswith("lin_"):
        return keys.number(name, usual), False
    try:
        number = float(value.removeprefix("lin_"))
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        keys.wrong(name, "expected a number, or lin_ and a number")
    return number, True


def _on_policy(algorithm: str, keys: Keys, policy: Keys, length: int, into: Translation) -> _Run:
    """Translate rollouts and the loss of PPO and A2C; each rollout is an epoch of the recipe."""
    usual = _DEFAULTS[algorithm]
    envs, steps = keys.whole("n_envs", 1, 1), keys.whole("n_steps", usual["n_steps"], 1)
    rollout, passes, batches = envs * steps, 1, 1
    if algorithm == "ppo":
        passes, batch = keys.whole("n_epochs", usual["n_epochs"], 1), min(keys.whole("batch_size", 64, 1), rollout)
        if rollout > MOST_STEPS:
            keys.wrong("n_steps", f"expected rollouts of at most {MOST_STEPS:,} steps of all environments")
        batches = max(one for one in _divisors(rollout) if one <= rollout // batch)
        if rollout % batch:
            keys.read.discard("batch_size")
            into.note(f"minibatches of {rollout // batches} steps, since {batch} do not divide a rollout of {rollout}")
        limit = keys.number("clip_range_vf", -1, -math.inf)
        into.values.setdefault("model", {})["clip_value"] = limit if limit >= 0 else None
    else:
        into.note("A2C is PPO with one batch and one pass per rollout, whose clipping then does nothing")
        into.values.setdefault("model", {})["clip_value"] = None
    into.set("data", steps=steps, update_epochs=passes, minibatches=batches)
    into.set("data", gamma=keys.number("gamma", 0.99), gae_lambda=keys.number("gae_lambda", usual["gae_lambda"]))
    normalize = keys.raw("normalize", False)
    if isinstance(normalize, str):
        normalize = _call(normalize)[0]
    parts = normalize if isinstance(normalize, Mapping) else dict.fromkeys(("norm_obs", "norm_reward"), bool(normalize))
    both = {name: bool(parts.get(name, True)) for name in ("norm_obs", "norm_reward")}
    into.set("data", normalize_rewards=both["norm_reward"])
    into.set(
        "model",
        normalize_observations=both["norm_obs"],
        hidden=_hidden(policy, [64, 64]),
        value_coefficient=keys.number("vf_coef", 0.5),
        entropy_coefficient=keys.number("ent_coef", 0.0),
        normalize_advantages=keys.flag("normalize_advantage", usual["normalize_advantage"]),
        log_std=policy.number("log_std_init", None, -math.inf),
    )
    into.set("trainer", gradient_clip_val=keys.number("max_grad_norm", 0.5))
    return _Run(length, rollout, 1, passes * batches)


def _divisors(number: int) -> set[int]:
    """Return all divisors of a number."""
    small = [one for one in range(1, math.isqrt(number) + 1) if number % one == 0]
    return {*small, *(number // one for one in small)}


def _off_policy(algorithm: str, keys: Keys, policy: Keys, length: int, into: Translation) -> _Run:
    """Translate buffer, collections and the loss of DQN and SAC."""
    usual = _DEFAULTS[algorithm]
    envs, frequency = keys.whole("n_envs", 1, 1), keys.raw("train_freq", usual["train_freq"])
    if isinstance(frequency, list | tuple):
        if len(frequency) == 2 and frequency[1] == "episode":
            into.leave("train_freq", frequency, "one step: an episode has no length that is known before the run")
            frequency = 1
        else:
            frequency = frequency[0] if len(frequency) == 2 and frequency[1] == "step" else None
    if isinstance(frequency, bool) or not isinstance(frequency, int) or not 1 <= frequency <= MOST_STEPS:
        keys.wrong("train_freq", "expected a number of steps, or [steps, step] or [episodes, episode]")
    every = int(frequency) * envs  # the check above raises
    updates = keys.whole("gradient_steps", 1, -1)
    updates = every if updates == -1 else updates
    if updates < 1:
        keys.wrong("gradient_steps", "expected at least 1, or -1")
    wait = keys.whole("learning_starts", 100)
    first = wait // every + 1
    if wait % every:
        into.note(f"random actions for {(first - 1) * every} steps, a multiple of the {every} between two trainings")
    into.set(
        "data",
        buffer_size=keys.whole("buffer_size", 1_000_000, 1),
        batch_size=keys.whole("batch_size", usual["batch_size"], 1),
        learning_starts=(first - 1) * every,
        train_frequency=every,
        gradient_steps=updates,
        epoch_steps=every * max(1, round(1000 / every)),
    )
    into.set("model", gamma=keys.number("gamma", 0.99), hidden=_hidden(policy, usual["hidden"]))
    run = _Run(length, every, first, updates)
    (_dqn if algorithm == "dqn" else _sac)(keys, run, into)
    return run


def _dqn(keys: Keys, run: _Run, into: Translation) -> None:
    """Translate the target network and the exploration of DQN."""
    interval = keys.whole("target_update_interval", 10_000, 1)
    target = max(1, round(interval / run.every * run.updates))
    if target * run.every != interval * run.updates:
        why = f"{target} optimizer steps, which are {target * run.every / run.updates:g} environment steps"
        into.leave("target_update_interval", interval, why)
    into.set("model", target_every=target)
    into.set("trainer", gradient_clip_val=keys.number("max_grad_norm", 10))
    if keys.number("tau", 1.0) == 1.0:
        keys.read.add("tau")
    else:
        keys.read.discard("tau")
    share, end = keys.number("exploration_fraction", 0.1), keys.number("exploration_final_eps", 0.05)
    start, waited = keys.number("exploration_initial_eps", 1.0), (run.first - 1) * run.every
    over = share * run.length
    if waited >= over:
        into.set("scalars", epsilon={"from": end, "to": None, "over": None})
        return
    now = start + (end - start) * waited / over
    into.set("scalars", epsilon={"from": now, "to": end, "over": f"{round(over - waited)} samples"})
    into.note("the share of random actions moves once per collection, and in Stable-Baselines3 at each step")


def _sac(keys: Keys, run: _Run, into: Translation) -> None:
    """Translate the temperature and the targets of SAC."""
    temperature = keys.raw("ent_coef", "auto")
    if isinstance(temperature, str) and temperature.startswith("auto"):
        given = temperature.removeprefix("auto").removeprefix("_") or 1.0
    else:
        given = keys.number("ent_coef")
        into.leave("ent_coef", temperature, "the temperature is learned, from this value on")
    into.set("model", temperature=Keys({"ent_coef": given}, keys.prefix).number("ent_coef"))
    into.set("model", tau=keys.number("tau", 0.005))
    if keys.raw("target_entropy", "auto") != "auto":
        into.set("model", target_entropy=keys.number("target_entropy", None, -math.inf))
    if keys.whole("target_update_interval", 1, 1) != 1:
        keys.read.discard("target_update_interval")


def _set_length(on_policy: bool, run: _Run, count: int, into: Translation) -> None:
    trainer, updates = into.values.setdefault("trainer", {}), counted(run.updates, "update")
    if on_policy:
        trainer |= {"max_epochs": count, "max_samples": None}
        into.note(
            f"{counted(count, 'rollout')} of {counted(run.every, 'environment step')}, each an epoch of {updates}"
        )
    else:
        trainer |= {"max_steps": count * run.updates, "max_samples": None}
        into.note(f"{counted(count, 'training')} of {updates}, after {counted(run.every, 'environment step')} each")


def _optimizer(algorithm: str, keys: Keys, policy: Keys, peak: float, into: Translation) -> None:
    """Choose the optimizer, with the epsilon that Stable-Baselines3 gives it."""
    given = policy.inside("optimizer_kwargs")
    kind = str(policy.raw("optimizer_class", "")).rpartition(".")[2]
    rmsprop, eps = keys.flag("use_rms_prop", True), keys.number("rms_prop_eps", 1e-5)
    decay = given.number("weight_decay", 0.0)
    if algorithm == "a2c" and (rmsprop or kind) and kind not in ("Adam", "AdamW"):
        if kind == "RMSpropTFLike":
            into.leave("policy_kwargs.optimizer_class", kind, "torch's RMSprop, which adds eps after the root")
        own = {"eps": given.number("eps", 1e-8 if kind else eps), "alpha": given.number("alpha", 0.99)}
        into.choose("optimizer", "rmsprop", lr=peak, weight_decay=decay, **own)
    else:
        if kind not in ("", "Adam", "AdamW"):
            into.leave("policy_kwargs.optimizer_class", kind, "no counterpart: Adam stands in its place")
        usual = 1e-5 if algorithm in ("ppo", "a2c") and kind in ("", "Adam") else 1e-8
        option = "adamw" if kind == "AdamW" else "adam"
        decay = given.number("weight_decay", 0.01) if kind == "AdamW" else decay
        betas = given.numbers("betas", [0.9, 0.999])
        into.choose("optimizer", option, lr=peak, betas=betas, eps=given.number("eps", usual), weight_decay=decay)
    given.rest(into, (), {}, "the optimizer")


def _policy(keys: Keys, into: Translation) -> Keys:
    """Return the arguments of the policy, which may be a text with a call of dict."""
    if keys.word("policy", "MlpPolicy") != "MlpPolicy":
        keys.read.discard("policy")
    given = keys.raw("policy_kwargs", {})
    if isinstance(given, str):
        given, others = _call(given)
        for name, text in others.items():
            if name == "optimizer_class":
                given[name] = text
            else:
                into.leave(f"policy_kwargs.{name}", text, "a class or a function: a model of your own has it")
    if not isinstance(given, Mapping):
        keys.wrong("policy_kwargs", "expected keys with values, or a text such as dict(net_arch=[64, 64])")
    return Keys(given, f"{keys.prefix}policy_kwargs.")


def _call(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arguments of a text `dict(a=1, b=nn.ReLU)` that are plain data, and the text of the others."""
    found: dict[str, Any] = {}
    others: dict[str, str] = {}
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not isinstance(node, ast.Call) or ast.unparse(node.func) != "dict" or node.args:
            return {}, {"text": text}
        for argument in node.keywords:
            value = ast.unparse(argument.value)
            read, unreadable = read_assignments(f"value = {value}")
            if unreadable or argument.arg is None:
                others[argument.arg or "**"] = value
            else:
                found[argument.arg] = read["value"]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}, {"text": text}
    return found, others


def _hidden(policy: Keys, usual: list[int]) -> list[int]:
    """Return the widths of the hidden layers, which the recipes have alike for actor and critic."""
    given = policy.raw("net_arch", usual)
    if isinstance(given, Mapping):
        both = list(given.values())
        given = both[0] if both and all(one == both[0] for one in both) else None
    elif isinstance(given, list) and given and isinstance(given[0], Mapping):  # the form before 1.8
        both = list(given[0].values())
        given = both[0] if len(given) == 1 and both and all(one == both[0] for one in both) else None
    if not isinstance(given, list) or not all(type(width) is int and width > 0 for width in given):
        policy.read.discard("net_arch")
        return usual
    return given
