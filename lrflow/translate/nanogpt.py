"""Configs of nanoGPT's train.py (2024): Python assignments, or its flags."""

from __future__ import annotations

from lrflow.errors import ConfigError, Problem
from lrflow.translate.facts import Facts
from lrflow.translate.files import Source
from lrflow.translate.keys import Keys, names
from lrflow.translate.translation import Translation

TOOL = "nanoGPT's configs"
SIGNS = ("max_iters", "lr_decay_iters", "warmup_iters", "block_size", "n_layer", "init_from", "decay_lr", "grad_clip")
KNOWN = names(
    """
    out_dir eval_interval log_interval eval_iters eval_only always_save_checkpoint init_from wandb_log wandb_project
    wandb_run_name dataset gradient_accumulation_steps batch_size block_size n_layer n_head n_embd dropout bias
    learning_rate max_iters weight_decay beta1 beta2 grad_clip decay_lr warmup_iters lr_decay_iters min_lr backend
    device dtype compile nproc_per_node nnodes standalone
    """
)
_MODEL = "model=transformer has keys for its size"
REASONS = {
    "n_layer": f"model.depth; {_MODEL}",
    "n_head": f"model.heads; {_MODEL}",
    "n_embd": f"model.width; {_MODEL}",
    "dropout": _MODEL,
    "bias": _MODEL,
    "dataset": "data=text data.path=FILE",
    "block_size": "data.length of data=text",
    "eval_interval": "trainer.val_every=N",
    "log_interval": "trainer.log_every=N",
    "out_dir": "output=FOLDER",
    "wandb_log": "logger=wandb",
    "wandb_run_name": "name=NAME",
    "init_from": "resume=RUN, or model=huggingface",
}


def translate(source: Source, facts: Facts, into: Translation) -> None:
    """Translate a config of nanoGPT; the defaults are those of its train.py.

    Raises:
        ConfigError: a value is wrong.
    """
    keys = Keys(source.data)
    peak, least = keys.number("learning_rate", 6e-4), keys.number("min_lr", 6e-5)
    warmup, decay = keys.whole("warmup_iters", 2000), keys.whole("lr_decay_iters", 600_000, 1)
    last = keys.whole("max_iters", 600_000, 1)
    betas = [keys.number("beta1", 0.9), keys.number("beta2", 0.95)]
    into.choose("optimizer", "adamw", lr=peak, betas=betas, eps=1e-8, weight_decay=keys.number("weight_decay", 0.1))
    into.options["layers"] = "no_decay"  # decay for all that has two dimensions or more, as nanoGPT
    steps = last + 1
    into.note("nanoGPT makes one update more than max_iters")
    if not keys.flag("decay_lr", True):
        into.schedule("constant")
    else:
        if decay <= warmup:
            message = f"expected more than warmup_iters, which is {warmup}"
            raise ConfigError([Problem("lr_decay_iters", message, decay)])
        if not least and steps > decay:
            into.leave("max_iters", last, f"the run ends after {decay} updates: the LR of the others would be 0")
            steps = decay
        length = None if steps == decay else decay - warmup
        into.schedule("cosine", warmup=warmup, floor=f"{least!r} lr" if least else 0.0, shape_length=length)
    into.length(steps=steps)
    if "warmup_iters" not in keys or "lr_decay_iters" not in keys:
        into.note("what the file does not set has the default of nanoGPT's train.py, such as a warmup of 2,000 updates")
    batch, accumulated = keys.whole("batch_size", 12, 1), keys.whole("gradient_accumulation_steps", 40, 1)
    into.set("data", batch_size=batch, effective_batch_size=batch * accumulated)
    if (norm := keys.number("grad_clip", 1.0)) > 0:
        into.choose("clip", "norm", max_norm=norm)
    precision = {"bfloat16": "bf16-mixed", "float16": "16-mixed", "float32": None}
    if "dtype" in keys:
        into.set("trainer", precision=precision[keys.word("dtype", "float32", precision)])
    if keys.flag("compile"):
        into.set("trainer", compile=True)
    keys.rest(into, KNOWN, REASONS, TOOL)
