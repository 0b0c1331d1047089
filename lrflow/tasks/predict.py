"""task=predict: the outputs of a trained run for a part of its data or for inputs of one's own, chunk by chunk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

from lrflow import assemble
from lrflow.config import Config
from lrflow.config.schemas.task import Predict
from lrflow.data import DataModule
from lrflow.display import QuietConsole
from lrflow.errors import LrflowError
from lrflow.files import remove_parts, write_json, write_whole
from lrflow.objectives import ChosenLoss
from lrflow.runs import read_json
from lrflow.tasks.predict_text import by_document, continue_prompt, token_rows, windows_of
from lrflow.tasks.prediction_files import Arrays, read_inputs, save_arrays, write_table
from lrflow.tasks.trained import Trained, inputs_of
from lrflow.training.objective import predicted
from lrflow.training.trainer import build_trainer
from lrflow.wording import counted

PREDICTIONS = "predictions"
"""Name of the folder of the predictions in a run folder."""

_REQUEST = "request.json"


class Batch(NamedTuple):
    """A batch to predict.

    Args:
        given: what the module's `predict_step` gets.
        inputs: what the network gets.
        targets: class numbers or numbers [examples], or tokens [examples, length]; None: unknown.
        files: the file of each example; None: a part of the data.
        marks: the document of each example in its file, and the bytes of that [examples, 2]; None: unknown.
    """

    given: Any
    inputs: Any
    targets: Tensor | None = None
    files: list[str] | None = None
    marks: Tensor | None = None


def run(config: Config) -> dict[str, Any]:
    """Predict, and write the predictions into the folder `predictions` of the run.

    A chunk of examples is written atomically once it is predicted. The same command resumes after the last chunk of a
    process that was killed, if checkpoint, data and inputs are the same.

    Returns:
        The number of `rows`, the `file`, and the run folder under `folder`.

    Raises:
        ConfigError: there are no such weights, no such part of the data, or inputs that do not fit the model.
        LrflowError: the model's outputs are no tensor with a row per example.
    """
    task = config.task
    assert isinstance(task, Predict)
    needs_data = task.inputs is None and task.prompt is None
    trained = Trained.read(config, task.source, task.weights, needs_data=needs_data)
    if task.prompt is not None:
        return continue_prompt(trained, task, PREDICTIONS)
    trained.check_forward("predict", "predict_step")
    files = read_inputs(task.inputs, trained.example(), trained.data) if task.inputs else None
    size = trained.loader(task.split).batch_size or 1 if files is None else 512
    batches = _of_split(trained, task.split) if files is None else _of_files(trained, files, size)
    title = task.split if task.inputs is None else Path(task.inputs).stem or "inputs"
    target = trained.folder.path / PREDICTIONS / f"{title}-{trained.weights}.{task.to}"
    request = {
        "checkpoint": trained.folder.relative(trained.checkpoint),
        "saved": trained.checkpoint.stat().st_mtime_ns,
        "step": trained.step,
        "split": task.split if files is None else None,
        "inputs": None if files is None else [list(file.identity) for file in files],
        "batches": [size, max(1, task.chunk // size)],
        "data": assemble.plain_config(config).get("data"),
    }
    console = QuietConsole()
    parts = target.with_name(f".{target.name}.parts")
    done = _started(parts, request)
    if done:
        console.print(f"resumes after {len(done)} saved chunks", highlight=False)
    per_chunk = max(1, task.chunk // size)
    left = islice(batches, len(done) * per_chunk, None)
    for path in _predicted(trained, left, per_chunk, parts, len(done)):
        done.append(path)
    if not done:
        raise LrflowError(f"there is nothing to predict: {title} has no example")
    arrays = [_read(path) for path in done]
    whole = {name: np.concatenate([one[name] for one in arrays]) for name in arrays[0]}
    if trained.is_language_model:
        whole = by_document(whole)
    remove_parts(target)
    rows = write_table(whole, target, task.to, trained.class_names)
    shutil.rmtree(parts)
    console.print(f"{counted(rows, 'row')} by the {trained.weights} weights, of step {trained.step}", highlight=False)
    console.print(str(target), soft_wrap=True, highlight=False, markup=False)
    return {"rows": rows, "file": str(target), "folder": str(trained.folder.path)}


def _started(parts: Path, request: dict[str, Any]) -> list[Path]:
    """Return the chunks that an earlier process has saved for the same request; those of another one are removed."""
    if parts.exists() and read_json(parts / _REQUEST, dict) != request:
        shutil.rmtree(parts)
    parts.mkdir(parents=True, exist_ok=True)
    write_json(parts / _REQUEST, request)
    found: list[Path] = []
    while (path := _chunk(parts, len(found))).exists():
        found.append(path)
    return found


def _chunk(parts: Path, number: int) -> Path:
    return parts / f"chunk-{number:06d}.npz"


def _read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as content:
        return dict(content)


def _of_split(trained: Trained, split: str) -> Iterator[Batch]:
    for batch in trained.loader(split):
        pair = isinstance(batch, list | tuple) and len(batch) == 2
        dimensions = 2 if trained.is_language_model else 1
        targets = batch[1] if pair and isinstance(batch[1], Tensor) and batch[1].ndim == dimensions else None
        yield Batch(batch, inputs_of(batch), targets)


def _of_files(trained: Trained, files: Any, size: int) -> Iterator[Batch]:
    """Yield batches of inputs, normalised as the training's; a batch may span several files."""
    pieces: list[Any] = []
    names: list[str] = []
    for file in files:
        start = 0
        while start < len(file.inputs):
            piece = file.inputs[start : start + size - len(names)]
            pieces.append(piece)
            names += [file.path.name] * len(piece)
            start += len(piece)
            if len(names) == size:
                yield _of_pieces(trained, pieces, names)
                pieces, names = [], []
    if names:
        yield _of_pieces(trained, pieces, names)


