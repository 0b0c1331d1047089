"""A LightningModule and its data as public projects write them to fine-tune a text classifier; it knows no lrflow.

The likes of it are Lightning's own tutorials: groups with and without weight decay by name, a linear schedule with
warmup over the trainer's `estimated_stepping_batches`, two lists returned, `val_loss` logged.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Subset, TensorDataset


class Rows(LightningDataModule):
    """Digits as sentences of eight rows."""

    def __init__(self, train_batch_size: int = 100) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        digits = load_digits()
        rows = TensorDataset(torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target))
        self.train, self.val = Subset(rows, range(1000)), Subset(rows, range(1000, 1400))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=self.hparams["train_batch_size"])

    def val_dataloader(self) -> list[DataLoader[Any]]:
        return [DataLoader(self.val, batch_size=200)]


class Classifier(LightningModule):
    """A small transformer encoder with a classifier."""

    def __init__(
        self,
        learning_rate: float = 2e-3,
        adam_epsilon: float = 1e-8,
        warmup_steps: int = 5,
        weight_decay: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        parts = {
            "embeddings": nn.Linear(8, 16),
            "encoder": nn.TransformerEncoder(layer, 1),
            "LayerNorm": nn.LayerNorm(16),
        }
        self.model = nn.ModuleDict({**parts, "classifier": nn.Linear(16, 10)})

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.model["encoder"](self.model["embeddings"](rows))
        out: Tensor = self.model["classifier"](self.model["LayerNorm"](hidden.mean(1)))
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        rows, labels = batch
        return nn.functional.cross_entropy(self(rows), labels)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        rows, labels = batch
        self.log("val_loss", nn.functional.cross_entropy(self(rows), labels), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Linear warmup and decay."""
        own, total = self.hparams, self.trainer.estimated_stepping_batches
        no_decay = ["bias", "LayerNorm.weight", "norm1.weight", "norm2.weight"]
        named = list(self.model.named_parameters())
        grouped = [
            {
                "params": [p for n, p in named if not any(nd in n for nd in no_decay)],
                "weight_decay": own["weight_decay"],
            },
            {"params": [p for n, p in named if any(nd in n for nd in no_decay)], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(grouped, lr=own["learning_rate"], eps=own["adam_epsilon"])

        def factor(step: int) -> float:
            warmup = own["warmup_steps"]
            return step / max(1, warmup) if step < warmup else max(0.0, (total - step) / max(1, total - warmup))

        return [optimizer], [{"scheduler": LambdaLR(optimizer, factor), "interval": "step", "frequency": 1}]
