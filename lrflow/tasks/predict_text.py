"""task=predict of a language model: the loss of each sequence or document, and the continuation of a prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrflow.config.schemas.task import Predict
from lrflow.data import DataModule
from lrflow.data.text.tokenization import UnknownCharacterError
from lrflow.display import QuietConsole
from lrflow.errors import ConfigError, Problem
from lrflow.files import write_whole
from lrflow.objectives.losses import IGNORED
from lrflow.tasks.prediction_files import Arrays
from lrflow.tasks.trained import Trained
from lrflow.training.trainer import build_trainer

_MARKS = 2
"""Columns of a window before its tokens: see `lrflow.data.text.tokenization.windows_of_texts`."""


def continue_prompt(trained: Trained, task: Predict, folder: str) -> dict[str, Any]:
    """Continue `task.prompt`, print the text, and write it into a file.

    Args:
        trained: a language model of `data=text` or `data=huggingface`.
        task: the task.
        folder: of the predictions in the run folder.

    Returns:
        The number of `rows`, one, the `file`, and the run folder under `folder`.

    Raises:
        ConfigError: the run is no language model, or does not know the prompt's characters.
    """
    assert task.prompt is not None
    data = trained.data
    tokenizer, length = (data.next_token, data.tokens_per_example) if isinstance(data, DataModule) else (None, None)
    if tokenizer is None or length is None:
        message = "is continued by a language model, which this run is not: it needs texts without a target"
        raise ConfigError([Problem("task.prompt", message, task.prompt, "data=text or data=huggingface")])
    try:
        prompt = torch.from_numpy(tokenizer.encode([task.prompt])[0].astype(np.int64))
    except UnknownCharacterError as error:
        raise ConfigError([Problem("task.prompt", str(error), task.prompt)]) from None
    options = {"accelerator": trained.config.trainer.accelerator, "devices": 1}
    device = build_trainer(options, trained.folder.path, [], 1).strategy.root_device
    never = [token for token in (tokenizer.unknown, tokenizer.padding) if token is not None]
    found = continued(
        trained.network.to(device).eval(), prompt.to(device), task.tokens, length,
        task.temperature,
        task.draw, tokenizer.end, never,
    )  # fmt: skip
    text = task.prompt + tokenizer.decode(found.tolist())
    path = trained.folder.path / folder / f"prompt-{trained.weights}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, f"{text}\n".encode("utf-8", "replace"))
    console = QuietConsole()
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(f"\n{len(found):,} tokens by the {trained.weights} weights, of step {trained.step}", highlight=False)
    console.print(str(path), soft_wrap=True, highlight=False)
    return {"rows": 1, "file": str(path), "folder": str(trained.folder.path)}


@torch.inference_mode()
def continued(
    network: nn.Module,
    prompt: Tensor,
    count: int,
    context: int,
    temperature: float = 1.0,
    seed: int = 0,
    end: int | None = None,
    never: list[int] | None = None,
) -> Tensor:
    """Continue a sequence token by token; the global generators are not used.

    Args:
        network: maps tokens [1, length] to logits [1, length, vocabulary].
        prompt: [tokens], at least one.
        count: most tokens to add.
        context: most tokens that the network gets.
        temperature: divisor of the logits; 0 always takes the likeliest token.
        seed: of the draws.
        end: token that ends the continuation; None: none does.
        never: tokens that are not drawn.

    Returns:
        The continuation, without prompt and end; int64 [at most count].
    """
    generator = torch.Generator(prompt.device).manual_seed(seed)
    text = prompt[None]
    for _ in range(count):
        logits = network(text[:, -context:])[0, -1].float()
        logits[never or []] = -torch.inf
        if temperature:
            following = torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=generator)
        else:
            following = logits.argmax(keepdim=True)
        if end is not None and int(following) == end:
            break
        text = torch.cat([text, following[None]], 1)
    return text[0, len(prompt) :].cpu()


def windows_of(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, targets and marks of windows, as `windows_of_texts` returns them; absent tokens are no targets."""
    marks, tokens = rows[:, :_MARKS], rows[:, _MARKS:]
    return tokens[:, :-1].clamp(min=0), tokens[:, 1:], marks


def token_rows(outputs: Tensor, targets: Tensor) -> Arrays:
    """Return of each sequence the number of its targets and the sum of their losses, in nats.

    Args:
        outputs: logits [batch, length, vocabulary].
        targets: [batch, length]; a negative one is none.
    """
    targets = targets.to(outputs.device).clamp(min=IGNORED)
    targets = targets.where(targets >= 0, IGNORED)
    losses = functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    return {"tokens": (targets >= 0).sum(1).cpu().numpy(), "loss": losses.double().sum(1).cpu().numpy()}


def by_document(rows: Arrays) -> Arrays:
    """Return the mean loss per token and the perplexity of each document, from the sums of its windows.

    Args:
        rows: `tokens` and `loss` of each window, and of inputs of one's own `input`, `document` and `bytes`.
    """
    if "document" not in rows:
        loss = rows["loss"] / rows["tokens"]
        return {"tokens": rows["tokens"], "loss": loss, "perplexity": np.exp(loss)}
    changes = (rows["document"][1:] != rows["document"][:-1]) | (rows["input"][1:] != rows["input"][:-1])
    first = np.flatnonzero(np.concatenate([[True], changes]))
    tokens, sums = np.add.reduceat(rows["tokens"], first), np.add.reduceat(rows["loss"], first)
    loss = sums / np.maximum(tokens, 1)
    return {
        "input": rows["input"][first],
        "tokens": tokens,
        "loss": loss,
        "perplexity": np.exp(loss),
        "bits_per_byte": sums / np.log(2) / rows["bytes"][first],
    }
