"""task=export: the weights of a trained run, or its network with the preprocessing, for use without lrflow."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrflow.config import Config
from lrflow.config.schemas.task import Export
from lrflow.data import DataModule
from lrflow.display import QuietConsole
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.files import remove_parts, write_json, write_whole
from lrflow.huggingface import HuggingFace
from lrflow.plan.table import describe
from lrflow.runs import read_json
from lrflow.tasks.evaluate import EVALUATIONS
from lrflow.tasks.result import Result
from lrflow.tasks.run_record import log_exports
from lrflow.tasks.trained import Trained
from lrflow.training.objective import predicted
from lrflow.training.preprocessing import Preprocessed, scale_and_shift

CARD = "export.json"
"""Name of the file that describes an export."""

FILES = {
    "safetensors": "model.safetensors",
    "state_dict": "model.pt",
    "torch_export": "model.pt2",
    "onnx": "model.onnx",
    "huggingface": "model.safetensors",
}
"""Name of the model's file by format."""


def run(config: Config) -> dict[str, Any]:
    """Export a run into `export/WEIGHTS-FORMAT/` of its folder.

    Returns:
        The folder of the export under `export`, and the run's under `folder`.

    Raises:
        ConfigError: there are no such weights, a package is missing, or the model cannot be exported in this format.
        LrflowError: what was written gives other outputs than the model.
    """
    task = config.task
    assert isinstance(task, Export)
    trained = Trained.read(config, task.source, task.weights, needs_data=False)
    folder = trained.folder.path / "export" / f"{trained.weights}-{task.to}"
    folder.mkdir(parents=True, exist_ok=True)
    remove_parts(folder)
    whole = task.to in ("torch_export", "onnx")
    if task.to == "huggingface":
        card = _export_pretrained(trained, folder)
    else:
        card = _export_network(trained, task.to, folder) if whole else _export_weights(trained, task.to, folder)
    for name, content in trained.data.export_files().items() if isinstance(trained.data, DataModule) else ():
        write_whole(folder / name, content)
    write_json(folder / CARD, {"format": task.to, "file": FILES[task.to], **card, **_facts(trained)})
    console = QuietConsole()
    files = ", ".join(sorted(path.name for path in folder.iterdir()))
    console.print(f"the {trained.weights} weights, of step {trained.step}", highlight=False)
    console.print(f"{folder}/: {files}", soft_wrap=True, highlight=False, markup=False)
    log_exports(config, trained.folder)
    return {"export": str(folder), "folder": str(trained.folder.path)}


def _export_pretrained(trained: Trained, folder: Path) -> dict[str, Any]:
    """Write a model of transformers as its `save_pretrained` does."""
    if not isinstance(trained.network, HuggingFace):
        message = f"needs a model of transformers; this one is {type(trained.network).__name__}"
        raise ConfigError([Problem("task.to", message, "huggingface", "task.to=safetensors")])
    trained.network.save(folder, trained.class_names)
    return {"tensors": len(trained.network.state_dict()), "input": {"shape": _input_shape(trained)}}


def _export_weights(trained: Trained, to: str, folder: Path) -> dict[str, Any]:
    """Write the weights by the network's own names, and the preprocessing as a scale and a shift."""
    weights = {name: value.detach().contiguous().clone() for name, value in trained.network.state_dict().items()}
    _write_tensors(weights, folder / FILES[to], to)
    shape = _input_shape(trained)
    card: dict[str, Any] = {"tensors": len(weights), "input": {"shape": shape}}
    name = type(trained.data).__name__
    if not isinstance(trained.data, DataModule):
        return {**card, "preprocessing": f"unknown to lrflow: {name} prepares its inputs itself"}
    if type(trained.data).normalise is DataModule.normalise:
        return {**card, "preprocessing": "inputs as float32"}
    file = folder / f"preprocessing{Path(FILES[to]).suffix}"
    if shape is not None and (found := scale_and_shift(trained.data, tuple(shape))):
        _write_tensors({"scale": found[0], "shift": found[1]}, file, to)
        return {**card, "preprocessing": "inputs * scale + shift", "preprocessing_file": file.name}
    kept = {name: value for name, value in trained.data.fitted.items() if isinstance(value, Tensor)}
    text = f"{name}.normalise, which is no scale and shift; task.to=torch_export has it in the graph"
    if not kept:
        return {**card, "preprocessing": text}
    _write_tensors({name: value.contiguous().clone() for name, value in kept.items()}, file, to)
    return {**card, "preprocessing": text, "preprocessing_file": file.name}


def _write_tensors(tensors: Mapping[str, Tensor], path: Path, to: str) -> None:
    if to == "safetensors":
        from safetensors.torch import save

        write_whole(path, save(dict(tensors), metadata={"format": "pt"}))
    else:
        write_whole(path, lambda file: torch.save(dict(tensors), file))


