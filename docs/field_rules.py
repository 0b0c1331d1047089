"""The LR rules of published training recipes, written out from their code or papers, without lrflow's formulas.

Each rule gives the LR at every step of a run, counted from 0: of all groups alike, or a dict by the name of the group.
`docs/recipes_of_the_field.py` compares the rules with the plans of the recipes in `docs/field/recipe/`, and
`docs/field.yaml` says where each rule was read.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rates = Floats | dict[str, Floats]
"""LRs of all groups alike, or by the name of the group."""
IMAGENET = 1_281_167


def half_cosine(done: Floats) -> Floats:
    """Half a cosine from 1 to 0."""
    return 0.5 * (1.0 + np.cos(math.pi * done))


def up_then_cosine(peak: float, warmup: float, total: float, end: float = 0.0) -> Callable[[Floats], Floats]:
    """t / warmup, then half a cosine that begins at its end: transformers, MAE, LLaMA and many others."""

    def rule(t: Floats) -> Floats:
        falling = end + (peak - end) * half_cosine(np.minimum((t - warmup) / (total - warmup), 1.0))
        return np.where(t < warmup, peak * t / warmup, falling)

    return rule


def up_then_line(peak: float, warmup: float, total: float) -> Callable[[Floats], Floats]:
    """t / warmup, then a line to 0: fairseq's polynomial decay of power 1, Whisper."""
    return lambda t: np.where(t <= warmup, peak * t / warmup, peak * (1.0 - (t - warmup) / (total - warmup)))


def drops(peak: float, gamma: float, *at: float) -> Callable[[Floats], Floats]:
    """The LR times gamma at each of these steps."""
    return lambda t: peak * gamma ** np.searchsorted(at, t, side="right").astype(np.float64)


