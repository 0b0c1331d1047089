"""`model=huggingface` on tiny models: outputs, depths of layers, adapters, and what is wrong with a name."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.layers import GradualUnfreezing, LayerDecay, MuonGroups, resolve
from lrflow.layers.depth import layers_of
from lrflow.layers.parameters import Parameters, UseTracer
from lrflow.training.state import namespaces

transformers = pytest.importorskip("transformers", reason="needs the extra text: pip install 'lrflow[text]'")
pytest.importorskip("peft", reason="needs the extra text: pip install 'lrflow[text]'")

from lrflow.huggingface import HuggingFace  # noqa: E402

_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BERT = {"model_type": "bert", "vocab_size": 50, "max_position_embeddings": 32, "pad_token_id": 0, **_SMALL}
VIT = {"model_type": "vit", "image_size": 8, "patch_size": 4, "num_channels": 3, **_SMALL}
LLAMA = {"model_type": "llama", "vocab_size": 50, "num_key_value_heads": 2, **_SMALL}
T5 = {"model_type": "t5", "vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
T5 |= {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
GPT2 = {"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 1}
DISTILBERT = {"model_type": "distilbert", "vocab_size": 50, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
CONVNEXT = {"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2, "patch_size": 2}

TABLES: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "bert": (BERT, "sequence_classification", ["embeddings", "encoder.layer.0", "encoder.layer.1", "pooler", "head"]),
    "bert, mean": (BERT, "mean", ["embeddings", "encoder.layer.0", "encoder.layer.1", "head"]),
    "roberta": (
        {**BERT, "model_type": "roberta", "pad_token_id": 1},
        "token_classification",
        ["embeddings", "encoder.layer.0", "encoder.layer.1", "head"],
    ),
    "distilbert": (
        DISTILBERT,
        "sequence_classification",
        ["embeddings", "transformer.layer.0", "transformer.layer.1", "head"],
    ),
    "vit": (VIT, "image_classification", ["embeddings", "layers.0", "layers.1", "head layernorm"]),
    "llama": (LLAMA, "causal_lm", ["embed_tokens", "layers.0", "layers.1", "head norm"]),
    "llama, classes": (LLAMA, "sequence_classification", ["embed_tokens", "layers.0", "layers.1", "head norm"]),
    "gpt2, its head tied to the embedding": (GPT2, "causal_lm", ["wte wpe", "h.0", "h.1 ln_f"]),
    "t5": (
        T5,
        "sequence_classification",
        ["shared", "encoder.block.0", "encoder.block.1 encoder.final_layer_norm", "decoder.block.0", "decoder.block.1",
         "head decoder.final_layer_norm"],
    ),
    "convnext": (
        CONVNEXT,
        "image_classification",
        ["embeddings", "encoder.stages.0 encoder.stages.1.downsampling_layer.0",
         "encoder.stages.1.downsampling_layer.1", "encoder.stages.1.layers.0",
         "encoder.stages.1.layers.1", "head layernorm"],
    ),
}  # fmt: skip
"""By architecture: config, head, and the modules at each depth, with `backbone.` left out."""


def built(config: dict[str, Any], head: str, **options: Any) -> HuggingFace:
    torch.manual_seed(0)
    return HuggingFace(head=head, outputs=4, config=config, pretrained=False, **options).eval()  # type: ignore[arg-type]


def example(config: dict[str, Any]) -> Tensor:
    if config["model_type"] in ("vit", "convnext"):
        return torch.randn(2, 3, 8, 8)
    ids = torch.randint(3, 50, (2, 6))
    ids[:, -1] = config.get("eos_token_id", 2)
    return ids


def traced(model: HuggingFace, inputs: Tensor) -> Parameters:
    with torch.no_grad(), UseTracer(model) as trace:
        model(inputs)
    return replace(Parameters.of(model), uses=trace.uses)


@pytest.mark.parametrize("name", TABLES)
def test_every_module_has_the_depth_of_the_table(name: str) -> None:
    config, head, table = TABLES[name]
    expected = {part: depth for depth, row in enumerate(table) for part in row.split()}
    for lora in (None, {"rank": 2}):
        if lora and name == "convnext":  # it has no layers that peft adapts by default
            continue
        model = built(config, head, lora=lora)
        parameters = traced(model, example(config))
        for known in (parameters,) if "tied" in name else (parameters, replace(parameters, uses=None)):
            depths = {entry.name: layer.depth for layer in layers_of(known) for entry in layer.entries}
            assert depths.keys() == {name for name, _ in model.named_parameters()}
            for full, depth in depths.items():
                path = full.removeprefix("backbone.")
                (part,) = [one for one in expected if path.startswith(f"{one}.")]
                assert depth == expected[part], full
            trained = {full for full, one in model.named_parameters() if one.requires_grad}
            scales = {n: group.scale for group in resolve(model, LayerDecay().rules_of(known), 1.0)
                      for n, _ in group.parameters if n in trained}  # fmt: skip
            top = max(depths[full] for full in trained)
            assert scales == {full: 0.75 ** (top - depths[full]) for full in trained}
        if lora:
            assert {full for full in trained if "lora_" not in full} == {
                full for full in depths if full.startswith("head.") and not head.endswith("_lm")
            }


def test_the_caches_of_transformers_are_no_state_of_a_run() -> None:
    assert not namespaces([transformers.BertModel])


def test_other_makers_know_body_and_head() -> None:
    bert, llama = built(BERT, "sequence_classification"), built(LLAMA, "causal_lm")
    for model, head in ((bert, "head.classifier.weight"), (llama, "head.lm_head.weight")):
        groups = {
            group.name: dict(group.parameters)
            for group in resolve(model, MuonGroups().rules(model), 1.0, routes={"muon": {"lr": 1.0}})
        }
        assert [*groups["head"]] == [head]
        assert all("embed" in name for name in groups["embedding"])
        assert all(name.startswith("backbone.") for name in groups["hidden"])
        late = GradualUnfreezing(every="1 epoch").rules(model)
        assert [rule.name for rule in late if rule.unfreeze is None] == [
            "head/no_decay",
            "head",
        ]


# Outputs


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models as `save_pretrained` writes them."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, cls in {"bert": transformers.BertForMaskedLM, "vit": transformers.ViTModel}.items():
        content = dict({"bert": BERT, "vit": VIT}[name])
        cls(transformers.AutoConfig.for_model(content.pop("model_type"), **content)).save_pretrained(folder / name)
    return folder


def content(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def test_outputs_are_those_of_transformers(folders: Path) -> None:
    ids = torch.tensor([[2, 7, 9, 3, 0, 0], [2, 8, 3, 0, 0, 0], [2, 5, 6, 7, 8, 3]])
    mask = (ids != 0).long()
    path = folders / "bert"
    reference = transformers.BertForMaskedLM.from_pretrained(path).eval()
    with torch.no_grad():
        model = HuggingFace(str(path), "masked_lm", config=content(path)).eval()
        expected = reference(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(model(ids), expected)
        hidden = reference.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        for packed in (False, True):
            model = HuggingFace(str(path), "mean", outputs=4, config=content(path), packed=packed).eval()
            model.head = torch.nn.Identity()
            torch.testing.assert_close(model(ids), means, atol=1e-5, rtol=1e-5)
        path = folders / "vit"
        model = HuggingFace(str(path), "image_classification", outputs=4, config=content(path)).eval()
        assert "loaded" in model.weights
        assert "new (classifier.bias, classifier.weight)" in model.weights
        images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
        found = transformers.ViTModel.from_pretrained(path).eval()(images.expand(-1, 3, -1, -1).float() / 127.5 - 1)
        torch.testing.assert_close(model(images), model.head.classifier(found.last_hidden_state[:, 0]))
        assert model(torch.randn(2, 3, 12, 12)).shape == (2, 4)  # its positions are interpolated


@pytest.mark.parametrize("ends", [1, [1, 2]])
def test_a_padding_that_is_a_word_elsewhere_is_read_there(ends: int | list[int]) -> None:
    model, ids = built({**GPT2, "eos_token_id": ends}, "sequence_classification"), torch.tensor([[4, 1, 7, 8, 1, 1]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids), model(ids[:, :4]))


def test_each_token_of_a_packed_text_is_read() -> None:
    for config in ({**LLAMA, "eos_token_id": [1, 2]}, GPT2):  # they have no token of padding
        model, ids = built(config, "causal_lm"), torch.tensor([[4, 1, 7, 1, 8, 1]])
        with torch.no_grad():
            hidden = model.backbone(input_ids=ids).last_hidden_state
            torch.testing.assert_close(model(ids), model._net.get_output_embeddings()(hidden))


@pytest.mark.parametrize(("head", "packed"), [("sequence_classification", False), ("mean", False), ("mean", True)])
def test_the_second_text_of_a_pair_has_another_token_type(head: str, packed: bool) -> None:
    model = built(BERT, head, separator=3, packed=packed)
    rows = [[2, 7, 9, 3, 8, 5, 3], [2, 8, 3, 6, 3, 0, 0]]
    types = [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0]]  # as BERT's tokenizer writes them
    ids = torch.tensor(rows)
    for one in model.parameters():
        torch.nn.init.normal_(one, std=0.3)
    with torch.no_grad():
        found = model.backbone(input_ids=ids, attention_mask=(ids != 0).long(), token_type_ids=torch.tensor(types))
        if head == "mean":
            mask = (ids != 0)[..., None]
            expected = model.head((found.last_hidden_state * mask).sum(1) / mask.sum(1))
        else:
            expected = model.head.classifier(found.pooler_output)
        torch.testing.assert_close(model(ids), expected, atol=1e-5, rtol=1e-5)
        model.separator = None
        assert not torch.allclose(model(ids), expected, atol=1e-3)
    assert built({**BERT, "model_type": "roberta", "type_vocab_size": 1}, head, separator=3).separator is None


def test_an_adapted_model_begins_as_it_was_and_is_merged_and_computes_the_same_with_less_memory(
    folders: Path, tmp_path: Path
) -> None:
    path, ids = folders / "bert", torch.randint(3, 50, (2, 6))
    plain, adapted, again = (
        HuggingFace(str(path), "masked_lm", config=content(path), **options).eval()  # type: ignore[arg-type]
        for options in ({}, {"lora": {"rank": 2, "targets": ["query", "dense"]}}, {"checkpointing": True})
    )
    torch.testing.assert_close(plain(ids), adapted(ids))
    for name, one in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(one, std=0.1)
    adapted.save(tmp_path / "merged")
    merged = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "merged").eval()
    assert not torch.allclose(merged(ids).logits, plain(ids), atol=1e-4)
    torch.testing.assert_close(merged(ids).logits, adapted(ids), atol=1e-5, rtol=1e-5)
    gradients = []
    for model in (plain, again):
        model.train()
        torch.manual_seed(0)
        model(ids).square().mean().backward()
        gradients.append({name: one.grad for name, one in model.named_parameters()})
    torch.testing.assert_close(*gradients)


# What is wrong


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"head": "image_classification"}, r"model\.head = 'image_classification': bert has no such head; it has seq"),
        ({"options": {"hidden_dropout": 0}}, r"model\.options\.hidden_dropout.*(?s:.*)hidden_dropout_prob"),
        ({"lora": {"rnak": 4}}, r"model\.lora\.rnak(?s:.*)did you mean rank\?"),
        ({"lora": {"targets": ["queries"]}}, r"model\.lora\.targets(?s:.*)dense, key, query, value"),
        ({"lora": {"rank": 0, "alpha": math.nan, "dropout": 1}}, r"(?s)lora\.rank.*lora\.alpha.*lora\.dropout"),
        ({"config": {**BERT, "hidden_size": "x"}}, r"model\.config: is no config of bert: .*hidden_size"),
        ({"config": {**BERT, "num_hidden_layers": 10**9}}, r"num_hidden_layers = 1000000000: expected at most 10,000"),
        ({"frozen": "backbone.embedings.*"}, r"model\.frozen(?s:.*)backbone\.embeddings\.\*"),
        ({"config": {**BERT, "model_type": "brt"}}, r"model\.config\.model_type = 'brt'(?s:.*)bert"),
        ({"outputs": None, "packed": True}, r"model\.outputs(?s:.*)model\.packed"),
        ({"name": None, "pretrained": True}, r"model\.name"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_told(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        HuggingFace(**{"outputs": 2, "config": BERT, "pretrained": False, **arguments})


def test_wrong_names_are_told_before_the_run(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    shutil.copytree(folders / "vit", tmp_path / "vit")
    (tmp_path / "vit" / "model.safetensors").unlink()
    (tmp_path / "empty").mkdir()
    for name, said in {
        "./vitt": r"there is no such folder\n +did you mean vit\?",
        "empty": r"the folder has no config\.json",
        "vitt": r"could not be downloaded: (?s:.*)did you mean vit\?",
        "google/none": "is no folder, is not in the cache of the Hugging Face Hub, and could not be downloaded: ",
    }.items():
        with pytest.raises(ConfigError, match=said) as caught:
            compose(["model=huggingface", f"model.name={name}"])
        assert [(problem.key, problem.value) for problem in caught.value.problems] == [("model.name", name)]
    assert compose(["model=huggingface", "model.name=vit"]).model.plain()["config"]["model_type"] == "vit"
    with pytest.raises(ConfigError, match=r"model\.name = 'vit': its weights cannot be loaded(?s:.*)model\.pretrained"):
        HuggingFace("vit", "image_classification", outputs=2, config=VIT)
    (tmp_path / "vit" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"model\.name = 'vit': its weights cannot be loaded: Error while deseri"):
        HuggingFace("vit", "image_classification", outputs=2, config=VIT)


def test_tokens_that_the_model_does_not_embed_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,y\n" + "".join(f"some words {row},{'ab'[row % 2]}\n" for row in range(40)))
    own = ["data=text", f"data.file={tmp_path}/x.csv", "data.length=8", "model=huggingface", "model.name=null",
           "model.pretrained=false"]  # fmt: skip
    model = "model.config={{model_type: gpt2, vocab_size: {}}}"
    for size, words in ((257, ["model.head=causal_lm"]), (256, ["data.target=y"])):  # bytes, and the end of a document
        compose([*own, *words, model.format(size)])
        with pytest.raises(
            ConfigError, match=f"the texts have {size} different tokens, and the model embeds {size - 1}"
        ):
            compose([*own, *words, model.format(size - 1)])


# A run


def test_a_run_predicts_without_the_folder_of_its_model(
    lrflow: Callable[..., subprocess.CompletedProcess[str]], folders: Path, tmp_path: Path
) -> None:
    shutil.copytree(folders / "vit", tmp_path / "vit")
    own = ["model=huggingface", "model.name=vit", "model.head=image_classification", "layers=layer_decay"]
    done = lrflow(
        *own, "trainer=cpu", "trainer.max_steps=8", "optimizer.lr=3e-3", "model.lora={rank: 2}", "output=runs"
    )
    assert done.returncode == 0, done.stderr
    assert "weights of vit: loaded 38 of 40 tensors; 2 are new" in done.stdout
    assert "their order of use is unknown" not in done.stdout
    shutil.rmtree(tmp_path / "vit")
    (run,) = (tmp_path / "runs").iterdir()
    before = json.loads((run / "summary.json").read_text())["metrics"]
    done = lrflow("task=evaluate", "output=runs", "task.weights=last")
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "evaluations.json").read_text())[-1]["metrics"]
    assert found["test/loss"] == pytest.approx(before["test/loss"])
    assert lrflow("task=predict", "output=runs").returncode == 0