def _input_shape(trained: Trained) -> list[int] | None:
    """Return the shape of one input; None if the inputs are no single tensor."""
    example = trained.example()
    return list(example.shape[1:]) if isinstance(example, Tensor) else None


def _export_network(trained: Trained, to: str, folder: Path) -> dict[str, Any]:
    """Write the network with the preprocessing in front, and check its outputs against those of the module."""
    trained.check_forward("export")
    network: nn.Module = trained.network
    example = trained.example()
    if not isinstance(example, Tensor):
        message = f"needs a model of one tensor; this one gets {type(example).__name__}"
        raise ConfigError([Problem("task.to", message, to, "task.to=safetensors")])
    inputs, normalised = example[:2], example[:2]
    preprocessing = f"unknown to lrflow: {type(trained.data).__name__} prepares its inputs itself"
    if isinstance(trained.data, DataModule):
        known = trained.data.example_inputs()
        inputs = (trained.data.load()[0].inputs if known is None else known)[:2]
        inputs = inputs.float() if inputs.is_floating_point() else inputs
        units = trained.loss.units if trained.loss else None
        network, normalised = Preprocessed(network, trained.data, units).eval(), trained.data.normalise(inputs)
        preprocessing = "in the graph: it takes inputs as they are read"
    with torch.no_grad():
        expected = trained.network(normalised)
        if isinstance(expected, Tensor) and trained.loss is not None and trained.loss.units:
            expected = predicted(expected, trained.loss)
    if not isinstance(expected, Tensor):
        message = f"needs a model that returns one tensor; this one returns {type(expected).__name__}"
        raise ConfigError([Problem("task.to", message, to, "task.to=safetensors")])
    path = folder / FILES[to]
    try:
        found = _torch_export(network, inputs, path) if to == "torch_export" else _onnx(network, inputs, path)
    except Exception as error:  # torch's tracer raises many types, for code that it cannot trace
        first = str(error).strip().partition("\n")[0]
        message = f"{type(trained.network).__name__} cannot be traced: {first}"
        raise ConfigError([Problem("task.to", message, to, "task.to=safetensors")]) from error
    difference = float((found - expected).abs().max())
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
        path.unlink()
        message = f"task.to={to}: the outputs of the graph differ from those of the model by up to {difference:.3g}"
        raise LrflowError(message)
    shapes = {"shape": list(inputs.shape[1:]), "dtype": str(inputs.dtype).removeprefix("torch.")}
    output = {"shape": list(expected.shape[1:])}
    return {"input": shapes, "output": output, "preprocessing": preprocessing, "largest_difference": difference}


def _torch_export(network: nn.Module, inputs: Tensor, path: Path) -> Tensor:
    program = torch.export.export(network, (inputs,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    write_whole(path, lambda file: torch.export.save(program, file))
    output: Tensor = torch.export.load(path).module()(inputs)
    return output.detach()


def _onnx(network: nn.Module, inputs: Tensor, path: Path) -> Tensor:
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns that torchvision is not installed, and of calls of its own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.onnx.export(
                network, (inputs,), dynamo=True, dynamic_shapes=({0: torch.export.Dim.AUTO},),
                input_names=["inputs"], output_names=["outputs"], verbose=False,
            )  # fmt: skip
    finally:
        log.setLevel(level)
    assert program is not None
    model = program.model_proto
    write_whole(path, model.SerializeToString())
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(str(path))
    return torch.from_numpy(evaluator.run(None, {"inputs": inputs.numpy()})[0])


def _facts(trained: Trained) -> dict[str, Any]:
    """Return what a reader of an export wants to know of the run."""
    plan = Result.read(trained.folder.path).plan if trained.folder.read_summary() else None
    environment = read_json(trained.folder.path / "environment.json", dict)
    evaluations = [
        one
        for one in read_json(trained.folder.path / EVALUATIONS, list)
        if isinstance(one, dict) and one.get("step") == trained.step
    ]
    rates = {} if plan is None else {
        "peak": {group.name: group.lr for group in plan.trainable},
        "schedule": sorted({describe(curve) for curve, _ in plan.curves}),
        "steps": plan.horizon.steps,
        "fingerprint": plan.fingerprint,
    }  # fmt: skip
    return {
        "model": trained.config.model.target,
        "data": trained.config.data.target,
        "loss": str(trained.loss) if trained.loss else None,
        **({"classes": list(trained.class_names)} if trained.class_names else {}),
        **({"units": list(trained.loss.units)} if trained.loss and trained.loss.units else {}),
        **(
            {"inputs": columns}
            if isinstance(trained.data, DataModule) and (columns := trained.data.describe_inputs())
            else {}
        ),
        "weights": trained.weights,
        "step": trained.step,
        "checkpoint": trained.folder.relative(trained.checkpoint),
        "metrics": trained.folder.read_summary().get("metrics", {}),
        "evaluations": evaluations,
        "lr": rates,
        "command": environment.get("command"),
        "versions": environment.get("versions"),
    }
