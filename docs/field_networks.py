"""Small networks with the parameter names of published ones, for the recipes whose LRs differ per layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A transformer block by timm's names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.Sequential()
        self.attn.add_module("qkv", nn.Linear(width, 3 * width))
        self.attn.add_module("proj", nn.Linear(3 * width, width))
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(width, width))
        self.mlp.add_module("fc2", nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream after both branches."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """A vision transformer of 12 blocks by timm's names, on images of 8 x 8."""

    def __init__(self, width: int = 4, outputs: int = 10) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, width))
        self.patch_embed = nn.Conv2d(1, width, 4, 4)
        self.blocks = nn.ModuleList(Block(width) for _ in range(12))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the classes."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x[:, 0]))
        return out


class Detector(nn.Module):
    """A backbone and what follows it."""

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(1, 4, 3)
        self.transformer = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the classes."""
        out: Tensor = self.transformer(self.backbone(x).mean((2, 3)))
        return out


class Student(nn.Module):
    """A network that reads the momentum of its teacher from the plan."""

    def __init__(self, inputs: int = 64, outputs: int = 10) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, outputs)
        self.teacher = nn.Linear(inputs, outputs).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the classes, after an update of the teacher."""
        momentum = self.planned("teacher_momentum", 1.0)  # type: ignore[operator]  # lrflow gives it to the network
        for old, new in zip(self.teacher.parameters(), self.head.parameters(), strict=True):
            old.data.lerp_(new.data, 1.0 - momentum)
        out: Tensor = self.head(x.flatten(1))
        return out
