"""args.yaml of timm's train.py (1.0), or its command line."""

from __future__ import annotations

import math
from typing import Any

from lrflow.errors import ConfigError, Problem
from lrflow.translate.facts import Facts
from lrflow.translate.files import Source
from lrflow.translate.keys import Keys, names
from lrflow.translate.plateau import choose_plateau
from lrflow.translate.translation import Translation, epochs, shape

TOOL = "timm's train.py"
SIGNS = ("sched", "warmup_lr", "lr_base", "clip_mode", "sched_on_updates", "lr_cycle_mul", "model_ema", "min_lr", "opt")
KNOWN = names(
    """
    aa amp amp_dtype amp_impl aot_autograd apex_amp aug_repeats aug_splits batch_size bce_loss bce_pos_weight
    bce_sum bce_target_thresh bn_eps bn_momentum channels_last checkpoint_hist class_map clip_grad clip_mode
    color_jitter color_jitter_prob config cooldown_epochs crop_pct cutmix cutmix_minmax data data_dir dataset
    dataset_download dataset_trust_remote_code decay_epochs decay_milestones decay_rate device device_modules
    dist_bn distill_loss_weight distributed drop drop_block drop_connect drop_path epoch_repeats epochs eval_metric
    experiment fast_norm fuser gaussian_blur_prob gp grad_accum_steps grad_checkpointing grayscale_prob
    head_init_bias head_init_scale hflip img_size in_chans initial_checkpoint input_img_mode input_key input_size
    interpolation jsd jsd_loss kd_distill_type kd_loss_type kd_model_name kd_student_feature_dim
    kd_teacher_feature_dim kd_temperature kd_token_distill_type layer_decay layer_decay_min_scale
    layer_decay_no_opt_scale local_rank log_interval log_wandb lr lr_base lr_base_scale lr_base_size lr_cycle_decay
    lr_cycle_limit lr_cycle_mul lr_k_decay lr_noise lr_noise_pct lr_noise_std mean min_lr mixup mixup_mode
    mixup_off_epoch mixup_prob mixup_switch_prob model model_dtype model_ema model_ema_decay model_ema_force_cpu
    model_ema_warmup model_kwargs momentum naflex_loader naflex_loss_scale naflex_max_seq_len
    naflex_patch_size_probs naflex_patch_sizes naflex_patchify_channels_first naflex_train_seq_lens native_amp
    nnodes no_aug no_ddp_bb no_prefetcher no_resume_opt nproc_per_node num_classes opt opt_args opt_betas opt_eps
    opt_kwargs output patience_epochs pin_mem prefetcher pretrained pretrained_path rank ratio recount
    recovery_interval remode reprob resplit resume save_images scale sched sched_on_updates seed smoothing split_bn
    start_epoch std sync_bn synchronize_step target_key task_loss_weight torchcompile torchcompile_mode torchscript
    train_batch_sizes train_batches_per_epoch train_crop_mode train_img_sizes train_interpolation train_num_samples
    train_size_probs train_size_random_mix train_size_schedule train_size_schedule_spread train_split
    train_steps_per_epoch tta use_ema use_multi_epochs_loader val_interval val_num_samples val_split
    validation_batch_size variable_batch_loss_scale vflip wandb_project wandb_resume_id wandb_tags warmup_epochs
    warmup_lr warmup_prefix weight_decay worker_seeding workers world_size
    """
)
_MODEL = "model=custom, with an argument of your model"
REASONS = {
    "model": "model=custom model._target_=..., see docs/configuration.md",
    "data_dir": "data=images data.path=FOLDER, or data of your own",
    "drop_path": _MODEL,
    "drop": _MODEL,
    "img_size": "data.size of data=images",
    "mixup": "augment=mixup",
    "cutmix": "augment=cutmix",
    "reprob": "augment=erasing",
    "aa": "augment=randaugment",
    "smoothing": "model.loss.label_smoothing, see docs/training.md",
    "lr_noise": "no counterpart: the noise is drawn at random",
    "model_ema_warmup": "average.warmup has another formula",
    "workers": "data.num_workers, if the data has it",
    "checkpoint_hist": "trainer.checkpoint.keep=N",
    "eval_metric": "trainer.checkpoint.monitor=val/NAME",
    "log_interval": "trainer.log_every=N",
    "output": "output=FOLDER",
    "experiment": "name=NAME",
    "log_wandb": "logger=wandb",
    "layer_decay_no_opt_scale": "freeze in layers.rules, see docs/layers.md",
    "opt_kwargs": "set what it names under optimizer",
    "warmup_prefix": "read",
}
OPTIMIZERS = {
    "sgd": "nesterov",
    "nesterov": "nesterov",
    "momentum": "momentum",
    "adam": "adam",
    "adamw": "adamw",
    "nadam": "nadam",
    "radam": "radam",
    "adamax": "adamax",
    "adadelta": "adadelta",
    "adagrad": "adagrad",
    "adopt": "adopt",
    "adan": "adan",
    "lamb": "lamb",
    "lars": "lars",
    "lion": "lion",
    "mars": "mars",
    "rmsprop": "rmsprop",
}
_BETAS = ("adam", "adamw", "nadam", "radam", "adamax", "lamb", "lion", "adopt")
_TANH = (-7.0, 3.0)