def per_epoch(rule: Callable[[Floats], Floats], steps: int) -> Callable[[Floats], Floats]:
    """The LR of a rule that counts epochs and is set once per epoch of so many steps."""
    return lambda t: rule(t // steps)


def timm_cosine(peak: float, warmup: float, total: float, start: float, end: float) -> Callable[[Floats], Floats]:
    """timm's CosineLRScheduler without `warmup_prefix`: the cosine runs from 0 on, below the warmup."""

    def rule(t: Floats) -> Floats:
        rising = start + t * (peak - start) / warmup
        return np.where(t < warmup, rising, end + (peak - end) * half_cosine(t / total))

    return rule


def linspace_then_cosine(peak: float, warmup: int, total: int, end: float) -> Callable[[Floats], Floats]:
    """`cosine_scheduler` of DINO, ConvNeXt and BEiT: an array of all LRs."""

    def rule(t: Floats) -> Floats:
        falling = np.arange(total - warmup, dtype=np.float64)
        values = end + (peak - end) * half_cosine(falling / len(falling))
        return np.concatenate((np.linspace(0.0, peak, warmup), values))[t.astype(int)]

    return rule


def torchvision_v2(epoch: Floats) -> Floats:
    """LinearLR from a hundredth over 5 epochs, then CosineAnnealingLR over the other 595."""
    return 0.5 * np.where(epoch < 5, 0.01 + 0.99 * epoch / 5, half_cosine((epoch - 5) / 595))


def imagenet_in_1_hour(t: Floats) -> Floats:
    """From 0.1 to 3.2 in 5 epochs, by a constant amount per iteration; a tenth after 30, 60 and 80 epochs."""
    epoch = t / 157
    return np.where(epoch < 5, 0.1 + (3.2 - 0.1) * epoch / 5, drops(3.2, 0.1, 30 * 157, 60 * 157, 80 * 157)(t))


def swin(t: Floats) -> Floats:
    """timm's cosine after its warmup; the scheduler is stepped with the number of the step that is over."""
    clock, warmup, total = np.maximum(t - 1, 0), 20 * 1251, 300 * 1251
    rising = 1e-6 + clock * (1e-3 - 1e-6) / warmup
    return np.where(clock < warmup, rising, 1e-5 + (1e-3 - 1e-5) * half_cosine((clock - warmup) / (total - warmup)))


def deit(t: Floats) -> Floats:
    """timm's cosine, stepped after each epoch with the number of the epoch that is over."""
    return timm_cosine(1e-3, 5, 300, 1e-6, 1e-5)(np.maximum(t // 1251 - 1, 0))


def vit_g(t: Floats) -> Floats:
    """Products of an inverse square root, a warmup and a cooldown, as in `create_learning_rate_schedule`."""
    decay = np.where(t >= 10_000, 1 / np.sqrt(1 + (np.maximum(t, 10_000) - 10_000) / 10_000), 1.0)
    return 8e-4 * decay * np.minimum(1, t / 10_000) * np.minimum(1, (1_000_000 - t) / 50_000)


def efficientnet(t: Floats) -> Floats:
    """An epoch has 625.57 steps; the exponent is rounded down."""
    epoch = IMAGENET / 2048
    lr = 0.128 * 0.97 ** np.floor(t / (epoch * 2.4))
    warmup = int(5 * epoch)
    return np.where(t < warmup, 0.128 * t / warmup, lr)


def yolov5(t: Floats) -> Rates:
    """numpy.interp between 0 (biases: 0.1) and the line of the epoch, in the first 3 epochs of 1,849 batches."""
    line = 0.01 * ((1 - (t // 1849) / 300) * (1.0 - 0.01) + 0.01)
    up = np.minimum(t / (3 * 1849), 1.0)
    return {"weights": up * line, "norms": up * line, "biases": 0.1 + up * (line - 0.1)}


def airbench(t: Floats) -> Rates:
    """Lines to 0, and one that ends after 3 of 8 epochs."""
    line = 1 - t / 200
    return {"filters": 0.24 * line, "head": 0.67 * line, "scales": 0 * line, "biases": 0.053 * line}


def minicpm(t: Floats) -> Floats:
    """0.5 to the power of (s - S) / T after the stable phase."""
    return 0.01 * np.where(t < 1000, t / 1000, 0.5 ** (np.maximum(t - 254_000, 0) / 5000))


def deepseek_v3(t: Floats) -> Floats:
    """Constant to 10T tokens, a cosine over 4.3T, 2.2e-5 for 333B and 7.3e-6 for 167B."""
    a, b, c = 158_946, 158_946 + 68_347, 158_946 + 68_347 + 5_293
    falling = 2.2e-5 + (2.2e-4 - 2.2e-5) * half_cosine((t - a) / (b - a))
    return np.select([t < 2000, t < a, t < b, t < c], [2.2e-4 * t / 2000, 2.2e-4, falling, 2.2e-5], 7.3e-6)


def transformer(t: Floats) -> Floats:
    """d^-0.5 min(step^-0.5, step warmup^-1.5), steps counted from 1."""
    return 512**-0.5 * np.minimum((t + 1) ** -0.5, (t + 1) * 4000**-1.5)


def transformer_xl(t: Floats) -> Floats:
    """The first step is made at the LR of the optimizer; then each LR is set after a step, by its number."""
    falling = 2.5e-4 * half_cosine(t / 4_000_000)
    return np.where(t == 0, 2.5e-4, np.where(t < 16_000, 2.5e-4 * t / 16_000, falling))


def ulmfit(t: Floats) -> Rates:
    """Slanted triangular LRs (formula 3) at 1/2.6 per layer down, one layer more per epoch of 100 steps."""
    cut = math.floor(1000 * 0.1)
    p = np.where(t < cut, t / cut, 1 - (t - cut) / (cut * (1 / 0.1 - 1)))
    top = 0.01 * (1 + p * (32 - 1)) / 32
    names = ("head", "stage3.linear", "stage2.linear", "stage1.linear")
    return {name: np.where(t >= 100 * down, top / 2.6**down, 0.0) for down, name in enumerate(names)}


def pythia(t: Floats) -> Floats:
    """max(1, n) / warmup, so that the first two steps have the same LR."""
    return np.where(t <= 1430, 1.2e-4 * np.maximum(t, 1) / 1430, up_then_cosine(1.2e-4, 1430, 143_000, 1.2e-5)(t))


def olmo2(t: Floats) -> Floats:
    """A cosine between token counts."""
    return up_then_cosine(3e-4, 8_388_608_000, 5e12, 3e-5)(t * 1024 * 4096)


def tri_stage(t: Floats) -> Floats:
    """Up in 2,000 steps from a hundredth, constant for 8,000, down to a twentieth in 10,000."""
    falling = np.exp(math.log(0.05) * (t - 10_000) / 10_000)
    return 5e-5 * np.select([t < 2000, t < 10_000], [0.01 + 0.99 * t / 2000, 1.0], falling)


def sgdr(t: Floats) -> Floats:
    """Cosines of 10, 20, 40 and 80 epochs of 391 batches."""
    epoch = t / 391
    start = np.select([epoch < 10, epoch < 30, epoch < 70], [0.0, 10.0, 30.0], 70.0)
    return 0.05 * half_cosine((epoch - start) / np.select([start == 0, start == 10, start == 30], [10, 20, 40], 80))


def mae_layer(name: str) -> float:
    """0.65 per layer from the head down, for a ViT of 12 blocks."""
    parts = name.split(".")
    if parts[0] in ("cls_token", "pos_embed", "patch_embed"):
        layer = 0
    else:
        layer = int(parts[1]) + 1 if parts[0] == "blocks" else 13
    return 0.65 ** (13 - layer)


Rule = Callable[[Floats], Rates]

RULES: dict[str, Rule] = {
    "resnet50_torchvision": per_epoch(lambda epoch: 0.1 * 0.1 ** (epoch // 30), 5005),
    "resnet50_torchvision_v2": per_epoch(torchvision_v2, 1252),
    "resnet50_in_1_hour": imagenet_in_1_hour,
    "resnet50_a3": per_epoch(timm_cosine(8e-3, 5, 100, 1e-5, 0.0), 625),
    "deit_base": deit,
    "swin_tiny": swin,
    "convnext_tiny": linspace_then_cosine(4e-3, 20 * 312, 300 * 312, 1e-6),
    "mae_pretrain": up_then_cosine(2.4e-3, 40 * 312, 800 * 312),
    "mae_finetune": up_then_cosine(2e-3, 5 * 1251, 100 * 1251, 1e-6),
    "vit_s16_augreg": up_then_cosine(1e-3, 10_000, 112_590),
    "vit_g14": vit_g,
    "efficientnet_b0": efficientnet,
    "mobilenet_v2": per_epoch(lambda epoch: 0.045 * 0.98**epoch, 5005),
    "yolov5": yolov5,
    "detectron2_3x": lambda t: (
        np.where(t < 1000, 0.001 + (1 - 0.001) * t / 1000, 1.0) * drops(0.02, 0.1, 210_000, 250_000)(t)
    ),
    "detr": lambda t: {
        "backbone": 1e-5 * 0.1 ** (t // 1849 // 200),
        "transformer": 1e-4 * 0.1 ** (t // 1849 // 200),
    },
    "nnunet": per_epoch(lambda epoch: 1e-2 * (1 - epoch / 1000) ** 0.9, 250),
    "wide_resnet": drops(0.1, 0.2, 60 * 391, 120 * 391, 160 * 391),
    "sgdr": sgdr,
    "airbench94": airbench,
    "simclr": up_then_cosine(4.8, 3127, 31_279),
    "moco_v3": up_then_cosine(2.4e-3, 40 * 312, 300 * 312),
    "dino": linspace_then_cosine(2e-3, 10 * 1251, 100 * 1251, 1e-6),
    "open_clip": lambda t: np.where(
        t < 2000, 5e-4 * (t + 1) / 2000, up_then_cosine(5e-4, 2000, 32 * 12_000)(np.maximum(t, 2000))
    ),
    "bert": lambda t: np.where(t < 10_000, 1e-4 * t / 10_000, 1e-4 * (1 - t / 1_000_000)),
    "roberta": up_then_line(6e-4, 24_000, 500_000),
    "nanogpt": lambda t: np.where(
        t < 2000, 6e-4 * (t + 1) / 2001, up_then_cosine(6e-4, 2000, 600_000, 6e-5)(np.maximum(t, 2000))
    ),
    "llama2": up_then_cosine(3e-4, 2000, 500_000, 3e-5),
    "llama3": up_then_cosine(8e-5, 8000, 1_200_000, 8e-7),
    "olmo2": olmo2,
    "minicpm_wsd": minicpm,
    "deepseek_v2_lite": lambda t: np.where(
        t < 2000, 4.2e-4 * t / 2000, drops(4.2e-4, 0.316, 0.8 * 302_000, 0.9 * 302_000)(t)
    ),
    "deepseek_v3": deepseek_v3,
    "t5": lambda t: 1 / np.sqrt(np.maximum(t, 10_000)),
    "transformer": transformer,
    "transformer_xl": transformer_xl,
    "ulmfit": ulmfit,
    "pythia": pythia,
    "whisper": up_then_line(1e-3, 2048, 1_048_576),
    "wav2vec2_finetune": tri_stage,
    "hifi_gan": per_epoch(lambda epoch: 2e-4 * 0.999**epoch, 809),
    "ddpm": lambda t: 2e-4 * np.minimum(t / 5000, 1.0),
    "stable_diffusion": lambda t: 1e-4 * np.minimum(1e-6 + (1 - 1e-6) / 10_000 * t, 1.0),
    "ppo_atari": lambda t: (1 - (t // 16) / 9765) * 2.5e-4,
    "alphazero": drops(0.2, 0.1, 100_000, 300_000, 500_000),
    "alphafold2": lambda t: np.where(t * 128 < 128_000, 1e-3 * t * 128 / 128_000, drops(1e-3, 0.95, 50_000)(t)),
}

SETTINGS: dict[str, dict[str, Callable[[Floats], Floats]]] = {
    "yolov5": {"momentum": lambda t: 0.8 + (0.937 - 0.8) * np.minimum(t / (3 * 1849), 1.0)},
    "moco_v3": {"scalar/teacher_momentum": lambda t: 1 - half_cosine(t / (300 * 312)) * (1 - 0.99)},
    "dino": {
        "scalar/teacher_momentum": lambda t: 1 + (0.996 - 1) * half_cosine(t / (100 * 1251)),
        "weight_decay": lambda t: 0.4 + (0.04 - 0.4) * half_cosine(t / (100 * 1251)),
    },
}
"""Rules of what moves besides the LR, by its name in the plan."""

SCALES: dict[str, Callable[[str], float]] = {"mae_finetune": mae_layer}
"""The LR of a parameter as a multiple of the rule's, from its name, for recipes with an LR per layer."""