def _of_pieces(trained: Trained, pieces: list[Any], names: list[str]) -> Batch:
    inputs = trained.normalise(torch.from_numpy(np.concatenate(pieces)))
    if isinstance(trained.data, DataModule) and trained.data.next_token is not None:
        inputs, targets, marks = windows_of(inputs)
        return Batch(inputs, inputs, targets, names, marks)
    return Batch(inputs, inputs, None, names)


def _predicted(trained: Trained, batches: Iterator[Batch], per_chunk: int, parts: Path, number: int) -> Iterator[Path]:
    """Predict batches, and yield the file of each chunk once it is on the disk."""
    own = trained.config.trainer
    options = {"accelerator": own.accelerator, "precision": own.precision, "devices": 1}
    trainer = build_trainer(options, trained.folder.path, [], trained.config.trainer.log_every)
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    module: Any = precision.convert_module(trained.module.to(device)).eval()
    with torch.inference_mode():
        while chunk := list(islice(batches, per_chunk)):
            rows = []
            for index, batch in enumerate(chunk):
                with precision.forward_context():
                    rows.append(_rows(module, batch, index, device, trained))
            whole = {name: np.concatenate([one[name] for one in rows]) for name in rows[0]}
            path = _chunk(parts, number)
            write_whole(path, lambda file, whole=whole: save_arrays(file, whole))  # type: ignore[misc]
            number += 1
            yield path


def _rows(module: pl.LightningModule, batch: Batch, index: int, device: torch.device, trained: Trained) -> Arrays:
    """Return the predictions of a batch: outputs, and of classifiers probabilities and classes."""
    if is_overridden("predict_step", module):
        outputs = module.predict_step(module.transfer_batch_to_device(batch.given, device, 0), index)
    else:
        outputs = module(module.transfer_batch_to_device(batch.inputs, device, 0))
    if not isinstance(outputs, Tensor) or not outputs.ndim:
        raise LrflowError(f"{type(trained.network).__name__} returns {type(outputs).__name__}, not a row per example")
    outputs = outputs.float().cpu()
    rows: Arrays = {} if batch.files is None else {"input": np.array(batch.files)}
    if trained.is_language_model and batch.targets is not None:
        if batch.marks is not None:
            rows |= {"document": batch.marks[:, 0].numpy(), "bytes": batch.marks[:, 1].numpy()}
        return {**rows, **token_rows(outputs, batch.targets)}
    if batch.targets is not None and len(batch.targets) == len(outputs):
        rows["target"] = batch.targets.cpu().numpy()
    loss = trained.loss
    if loss is None or outputs.ndim != 2:
        return {**rows, "output": outputs.reshape(len(outputs), -1).numpy()}
    if loss.kind == "classes":
        rows["class"] = outputs.argmax(1).numpy()
        if trained.class_names:
            names = np.array(trained.class_names)
            rows |= {name: names[rows[name]] for name in ("target", "class") if name in rows}
    name, values = _named(outputs, loss)
    target = trained.data.target_name if isinstance(trained.data, DataModule) else None
    if name == "output" and target and values.shape[1] == 1:
        return {**rows, f"predicted_{target}": values[:, 0].numpy()}
    return {**rows, name: values.numpy()}


def _named(outputs: Tensor, loss: ChosenLoss) -> tuple[str, Tensor]:
    """Return the outputs of a model as what they are to its loss: probabilities, rates or predictions."""
    if loss.outputs == "logits" and loss.kind in ("classes", "labels"):
        return "probability", outputs.softmax(1) if loss.kind == "classes" else outputs.sigmoid()
    if loss.outputs == "log_probabilities":
        return "probability", outputs.exp()
    return ("probability" if loss.outputs == "probabilities" else "output"), predicted(outputs, loss)
