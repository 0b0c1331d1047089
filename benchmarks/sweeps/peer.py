"""The digits MLP, trained by scripts with Hydra and Lightning, for comparison with a trial of lrflow's sweep.

python -m benchmarks.sweeps.peer -m lr=1e-3,1e-2
python -m benchmarks.sweeps.peer -m how=lightning hydra/sweeper=optuna 'lr=tag(log,interval(1e-4,1e-1))'
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

BATCH, STEPS = 64, 20  # batch size, steps per epoch
LR, WEIGHT_DECAY = 1e-3, 0.05


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images and labels, then those of validation, as in lrflow's `data=digits`."""
    found = load_digits()
    inputs = (torch.from_numpy(found.images).float().flatten(1) / 16 - 0.3053) / 0.376
    targets = torch.from_numpy(found.target).long()
    return inputs[:1257], targets[:1257], inputs[1257:1437], targets[1257:1437]


def mlp() -> nn.Sequential:
    """Return the model of lrflow's `model=mlp`."""
    stages = [
        nn.Sequential(nn.Linear(width, 256), nn.LayerNorm(256), nn.ReLU(), nn.Dropout(0.1)) for width in (64, 256)
    ]
    return nn.Sequential(*stages, nn.Linear(256, 10))


def bare(lr: float) -> float:
    """Train in a plain torch loop without writing files; returns the validation loss."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs, targets, val_inputs, val_targets = digits()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=WEIGHT_DECAY, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    model.train()
    for rows in torch.randperm(len(inputs)).split(BATCH):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()
        scheduler.step()
    model.eval()
    with torch.no_grad():
        return float(functional.cross_entropy(model(val_inputs), val_targets))


def with_lightning(lr: float, folder: str | Path, steps: int = STEPS) -> float:
    """Train with a Lightning Trainer that writes a CSV log with the LR, and the best and last checkpoint."""
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger
    from torch.utils.data import DataLoader, TensorDataset

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = mlp()

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            loss = functional.cross_entropy(self.model(batch[0]), batch[1])
            self.log("train/loss", loss)
            return loss

        def validation_step(self, batch: list[Tensor], _: int) -> None:
            self.log("val/loss", functional.cross_entropy(self.model(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=lr, weight_decay=WEIGHT_DECAY, fused=True)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    inputs, targets, val_inputs, val_targets = digits()
    trainer = pl.Trainer(
        max_steps=steps,
        val_check_interval=steps,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        logger=CSVLogger(folder),
        callbacks=[LearningRateMonitor("step"), ModelCheckpoint(folder, monitor="val/loss", save_last=True)],
    )
    trainer.fit(
        Classifier(),
        DataLoader(TensorDataset(inputs, targets), BATCH, shuffle=True),
        DataLoader(TensorDataset(val_inputs, val_targets), 256),
    )
    return float(trainer.callback_metrics["val/loss"])


if __name__ == "__main__":
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig

    ConfigStore.instance().store(name="config", node={"lr": LR, "how": "bare"})

    @hydra.main(config_name="config", version_base="1.3")
    def main(cfg: DictConfig) -> float:
        """Run one job."""
        if cfg.how == "bare":
            return bare(cfg.lr)
        return with_lightning(cfg.lr, HydraConfig.get().runtime.output_dir)

    main()
