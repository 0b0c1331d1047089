"""Models of Hugging Face's transformers as networks of a run: `backbone` and `head`, with adapters (LoRA) on demand."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lrflow.errors import ConfigError, Problem, did_you_mean, shortened
from lrflow.hub import is_path, located, not_found
from lrflow.layers.groups import nearest_names
from lrflow.layers.rules import compile_pattern
from lrflow.models.adapters import adapt, lora_problems, merge
from lrflow.wording import joined

__all__ = ["HuggingFace"]

HEADS = {
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "image_classification": "AutoModelForImageClassification",
    "causal_lm": "AutoModelForCausalLM",
    "masked_lm": "AutoModelForMaskedLM",
    "mean": "AutoModel",
}
"""The class of transformers that builds the network, by the head."""

_OF_WORDS = ("causal_lm", "masked_lm")
"""Heads whose outputs are the words of the vocabulary."""

_MOST_LAYERS = 10_000


class HuggingFace(nn.Module):
    """A model of transformers (Wolf et al., 2020) with its weights, from a folder or by its name on the hub.

    Its parameters have two prefixes whatever the architecture: `backbone`, the pretrained body with the names that
    transformers gives to its parts (`backbone.encoder.layer.0.attention...`), and `head`, all that lies above it
    (`head.classifier.weight`). A head that the weights do not have is new.

    Args:
        name: a folder that `save_pretrained` wrote, also `package:NAME/PATH` in an installed package, or a name on the
            Hugging Face Hub; None: `config` describes it.
        head: what the network is for. `sequence_classification`, `token_classification`, `image_classification`,
            `causal_lm` and `masked_lm` are transformers' Auto classes; `mean` is the mean over the tokens of the last
            layer, dropout and a linear layer.
        outputs: number of classes, or of values to predict; those of `causal_lm` and `masked_lm` are the vocabulary.
        pretrained: whether it starts with the weights of `name`; otherwise with random ones.
        config: the content of its config.json, which a run saves; None: read from `name`.
        options: settings that replace some of the config, such as `{hidden_dropout_prob: 0.0}`.
        lora: adapters that train instead of the backbone (LoRA; Hu et al., 2021, arXiv 2106.09685): `rank` (8),
            `alpha` (twice the rank), `dropout` (0), `targets` (names of layers; None: those that peft names for the
            architecture, else all linear ones). The head of a language model is frozen too.
        frozen: names of parameters that never train, as globs or with the prefix `re:`.
        dropout: dropout probability before the head, with `head=mean`.
        packed: whether the sentences of a batch are put into one row without padding, with `head=mean`; each attends
            to itself only. The outputs are the same.
        checkpointing: whether activations are computed again in the backward pass, which takes less memory.
        padding: the token by which the data pad the ends of rows; None: the model's own.
        separator: the token at the end of the first text of a pair; those after it get the token type 1, if the model
            has token types. None: all have 0.
        dtype: type of its weights: `float32`, `bfloat16` or `float16`.

    Raises:
        ConfigError: invalid arguments, or a model that does not exist, has no weights or cannot be built.
    """

    loads_by: ClassVar[str] = "pretrained"

    def __init__(
        self,
        name: str | None = None,
        head: Literal[
            "sequence_classification", "token_classification", "image_classification", "causal_lm", "masked_lm", "mean"
        ] = "sequence_classification",
        outputs: int | None = None,
        pretrained: bool = True,
        config: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        lora: Mapping[str, Any] | None = None,
        frozen: str | Sequence[str] | None = None,
        dropout: float = 0.1,
        packed: bool = False,
        checkpointing: bool = False,
        padding: int | None = None,
        separator: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        super().__init__()
        _check(name, head, outputs, config, lora, packed, pretrained)
        from transformers.utils import logging

        logging.set_verbosity_error()  # what is loaded and what is new is in `weights`
        logging.disable_progress_bar()
        self.kind, self.packed, self.padding = head, packed, padding
        self.config = _config(config or {}, options or {}, None if head in _OF_WORDS else outputs)
        self.weights = ""
        net = self._built(name if pretrained else None, getattr(torch, dtype))
        if checkpointing:
            if not net.supports_gradient_checkpointing:
                raise ConfigError([Problem("model.checkpointing", f"{type(net).__name__} has none", True)])
            enable = getattr(net, "activation_checkpointing_enable", None) or net.gradient_checkpointing_enable
            enable({"use_reentrant": False})  # the second name is that of earlier versions
        body = net if head == "mean" else net.base_model
        if lora is not None:
            adapt(body, lora)
        if head == "mean":
            width = getattr(self.config, "hidden_size", None) or self.config.d_model
            self.backbone: nn.Module = net
            self.dropout = nn.Dropout(dropout)
            self.head: nn.Module = nn.Linear(width, outputs or 1, dtype=getattr(torch, dtype))
        else:
            self.backbone, self.head = _split(net)
            if lora is not None and head in _OF_WORDS:
                self.head.requires_grad_(False)
        self._freeze([frozen] if isinstance(frozen, str) else frozen or [])
        self.train()  # from_pretrained returns it in evaluation mode, in which Lightning would leave it
        self._takes = frozenset(inspect.signature(self._net.forward).parameters)
        has_types = "token_type_ids" in self._takes and getattr(self.config, "type_vocab_size", 0) > 1
        self.separator = separator if has_types else None
        if packed and "position_ids" not in self._takes:
            message = f"{type(self._net).__name__} takes no positions, so its sentences cannot share a row"
            raise ConfigError([Problem("model.packed", message, packed, "model.packed=false")])

    @property
    def _net(self) -> Any:
        """The network of transformers, which holds the body or is it."""
        return self.head if _is_pretrained(self.head) else self.backbone

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, or values to predict.

        Args:
            inputs: token ids [batch, tokens], padded at the end of rows; or images
                [batch, channels, height, width], normalised, or bytes, which are scaled to -1 to 1. Grey images are
                repeated for each channel of the model.

        Returns:
            [batch, outputs]; of language models and of `token_classification` [batch, tokens, outputs].
        """
        if self._net.main_input_name == "pixel_values":
            return self._net(**self._pixels(inputs)).logits
        ids = inputs.long()
        mask = self._mask(ids)
        tokens = {"input_ids": ids.masked_fill(~mask, self.config.pad_token_id)}
        if self.separator is not None:
            ends = (ids == self.separator).long()
            tokens["token_type_ids"] = (ends.cumsum(1) - ends).clamp_max(1)  # the separator itself has type 0
        if self.kind == "mean":
            return self.head(self.dropout(self._mean(tokens, mask)))
        logits: Tensor = self._net(**tokens, attention_mask=mask.long()).logits
        return logits

    def save(self, folder: Path, classes: Sequence[str] = ()) -> None:
        """Write the network as `save_pretrained` of transformers does, with adapters merged into the weights.

        Args:
            folder: of the files; with `head=mean` they are those of the backbone, and `head.safetensors`.
            classes: names of the classes.
        """
        whole = copy.deepcopy(self)
        net = whole._net
        merge(net)
        for name, part in [*vars(net).items()]:
            if isinstance(part, nn.Module):  # body or head, which `_split` took out
                merge(part)
                del vars(net)[name]
                net._modules[name] = part
        if classes:
            net.config.id2label = dict(enumerate(classes))
            net.config.label2id = {name: number for number, name in enumerate(classes)}
        net.save_pretrained(folder)
        if self.kind == "mean":
            from safetensors.torch import save_file

            save_file(
                {name: value.contiguous() for name, value in whole.head.state_dict().items()},
                folder / "head.safetensors",
            )

    def _mask(self, ids: Tensor) -> Tensor:
        """Return which tokens are no padding; padding is at the end of a row, where its id may mean more elsewhere."""
        if self.padding is not None:
            return ids != self.padding
        if self.kind == "causal_lm":  # no token attends to those after it, so none needs to know of padding
            return torch.ones_like(ids, dtype=torch.bool)
        tokens, ends = ids != self.config.pad_token_id, self.config.eos_token_id
        if self.config.pad_token_id not in (ends if isinstance(ends, list) else [ends]):
            return tokens
        return tokens.long().flip(1).cummax(1).values.flip(1).bool()

    def _pixels(self, images: Tensor) -> dict[str, Any]:
        images = images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images
        channels, size = getattr(self.config, "num_channels", 3), getattr(self.config, "image_size", None)
        if images.shape[1] == 1:
            images = images.expand(-1, channels, -1, -1)
        found: dict[str, Any] = {"pixel_values": images.to(next(self.parameters()).dtype)}
        sizes = (size, size) if isinstance(size, int) else tuple(size or ())
        if "interpolate_pos_encoding" in self._takes and tuple(images.shape[2:]) != sizes:
            found["interpolate_pos_encoding"] = True
        return found

    def _mean(self, tokens: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Return the mean of the last layer over the tokens of each row: [batch, width].

        Packing reads the number of tokens from the device, for which a GPU is waited for once per step.
        """
        lengths = mask.sum(1, keepdim=True)
        if not self.packed or torch.compiler.is_compiling():  # an exported graph has one form for all batches
            hidden = self.backbone(**tokens, attention_mask=mask.long()).last_hidden_state
            return (hidden * mask[..., None]).sum(1) / lengths
        rows, places = mask.nonzero(as_tuple=True)
        same = rows[:, None] == rows
        packed = {name: values[rows, places][None] for name, values in tokens.items()}
        hidden = self.backbone(**packed, position_ids=places[None], attention_mask=same[None, None]).last_hidden_state[
            0
        ]
        sums = torch.zeros(len(mask), hidden.shape[1], dtype=hidden.dtype, device=hidden.device)
        return sums.index_add(0, rows, hidden) / lengths

    def _built(self, name: str | None, dtype: torch.dtype) -> Any:
        """Return the network, with the weights of a folder or a name if one is given."""
        import transformers

        auto: Any = getattr(transformers, HEADS[self.kind])
        known = auto._model_mapping
        if type(self.config) not in known:
            fitting = [
                head for head, cls in HEADS.items() if type(self.config) in getattr(transformers, cls)._model_mapping
            ]
            message = f"{self.config.model_type} has no such head; it has {', '.join(fitting) or 'none of lrflow’s'}"
            raise ConfigError([Problem("model.head", message, self.kind)])
        cls = known[type(self.config)]
        cls = cls[0] if isinstance(cls, tuple) else cls
        no_pooler = self.kind == "mean" and "add_pooling_layer" in inspect.signature(cls).parameters
        extra = {"add_pooling_layer": False} if no_pooler else {}
        if name is None:
            return cls._from_config(self.config, dtype=dtype, **extra)
        try:
            net, info = cls.from_pretrained(
                str(located(name, "model.name")) if is_path(name) else name,
                config=self.config,
                dtype=dtype,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **extra,
            )
        except ConfigError:
            raise
        except Exception as error:  # the readers of weights and the hub raise many types
            if is_path(name):
                reason = shortened(str(error).strip().partition("\n")[0] or type(error).__name__, 300)
                hint = "model.pretrained=false starts with random weights"
                raise ConfigError(
                    [Problem("model.name", f"its weights cannot be loaded: {reason}", name, hint)]
                ) from error
            raise ConfigError([not_found(name, "model.name", error)]) from error
        new = sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
        own = net.state_dict()
        self.weights = f"weights of {name}: loaded {len(own) - len(new)} of {len(own)} tensors"
        self.weights += f"; {len(new)} are new ({joined(new, 7)})" if new else ""
        return net

    def _freeze(self, patterns: Sequence[str]) -> None:
        names = [name for name, _ in self.named_parameters()]
        problems = []
        for text in patterns:
            pattern = compile_pattern(text)
            found = [name for name in names if pattern.fullmatch(name)]
            if not found:
                problems.append(Problem("model.frozen", "matches no parameter", text, nearest_names(text, names)))
            for name in found:
                self.get_parameter(name).requires_grad_(False)
        if problems:
            raise ConfigError(problems)


def _is_pretrained(module: nn.Module) -> bool:
    return hasattr(module, "base_model_prefix")


def _check(
    name: str | None,
    head: str,
    outputs: int | None,
    config: Mapping[str, Any] | None,
    lora: Mapping[str, Any] | None,
    packed: bool,
    pretrained: bool,
) -> None:
    problems = []
    if head not in HEADS:
        hint = did_you_mean(head, HEADS)
        problems.append(Problem("model.head", f"expected one of {', '.join(HEADS)}", head, hint))
    elif head not in _OF_WORDS and (not isinstance(outputs, int) or outputs < 1):
        problems.append(Problem("model.outputs", "expected a whole number above 0", outputs))
    if packed and head != "mean":
        problems.append(Problem("model.packed", "needs model.head=mean", packed))
    if name is None and pretrained:
        problems.append(Problem("model.name", "expected a folder or a name on the Hugging Face Hub", name))
    if not (config or {}).get("model_type"):
        problems.append(Problem("model.config", "expected the content of a config.json, with a model_type", config))
    problems += lora_problems(lora or {})
    if problems:
        raise ConfigError(problems)


def _config(content: Mapping[str, Any], options: Mapping[str, Any], outputs: int | None) -> Any:
    """Return the config of transformers for the content of a config.json with some settings replaced."""
    from transformers import AutoConfig

    kind = content["model_type"]
    try:
        known = AutoConfig.for_model(kind)
    except ValueError:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        message = "transformers has no architecture of this model_type"
        hint = did_you_mean(str(kind), CONFIG_MAPPING_NAMES)
        raise ConfigError([Problem("model.config.model_type", message, kind, hint)]) from None
    accepted = {*known.to_dict(), *known.attribute_map, *content, "attn_implementation"}
    if wrong := [name for name in options if name not in accepted]:
        message = f"the config of {kind} has no such setting"
        raise ConfigError(
            [Problem(f"model.options.{name}", message, options[name], did_you_mean(name, accepted)) for name in wrong]
        )
    given = {name: value for name, value in {**content, **options}.items() if name != "model_type"}
    if outputs is not None:
        given["num_labels"] = outputs
    try:
        config = AutoConfig.for_model(kind, **{**given, "use_cache": False} if hasattr(known, "use_cache") else given)
    except Exception as error:  # of the checks of each architecture
        reason = shortened(" ".join(str(error).split()), 200)
        raise ConfigError([Problem("model.config", f"is no config of {kind}: {reason}", ...)]) from error
    layers = getattr(config, "num_hidden_layers", None)
    if isinstance(layers, int) and layers > _MOST_LAYERS:
        message = f"expected at most {_MOST_LAYERS:,} layers"
        raise ConfigError([Problem("model.config.num_hidden_layers", message, layers)])
    if getattr(config, "pad_token_id", None) is None:
        end = getattr(config, "eos_token_id", None)
        config.pad_token_id = end[0] if isinstance(end, list) else end if end is not None else 0
    return config


def _split(net: Any) -> tuple[nn.Module, nn.Module]:
    """Return the body and the head of a network as two modules without common parts, one of which is the network.

    The other one stays an attribute of the network, so that its `forward` finds it, but is none of its modules.
    """
    inner = net.base_model_prefix
    if inner in net._modules:
        body = vars(net)[inner] = net._modules.pop(inner)
        return body, net
    output = net.get_output_embeddings()
    name = next((name for name, module in net.named_children() if module is output), [*net._modules][-1])
    head = vars(net)[name] = net._modules.pop(name)
    return net, head
