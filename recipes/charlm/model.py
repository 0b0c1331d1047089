"""A small transformer that predicts the next character."""

from __future__ import annotations

import math
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrflow.errors import ConfigError, Problem


class CharLM(pl.LightningModule):
    """Pre-norm transformer (Radford et al., 2019): embeddings, `blocks`, `norm`, `head`.

    Logs `val/loss` in nats and `val/bits` in bits per character, and the same under `test/`. After the test it writes
    a sample text to `sample.txt` in the run folder.

    Args:
        symbols: number of distinct characters.
        context: maximum number of characters that the model attends to.
        width: width of the residual stream.
        depth: number of blocks.
        heads: attention heads per block; they divide the width.
        dropout: dropout probability after the embeddings and at the end of each branch.
        compile: `torch.compile` each block separately: they are alike, so one compilation is reused for all.
        sample: length of the sample text in characters; 0: none.
        prompt: beginning of the sample text.
        temperature: sampling temperature; values below 1 prefer likely characters.

    Raises:
        ConfigError: heads do not divide the width; in `setup`, symbols or prompt do not fit the data.
    """

    def __init__(
        self,
        symbols: int = 84,
        context: int = 64,
        width: int = 128,
        depth: int = 3,
        heads: int = 4,
        dropout: float = 0.0,
        compile: bool = False,
        sample: int = 400,
        prompt: str = "\n\n",
        temperature: float = 0.8,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError([Problem("model.heads", f"expected a divisor of the width, {width}", heads)])
        self.context = context
        self.sample = sample
        self.prompt = prompt
        self.temperature = temperature
        self.embedding = nn.Embedding(symbols, width)
        self.position = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols, bias=False)
        self._initialise()
        if compile:
            for block in self.blocks:
                block.compile()

    def _initialise(self) -> None:
        """Initialise like GPT-2: N(0, 0.02), smaller at the end of a branch so that activations stay small."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for name, weight in self.named_parameters():
            if name.endswith(("attention_out.weight", "mlp_out.weight")):
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * len(self.blocks)))

    def setup(self, stage: str) -> None:
        """Check that the model's symbols and prompt fit the characters of the data."""
        symbols = self.trainer.datamodule.symbols  # type: ignore[attr-defined]
        problems = []
        if self.head.out_features != len(symbols):
            message = f"the data has {len(symbols)} kinds of characters"
            problems.append(Problem("model.symbols", message, self.head.out_features))
        if not self.prompt or set(self.prompt) - set(symbols):
            message = "expected at least one character, and none that the data has not"
            problems.append(Problem("model.prompt", message, self.prompt))
        if problems:
            raise ConfigError(problems)

    def forward(self, text: Tensor) -> Tensor:
        """Return logits of each next character: [batch, characters] to [batch, characters, symbols]."""
        positions = torch.arange(text.shape[1], device=text.device)
        x = self.dropout(self.embedding(text) + self.position(positions))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of a batch, in nats per character."""
        return self._loss(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the validation loss of a batch."""
        self._log("val", batch)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the test loss of a batch."""
        self._log("test", batch)

    def _loss(self, batch: list[Tensor]) -> Tensor:
        inputs, targets = (part.long() for part in batch)  # they are bytes
        return functional.cross_entropy(self(inputs).flatten(0, 1), targets.flatten())

    def _log(self, part: str, batch: list[Tensor]) -> None:
        loss = self._loss(batch)
        values = {f"{part}/loss": loss, f"{part}/bits": loss / math.log(2)}
        self.log_dict(values, batch_size=len(batch[0]), sync_dist=True)

    def on_test_end(self) -> None:
        """Write a sample text to the run folder and print it."""
        if not self.sample or not self.trainer.is_global_zero:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        written = self.write(data.encode(self.prompt).long(), self.sample, self.temperature)
        text = data.decode(written).strip()
        path = Path(self.trainer.default_root_dir) / "sample.txt"
        path.write_text(f"{text}\n", encoding="utf-8")
        print(f"\n{text}\n\n({path})")

    @torch.no_grad()
    def write(self, prompt: Tensor, count: int, temperature: float = 1.0, seed: int = 0) -> Tensor:
        """Continue a text, character by character.

        Args:
            prompt: [characters], at least one.
            count: characters to write.
            temperature: divisor of the logits; 0 always takes the most likely character.
            seed: seed of the sampling.

        Returns:
            The continuation without the prompt; int64, [count].
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        text = prompt.to(self.device)[None]
        for _ in range(count):
            logits = self(text[:, -self.context :])[0, -1].float()
            if temperature:
                following = torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=generator)
            else:
                following = logits.argmax(keepdim=True)
            text = torch.cat([text, following[None]], 1)
        return text[0, len(prompt) :].cpu()


class Block(nn.Module):
    """Causal attention, then an MLP; each reads the normalised residual stream and adds to it.

    The MLP's activation is the squared ReLU (So et al., 2021), which a CPU computes faster than GELU.

    Args:
        width: width of the residual stream.
        heads: attention heads.
        dropout: dropout probability at the end of each branch.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform [batch, characters, width] to the same shape."""
        x = x + self.dropout(self.attention_out(self._attend(self.attention_in(self.attention_norm(x)))))
        return x + self.dropout(self.mlp_out(functional.relu(self.mlp_in(self.mlp_norm(x))).square()))

    def _attend(self, projected: Tensor) -> Tensor:
        """Attend: queries, keys and values [batch, characters, 3 width] to [batch, characters, width]."""
        query, key, value = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