def translate(source: Source, facts: Facts, into: Translation) -> None:
    """Translate arguments of timm's train.py.

    Raises:
        ConfigError: a value is wrong, or the LR depends on facts that are missing.
    """
    keys = Keys(source.data)
    devices = keys.whole("world_size") or keys.whole("nproc_per_node") or facts.devices
    facts = Facts(devices, facts.samples)
    batch, accumulated = keys.whole("batch_size", 128, 1), keys.whole("grad_accum_steps", 1, 1)
    into.set("data", batch_size=batch)
    if devices is None:
        into.set("trainer", accumulate_grad_batches=accumulated)
        into.note(f"a step has {batch * accumulated} examples per device; --devices N fixes their sum")
    else:
        into.set("data", effective_batch_size=batch * accumulated * devices)
    name = keys.word("opt", "sgd").lower()
    peak = keys.number("lr") or _scaled(keys, facts, batch * accumulated, name, into)
    _optimizer(keys, into, name, peak)
    _Schedule(keys, into, peak).choose()
    if (clip := keys.number("clip_grad")) is not None:
        mode = keys.word("clip_mode", "norm", ("norm", "value", "agc"))
        argument = {"norm": "max_norm", "value": "clip_value", "agc": "clip_factor"}[mode]
        into.choose("clip", mode, **{argument: clip})
    if keys.flag("model_ema"):
        into.choose("average", "ema", decay=keys.number("model_ema_decay", 0.9998), warmup=False)
    if keys.flag("amp"):
        half = keys.word("amp_dtype", "float16", ("float16", "bfloat16"))
        into.set("trainer", precision="16-mixed" if half == "float16" else "bf16-mixed")
    into.values["seed"] = keys.whole("seed", 42)
    keys.rest(into, KNOWN, REASONS, TOOL)


def _scaled(keys: Keys, facts: Facts, per_device: int, name: str, into: Translation) -> float:
    """Return the peak LR of a config without `lr`: lr_base times the batch, or its root, over lr_base_size."""
    facts.need("--devices", reason="without lr, timm scales lr_base with the batch of all devices")
    base, reference = keys.number("lr_base", 0.1), keys.whole("lr_base_size", 256, 1)
    usual = "sqrt" if any(part in name for part in ("ada", "lamb")) else "linear"
    rule = keys.word("lr_base_scale") or usual
    ratio = per_device * (facts.devices or 1) / reference
    peak: float = base * (math.sqrt(ratio) if rule == "sqrt" else ratio)
    into.note(f"the peak LR is lr_base={base:g} scaled by timm's rule ({rule}) with the batch, here once and for all")
    return peak


def _optimizer(keys: Keys, into: Translation, name: str, peak: float) -> None:
    """Choose the optimizer and the layers; timm has no weight decay for biases and other vectors."""
    option = OPTIMIZERS.get(name, "adamw")
    if name not in OPTIMIZERS:
        into.leave("opt", name, "no counterpart: AdamW stands in its place; choose another with optimizer=NAME")
    given: dict[str, Any] = {"lr": peak, "weight_decay": keys.number("weight_decay", 2e-5)}
    betas, eps = keys.numbers("opt_betas"), keys.number("opt_eps")
    momentum = keys.number("momentum", 0.9)
    if option in _BETAS:
        given["betas"] = betas or None
        given["betas"] = given["betas"] or [0.9, 0.99 if option == "lion" else 0.999]
        if option != "lion":
            given["eps"] = eps if eps is not None else (1e-6 if option == "lamb" else 1e-8)
    elif option in ("nesterov", "momentum", "rmsprop", "lars"):
        given["momentum"] = momentum
    if name == "rmsprop":  # as timm sets it
        given |= {"alpha": 0.9}
    into.choose("optimizer", option, **given)
    if name == "sgd":
        into.note("timm's sgd is SGD with Nesterov momentum")
    decay = keys.number("layer_decay")
    if decay is None:
        into.options["layers"] = "no_decay"
    else:
        least = keys.number("layer_decay_min_scale", 0.0)
        into.choose("layers", "layer_decay", decay=decay, min_scale=least, last_norm="block")
        into.note("compare the layers with timm's by task=plan: they are found by the names of the parameters")


