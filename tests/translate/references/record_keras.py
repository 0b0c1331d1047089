"""Writes keras.json: the LR at each step of Keras's schedules and optimizers, and where its ReduceLROnPlateau cuts.

    pip install keras==3.15.1 torch    # in an environment of its own: lrflow does not need Keras
    KERAS_BACKEND=torch python tests/translate/references/record_keras.py

Schedules are computed in 64 bits, so that a comparison shows more than the rounding of Keras's 32 bits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

STEPS = 130
SCHEDULES: dict[str, dict[str, Any]] = {
    "exponential": {"class_name": "ExponentialDecay", "config": {
        "initial_learning_rate": 0.1, "decay_steps": 20, "decay_rate": 0.5, "staircase": False}},
    "exponential in stairs": {"class_name": "ExponentialDecay", "config": {
        "initial_learning_rate": 0.1, "decay_steps": 20, "decay_rate": 0.5, "staircase": True}},
    "inverse time": {"class_name": "InverseTimeDecay", "config": {
        "initial_learning_rate": 0.01, "decay_steps": 8, "decay_rate": 0.3, "staircase": False}},
    "inverse time in stairs": {"class_name": "InverseTimeDecay", "config": {
        "initial_learning_rate": 0.01, "decay_steps": 8, "decay_rate": 0.3, "staircase": True}},
    "polynomial": {"class_name": "PolynomialDecay", "config": {
        "initial_learning_rate": 0.02, "decay_steps": 100, "end_learning_rate": 0.001, "power": 2.0, "cycle": False}},
    "polynomial in cycles": {"class_name": "PolynomialDecay", "config": {
        "initial_learning_rate": 0.02, "decay_steps": 40, "end_learning_rate": 0.001, "power": 1.0, "cycle": True}},
    "pieces": {"class_name": "PiecewiseConstantDecay", "config": {
        "boundaries": [30, 90], "values": [0.01, 0.05, 0.005]}},
    "cosine": {"class_name": "CosineDecay", "config": {
        "initial_learning_rate": 0.01, "decay_steps": 90, "alpha": 0.1, "warmup_target": None, "warmup_steps": 7}},
    "cosine after a warmup": {"class_name": "CosineDecay", "config": {
        "initial_learning_rate": 1e-4, "decay_steps": 90, "alpha": 0.01, "warmup_target": 0.01, "warmup_steps": 25}},
    "cosine after a fall": {"class_name": "CosineDecay", "config": {
        "initial_learning_rate": 0.1, "decay_steps": 90, "alpha": 0.01, "warmup_target": 0.01, "warmup_steps": 25}},
    "restarts": {"class_name": "CosineDecayRestarts", "config": {
        "initial_learning_rate": 0.01, "first_decay_steps": 20, "t_mul": 2.0, "m_mul": 0.8, "alpha": 0.05}},
    "restarts of one length": {"class_name": "CosineDecayRestarts", "config": {
        "initial_learning_rate": 0.01, "first_decay_steps": 32, "t_mul": 1.0, "m_mul": 1.0, "alpha": 0.0}},
    "restarts of uneven lengths": {"class_name": "CosineDecayRestarts", "config": {
        "initial_learning_rate": 0.01, "first_decay_steps": 30, "t_mul": 1.5, "m_mul": 1.0, "alpha": 0.1}},
}  # fmt: skip
ACCUMULATED = 4

PLATEAUS: dict[str, dict[str, Any]] = {
    "patience": {"factor": 0.5, "patience": 3},
    "none": {"factor": 0.5, "patience": 0},
    "cooldown": {"factor": 0.5, "patience": 2, "cooldown": 4},
    "cooldown of one": {"factor": 0.5, "patience": 2, "cooldown": 1},
    "lowest": {"factor": 0.1, "patience": 1, "min_lr": 1e-4, "min_delta": 0.05},
}
LOSSES = [*np.round(1.0 + 0.3 * np.random.default_rng(3).standard_normal(60), 3).tolist()]


def schedule(node: dict[str, Any]) -> Any:
    """Return the schedule of a config."""
    return getattr(keras.optimizers.schedules, node["class_name"])(**node["config"])


def accumulated(node: dict[str, Any]) -> list[float]:
    """Return the LR of each update of an optimizer that updates after every few batches, by the weights it leaves."""
    weight = keras.Variable(np.zeros(1))
    optimizer = keras.optimizers.SGD(schedule(node), gradient_accumulation_steps=ACCUMULATED)
    rates, before = [], 0.0
    for _ in range(STEPS // ACCUMULATED * ACCUMULATED):
        optimizer.apply([keras.ops.ones(1)], [weight])
        after = float(weight.numpy()[0])
        if after != before:
            rates.append(before - after)
        before = after
    return rates


def cuts(arguments: dict[str, Any]) -> list[float]:
    """Return the LR after each epoch."""
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    callback = keras.callbacks.ReduceLROnPlateau(mode="min", **arguments)
    callback.set_model(model)
    callback.on_train_begin()
    rates = []
    for epoch, loss in enumerate(LOSSES):
        callback.on_epoch_end(epoch, {"val_loss": loss})
        rates.append(float(model.optimizer.learning_rate.numpy()))
    return rates


def main() -> None:
    """Write the file."""
    keras.config.set_floatx("float64")
    parts = {
        "schedules": {
            name: {"config": node, "lr": [float(schedule(node)(step)) for step in range(STEPS)]}
            for name, node in SCHEDULES.items()
        },
        "accumulated": {name: accumulated(SCHEDULES[name]) for name in ("cosine after a warmup", "polynomial")},
        "plateaus": {name: {"config": node, "lr": cuts(node)} for name, node in PLATEAUS.items()},
    }
    lines = [f'"keras": "{keras.__version__}"', f'"losses": {json.dumps(LOSSES)}']
    for part, entries in parts.items():
        rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
        lines.append(f'"{part}": {{\n{rows}\n}}')
    Path(__file__).with_name("keras.json").write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
