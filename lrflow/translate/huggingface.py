"""Training arguments of Hugging Face's transformers (5.23, and the older spellings): JSON, YAML or flags."""

from __future__ import annotations

import math

from lrflow.errors import ConfigError, Problem
from lrflow.translate.facts import Facts
from lrflow.translate.files import Source, sibling
from lrflow.translate.huggingface_schedules import Schedules
from lrflow.translate.keys import Keys, names
from lrflow.translate.translation import Translation

TOOL = "Hugging Face's training arguments"
SIGNS = ("per_device_train_batch_size", "lr_scheduler_type", "num_train_epochs", "gradient_accumulation_steps", "optim")
KNOWN = names(
    """
    accelerator_config activation_checkpointing activation_checkpointing_kwargs adafactor adam_beta1 adam_beta2
    adam_epsilon auto_find_batch_size average_tokens_across_devices batch_eval_metrics bf16 bf16_full_eval data_seed
    dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers
    dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers
    ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed disable_tqdm
    dispatch_batches do_eval do_predict do_train enable_jit_checkpoint eval_accumulation_steps eval_delay
    eval_do_concat_batches eval_on_start eval_steps eval_strategy eval_use_gather_object evaluation_strategy fp16
    fp16_backend fp16_full_eval fp16_opt_level fsdp fsdp_config fsdp_min_num_params
    fsdp_transformer_layer_cls_to_wrap full_determinism gradient_accumulation_steps gradient_checkpointing
    gradient_checkpointing_kwargs greater_is_better group_by_length half_precision_backend hub_always_push
    hub_model_id hub_private_repo hub_revision hub_strategy hub_token ignore_data_skip include_for_metrics
    include_inputs_for_metrics include_num_input_tokens_seen include_tokens_per_second jit_mode_eval label_names
    label_smoothing_factor learning_rate length_column_name liger_kernel_config load_best_model_at_end local_rank
    log_level log_level_replica log_on_each_node logging_dir logging_first_step logging_nan_inf_filter logging_steps
    logging_strategy lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_steps metric_for_best_model
    mp_parameters neftune_noise_alpha no_cuda num_train_epochs optim optim_args optim_target_modules output_dir
    overwrite_output_dir parallelism_config past_index per_device_eval_batch_size per_device_train_batch_size
    per_gpu_eval_batch_size per_gpu_train_batch_size prediction_loss_only project push_to_hub push_to_hub_model_id
    push_to_hub_organization push_to_hub_token ray_scope remove_unused_columns report_to
    restore_callback_states_from_checkpoint resume_from_checkpoint run_name save_on_each_node save_only_model
    save_safetensors save_steps save_strategy save_total_limit seed skip_memory_metrics split_batches tf32
    torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps torchdynamo tpu_metrics_debug
    tpu_num_cores trackio_bucket_id trackio_space_id trackio_static_space_id train_sampling_strategy use_cache
    use_cpu use_ipex use_legacy_prediction_loop use_liger_kernel use_mps_device warmup_ratio warmup_steps
    weight_decay
    """
)
REASONS = {
    "output_dir": "output=FOLDER",
    "run_name": "name=NAME",
    "report_to": "logger=wandb, or another option of the group",
    "label_smoothing_factor": "model.loss.label_smoothing, see docs/training.md",
    "group_by_length": "no counterpart; it changes the order of the data, not the LR",
    "dataloader_num_workers": "data.num_workers, if the data has it",
    "gradient_checkpointing": "no counterpart: it saves memory and changes no result",
    "deepspeed": "trainer.strategy; a scheduler in DeepSpeed's own config would replace this one",
    "fsdp": "trainer.strategy=fsdp",
    "eval_steps": "trainer.val_every=N",
    "save_steps": "trainer.checkpoint.every=N",
    "save_total_limit": "trainer.checkpoint.keep=N",
    "logging_steps": "trainer.log_every=N",
    "metric_for_best_model": "trainer.checkpoint.monitor=val/NAME",
    "resume_from_checkpoint": "resume=PATH, of a run of lrflow",
    "neftune_noise_alpha": "no counterpart: the noise is part of the model",
    "optim_target_modules": "layers.rules, see docs/layers.md",
}
OPTIMIZERS = {
    "adamw": [
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_torch_xla",
        "adamw_torch_npu_fused",
        "adamw_hf",
        "adamw_apex_fused",
        "adamw_anyprecision",
        "adamw_bnb_8bit",
        "adamw_8bit",
        "adamw_torch_4bit",
        "adamw_torch_8bit",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
    ],
    "sgd": ["sgd"],
    "adagrad": ["adagrad"],
    "rmsprop": ["rmsprop", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"],
    "lion": ["lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit"],
    "ademamix": ["ademamix", "ademamix_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit"],
    "schedule_free_adamw": ["schedule_free_adamw"],
    "schedule_free_radam": ["schedule_free_radam"],
    "schedule_free_sgd": ["schedule_free_sgd"],
    "stable_adamw": ["stable_adamw"],
}
_BETAS = ("adamw", "lion", "schedule_free_adamw", "schedule_free_radam", "stable_adamw")


def translate(source: Source, facts: Facts, into: Translation) -> None:
    """Translate training arguments.

    Raises:
        ConfigError: a value is wrong, or the LR depends on facts that are missing.
    """
    keys = Keys(source.data)
    if "log_history" in source.data:
        hint = "give the training arguments: json.dump(args.to_dict(), file) writes them"
        raise ConfigError([Problem("lrflow translate", "is the state of a run, not its config", source.name, hint)])
    for old, new in (("per_gpu_train_batch_size", "per_device_train_batch_size"), ("adafactor", "optim")):
        if old in keys and new not in keys and keys.raw(old):
            keys = Keys({**source.data, new: "adafactor" if old == "adafactor" else source.data[old]})
    steps = _length(keys, facts, into, source)
    peak = keys.number("learning_rate", 5e-5)
    _optimizer(keys, into, peak)
    Schedules(keys, into, peak, steps, facts).choose()
    if (norm := keys.number("max_grad_norm", 1.0)) > 0:
        into.choose("clip", "norm", max_norm=norm)
        if "max_grad_norm" not in keys:
            into.note("transformers clips the gradient norm at 1 unless max_grad_norm says otherwise")
    into.values["seed"] = keys.whole("seed", 42)
    if keys.flag("bf16") or keys.flag("fp16"):
        into.set("trainer", precision="bf16-mixed" if keys.flag("bf16") else "16-mixed")
    if keys.flag("torch_compile"):
        into.set("trainer", compile=True)
    keys.rest(into, KNOWN, REASONS, TOOL)


def _length(keys: Keys, facts: Facts, into: Translation, source: Source) -> int | None:
    """Set batch and length of the run, and return its optimizer steps if they are known."""
    batch = keys.whole("per_device_train_batch_size", 8, 1)
    accumulated = keys.whole("gradient_accumulation_steps", 1, 1)
    drop_last = keys.flag("dataloader_drop_last")
    into.set("data", batch_size=batch)
    if facts.devices is None:
        into.set("trainer", accumulate_grad_batches=accumulated)
        into.note(f"a step has {batch * accumulated} examples per device; --devices N fixes their sum")
    else:
        into.set("data", effective_batch_size=batch * accumulated * facts.devices)
    most, count = int(keys.number("max_steps", -1, -math.inf)), keys.number("num_train_epochs", 3.0)
    if most > 0:
        into.length(steps=most)
        return most
    state = sibling(source.path, "trainer_state.json").get("max_steps")
    if isinstance(state, int) and not isinstance(state, bool) and state > 0:
        into.note("the number of steps is that of trainer_state.json beside the file")
        into.length(steps=state)
        return state
    if not float(count).is_integer():
        facts.need("--devices", "--samples", reason=f"num_train_epochs={count:g} is no whole number of epochs")
    if facts.samples is not None:
        facts.need("--devices", reason="the steps of an epoch depend on the devices")
        steps = math.ceil(count * facts.steps_per_epoch(batch, accumulated, drop_last))
        into.length(**({"epochs": int(count)} if float(count).is_integer() else {"steps": steps}))
        return steps
    into.length(epochs=int(count))
    return None


def _optimizer(keys: Keys, into: Translation, peak: float) -> None:
    """Choose the optimizer; all of them leave biases and norms without weight decay."""
    known = [name for names in OPTIMIZERS.values() for name in names]
    name = keys.raw("optim", "adamw_torch")
    option = next((option for option, names in OPTIMIZERS.items() if name in names), "adamw")
    if name not in known:
        into.leave("optim", name, "no counterpart: AdamW stands in its place; choose another with optimizer=NAME")
    elif "bit" in str(name) or "paged" in str(name):
        into.note(f"optim={name} keeps its state in fewer bits; lrflow's {option} keeps it in full")
    betas = [keys.number("adam_beta1", 0.9), keys.number("adam_beta2", 0.999)]
    eps = keys.number("adam_epsilon", 1e-8)
    extra = _arguments(keys)
    given = {"lr": peak, "weight_decay": keys.number("weight_decay", 0.0)}
    if option in _BETAS:
        given["betas"] = betas
        if option != "lion":
            given["eps"] = eps
    if option == "sgd":
        given["momentum"] = float(extra.pop("momentum", 0.0))
    if option == "rmsprop":  # torch's defaults
        given |= {name: float(extra.pop(name, default)) for name, default in (("alpha", 0.99), ("momentum", 0.0))}
    if extra:
        into.leave("optim_args", keys.given.get("optim_args"), f"set what it names under optimizer: {', '.join(extra)}")
    into.choose("optimizer", option, **given)
    into.options["layers"] = "no_decay"


def _arguments(keys: Keys) -> dict[str, str]:
    """Return `optim_args`, a text such as `momentum=0.9,nesterov=true`, by name."""
    parts = str(keys.raw("optim_args", "")).replace(" ", "").split(",")
    return {name: value for name, _, value in (part.partition("=") for part in parts) if name}