class _Schedule:
    """The schedule of timm's arguments.

    Args:
        keys: the arguments.
        into: the translation, which gets the schedule and the length of the run.
        peak: peak LR.
    """

    def __init__(self, keys: Keys, into: Translation, peak: float) -> None:
        self.keys, self.into, self.peak = keys, into, peak
        self.epochs = keys.whole("epochs", 300, 1)
        self.warmup = keys.number("warmup_epochs", 5)
        self.prefix = keys.flag("warmup_prefix")
        self.per_step = keys.flag("sched_on_updates")
        self.least = keys.number("min_lr", 0.0)
        self.cooldown = keys.whole("cooldown_epochs", 0)
        self.warmup_lr = keys.number("warmup_lr", 1e-5)
        # of each layer's own peak: timm multiplies the LRs of layers after the schedule
        self.of_layers = "layer_decay" in keys

    def choose(self) -> None:
        """Choose the schedule, and set the length of the run."""
        named = {
            "cosine": self._cycles,
            "poly": self._cycles,
            "tanh": self._tanh,
            "step": self._step,
            "multistep": self._multistep,
            "plateau": self._plateau,
            "none": self._constant,
        }
        self.name = self.keys.word("sched", "cosine", named)
        named[self.name]()

    def _level(self, lr: float) -> Any:
        return lr / self.peak if self.of_layers or not lr else f"{lr!r} lr"

    def _set(self, option: str, arguments: dict[str, Any] | None = None, **keys: Any) -> None:
        """Set the schedule with timm's warmup, which lies over the curve unless it stands before it."""
        given: dict[str, Any] = {}
        if self.warmup:
            given = {"warmup": epochs(self.warmup), "warmup_start": self._level(self.warmup_lr)}
            if not self.prefix:
                given |= {"shape_from": "start", "warmup_mode": "override"}
        if not self.per_step:
            given["hold"] = "1 epoch"
            self._check_whole("warmup_epochs", self.warmup)
        self.into.schedule(option, arguments, **{**given, **keys})

    def _check_whole(self, key: str, value: float) -> None:
        if not float(value).is_integer():
            message = "expected whole epochs: timm's schedule moves once per epoch, unless sched_on_updates is set"
            raise ConfigError([Problem(key, message, value)])

    def _length(self, cycles: int) -> int | None:
        """Set the length of the run in epochs, and return that of the curve if the run goes on after it."""
        before = self.warmup if self.prefix else 0
        self._check_whole("warmup_epochs", before)
        rest = self.cooldown
        if rest and not self.least:
            self.into.leave("cooldown_epochs", rest, "left out: the LR would be 0 in all of them")
            rest = 0
        self.into.length(epochs=cycles + int(before) + rest)
        return cycles if rest else None

    def _curve(self) -> dict[str, Any]:
        k = self.keys.number("lr_k_decay", 1.0)
        if self.name == "poly":
            return {"power": self.keys.number("decay_rate", 0.1), "k": k}
        return {"k": k} if k != 1.0 else {}

    def _lengths(self) -> list[int]:
        """Return the lengths of the cycles in epochs."""
        count, factor = self.keys.whole("lr_cycle_limit", 1, 1), self.keys.number("lr_cycle_mul", 1.0)
        lengths = [self.epochs * factor**i for i in range(min(count, 1001))]
        if count > 1000 or not all(length.is_integer() for length in lengths):
            message = "cycles of whole epochs can be translated, at most 1000 of them"
            raise ConfigError([Problem("lr_cycle_mul", message, factor)])
        return [int(length) for length in lengths]

    def _cycles(self) -> None:
        lengths = self._lengths()
        height = self.keys.number("lr_cycle_decay", 0.5)
        curve, length = self._curve(), self._length(sum(lengths))
        option = "polynomial" if self.name == "poly" else "cosine"
        if len(lengths) == 1:
            after = None if length is None else epochs(length)
            self._set(option, curve, floor=self._level(self.least), shape_length=after)
            return
        pieces = [
            {
                "duration": epochs(each),
                "shape": shape("Polynomial" if self.name == "poly" else "Cosine", **curve),
                "start": height**i,
                "end": self.least / self.peak,
            }
            for i, each in enumerate(lengths)
        ]
        self._set("piecewise", {"pieces": pieces})

    def _tanh(self) -> None:
        lengths = self._lengths()
        lower, upper = _TANH
        top, low = (1.0 - math.tanh(lower)) / 2.0, self.least / self.peak
        height = self.keys.number("lr_cycle_decay", 0.5)
        self._length(sum(lengths))
        if not low:
            curve = shape("Tanh", lower=lower, upper=upper)
            pieces = [{"duration": epochs(n), "shape": curve, "start": top * height**i} for i, n in enumerate(lengths)]
            if self.prefix and self.warmup:  # which rises to the peak, and not to where the curve begins
                rise = {"duration": epochs(self.warmup), "shape": shape("Linear"), "end": 1.0}
                pieces = [{**rise, "start": self.warmup_lr / self.peak}, *pieces]
                self.warmup = 0
            self._set("piecewise", {"pieces": pieces}, **self._meet())
            return
        if self.per_step:
            raise ConfigError(
                [Problem("min_lr", "tanh per update with a min_lr above 0 has no counterpart", self.least)]
            )
        values = []
        for i, each in enumerate(lengths):
            for epoch in range(each):
                done = epoch / each
                fall = 0.5 * (1 - math.tanh(lower * (1.0 - done) + upper * done))
                values.append(low + (height**i - low) * fall)
        values += [low] * self.cooldown
        start, ahead = self.warmup_lr / self.peak, int(self.warmup) if self.prefix else 0
        rising = [start + (1.0 - start) * epoch / ahead for epoch in range(ahead)]
        if ahead:
            self.warmup = 0
        self._table([*rising, *values], **self._meet())

    def _meet(self) -> dict[str, Any]:
        """Return the keys of a warmup that rises to the value of the curve below it, as timm's tanh has it."""
        return {} if self.prefix or not self.warmup else {"shape_from": "start", "warmup_mode": "meet"}

    def _table(self, values: list[float], **keys: Any) -> None:
        """Set a table with a value per epoch, from the end of a warmup that stands before it, else from the start."""
        ahead = int(self.warmup) if self.prefix else 0  # the points are counted from the start of the run
        self.into.table([values[0]] * ahead + values, "epochs")
        table = self.into.values["schedule"]["shape"]
        self._set("tabulated", table, **keys)

    def _step(self) -> None:
        every, gamma = self.keys.number("decay_epochs", 90), self.keys.number("decay_rate", 0.1)
        if not every:
            self.keys.wrong("decay_epochs", "expected a number above 0")
        self._plain_length()
        if self.per_step:
            drops = {"shape": shape("Step", gamma=gamma, every=epochs(every)), "clock": "piece"}
            if not float(every).is_integer():
                raise ConfigError([Problem("decay_epochs", "per update only whole epochs can be translated", every)])
            self._set("piecewise", {"pieces": [drops]})
            return
        self._table([gamma ** (epoch // every) for epoch in range(self.epochs)])

    def _multistep(self) -> None:
        gamma, milestones = self.keys.number("decay_rate", 0.1), self.keys.numbers("decay_milestones", (90, 180, 270))
        self._plain_length()
        if self.per_step:
            message = "timm drops one update before a milestone: multistep per update has no counterpart"
            raise ConfigError([Problem("sched_on_updates", message, True)])
        self._table([gamma ** sum(each <= epoch + 1 for each in milestones) for epoch in range(self.epochs)])
        self.into.note("timm's multistep drops one epoch before each of its milestones")

    def _plain_length(self) -> None:
        self.into.length(epochs=self.epochs + (int(self.warmup) if self.prefix else 0))
        for key in ("min_lr", "cooldown_epochs"):
            if self.keys.number(key):
                self.into.leave(key, self.keys.given[key], f"without effect on timm's {self.name}")

    def _constant(self) -> None:
        self.warmup = 0
        self.into.length(epochs=self.epochs)
        self.into.schedule("constant")

    def _plateau(self) -> None:
        self.into.length(epochs=self.epochs)
        self.prefix, self.per_step = True, False
        self._set("constant")
        metric = self.keys.word("eval_metric", "top1")
        choose_plateau(
            self.into,
            self.peak,
            self.least,
            monitor="val/loss" if "loss" in metric else "val/accuracy",
            factor=self.keys.number("decay_rate", 0.1),
            patience=self.keys.whole("patience_epochs", 10),
        )
        self.into.note("the LR follows a metric of the run, whose values are not those of timm")
