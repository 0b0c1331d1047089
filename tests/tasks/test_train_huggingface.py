"""Runs on data sets of Hugging Face, from files to predictions: killed and resumed, then used without the files."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from lrflow.runs import newest_checkpoint
from lrflow.training.checkpoint_file import read_checkpoint

datasets = pytest.importorskip("datasets", reason="needs the extra datasets: pip install 'lrflow[datasets]'")
pytest.importorskip("transformers", reason="needs the extra text: pip install 'lrflow[text]'")

Command = Callable[..., subprocess.CompletedProcess[str]]

TOPICS = {
    "sport": ["ball", "goal", "team", "run", "match", "player", "win", "score"],
    "food": ["bread", "soup", "salt", "apple", "cook", "taste", "sweet", "oven"],
    "tech": ["code", "chip", "disk", "byte", "cloud", "robot", "data", "screen"],
}
SHORT = ["trainer=cpu", "trainer.progress=false", "name=run", "data=huggingface"]
TEXTS = [*SHORT, "data.name_or_path=topics", "data.length=16", "model=huggingface", "model.name=bert"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data sets of texts, images and numbers, and with a tiny BERT and its tokenizer."""
    import tokenizers
    from tokenizers import processors
    from transformers import BertConfig, BertModel

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    random = np.random.RandomState(0)
    rows = [
        {"text": " ".join(random.choice(TOPICS[name], random.randint(3, 14))), "label": number % 3}
        for number, name in enumerate([*TOPICS] * 64)
    ]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=[*TOPICS])})
    texts = datasets.Dataset.from_list(rows, features=features)
    split = {"train": texts.select(range(144)), "test": texts.select(range(144, 192))}
    datasets.DatasetDict(split).save_to_disk(tmp_path / "topics")
    data = load_digits()
    with (tmp_path / "numbers.jsonl").open("w") as file:
        for row, target in zip(data.data[:200], data.data[:200].sum(1), strict=True):
            file.write(json.dumps({"a": row[10], "b": row[20], "c": row[30], "total": target / 7}) + "\n")
    for number, (image, target) in enumerate(zip(data.images[:200], data.target, strict=False)):
        folder = tmp_path / "digits" / f"digit {target}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype(np.uint8)).save(folder / f"{number}.png")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(word for some in TOPICS.values() for word in some)]
    own = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, "[UNK]")
    )
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes)).save_pretrained(tmp_path / "bert")
    own.save(str(tmp_path / "bert/tokenizer.json"))
    (tmp_path / "bert/tokenizer_config.json").write_text('{"pad_token": "[PAD]", "sep_token": "[SEP]"}')
    return tmp_path


def ends(*folders: Path) -> list[dict[str, Any]]:
    return [read_checkpoint(newest_checkpoint(folder)) for folder in folders]


def test_a_killed_run_ends_bit_for_bit_as_one_that_was_not(
    lrflow: Command, killed: Callable[..., None], place: Path, monkeypatch: pytest.MonkeyPatch, same: Any
) -> None:
    own = [*TEXTS, "model.lora={rank: 2, dropout: 0.1}", "layers=layer_decay", "trainer.max_epochs=3",
           "trainer.checkpoint.every=3 steps", "optimizer.lr=3e-3"]  # fmt: skip
    done = lrflow(*own, "output=whole")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(place)
    killed(*own, "output=killed", name="step-*.ckpt", number=3, before=False)  # in the middle of the second epoch
    (whole,), (folder,) = (list((place / output).iterdir()) for output in ("whole", "killed"))
    assert not (folder / "summary.json").exists() or "metrics" not in (folder / "summary.json").read_text()
    done = lrflow(*own, "output=killed", f"resume={folder}")
    assert done.returncode == 0, done.stderr
    one, other = ends(whole, folder)
    for name in ("state_dict", "optimizer_states", "global_step"):
        assert same(one[name], other[name])
    assert same(one["lrflow"]["preprocessing"], other["lrflow"]["preprocessing"])
    metrics = [json.loads((path / "summary.json").read_text())["metrics"] for path in (whole, folder)]
    assert metrics[0] == metrics[1]


def test_texts_are_predicted_and_exported_from_the_run_alone(lrflow: Command, place: Path) -> None:
    done = lrflow(*TEXTS, "trainer.max_epochs=12", "optimizer.lr=1e-2", "output=runs", "data.batch_size=16")
    assert done.returncode == 0, done.stderr
    assert "topics: 192 examples (train 130, val 14, test 48)" in done.stdout
    assert "data.text=text: found by the types of the columns" in done.stdout
    assert "data.target=label: found by its name" in done.stdout
    (run,) = (place / "runs").iterdir()
    assert json.loads((run / "summary.json").read_text())["metrics"]["test/accuracy"] > 0.9
    for name in ("topics", "bert"):
        shutil.rmtree(place / name)
    (place / "new.txt").write_text("soup and bread taste sweet\nthe team will win the match\n")
    (place / "new.jsonl").write_text('{"text": "a robot and a screen"}\n')
    expected = {"new.txt": ["food", "sport"], "new.jsonl": ["tech"]}
    for name in expected:
        done = lrflow("task=predict", f"task.inputs={name}", "output=runs", "task.weights=last")
        assert done.returncode == 0, done.stderr
        with (run / "predictions/new-last.csv").open() as file:
            assert [row["class"] for row in csv.DictReader(file)] == expected[name]
    done = lrflow("task=export", "task.to=huggingface", "output=runs", "task.weights=last")
    assert done.returncode == 0, done.stderr
    from transformers import PreTrainedTokenizerFast, pipeline

    folder = str(run / "export/last-huggingface")
    classify = pipeline("text-classification", folder, tokenizer=PreTrainedTokenizerFast.from_pretrained(folder))
    assert [one["label"] for one in classify(["soup and bread taste sweet", "a robot and a screen"])] == [
        "food",
        "tech",
    ]


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (["data.name_or_path=digits", "data.size=8", "model=cnn", "augment=flip_crop"], "val/accuracy"),
        (["data.name_or_path=numbers.jsonl", "data.target=total", "model=mlp", "model.widths=[8]"], "val/mae"),
        (
            ["data.name_or_path=topics", "data.kind=language_model", "data.tokenizer=bert", "data.length=8",
             "model=huggingface", "model.name=null", "model.pretrained=false", "model.head=causal_lm",
             "model.config={model_type: gpt2, vocab_size: 28, n_embd: 16, n_layer: 1, n_head: 2, n_positions: 16}"],
            "val/perplexity",
        ),
    ],
)  # fmt: skip
def test_images_numbers_and_language_models_train(lrflow: Command, place: Path, own: list[str], said: str) -> None:
    done = lrflow(*SHORT, *own, "trainer.max_epochs=1", "output=runs")
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
