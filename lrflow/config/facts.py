"""The facts of the data: taken from files where the config leaves them open, and what a model has to fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrflow.config.checks.batches import check_batches
from lrflow.config.checks.pretrained import HUGGINGFACE
from lrflow.config.checks.written_paths import path_problem, stays_inside
from lrflow.config.config import Config
from lrflow.config.objective import loss_of
from lrflow.config.packages import check_parquet, is_installed, missing_package
from lrflow.data.splits import HeldOut, is_share
from lrflow.errors import ConfigError, Problem
from lrflow.hub import package_named
from lrflow.limits import is_whole
from lrflow.objectives import LANGUAGE_MODEL

if TYPE_CHECKING:
    from lrflow.data.huggingface.parts import PreparedSet
    from lrflow.data.images.parts import PreparedImages
    from lrflow.data.stream.parts import PreparedStream
    from lrflow.data.table.parts import PreparedTable
    from lrflow.data.text.parts import PreparedText

    Prepared = PreparedTable | PreparedImages | PreparedText | PreparedStream | PreparedSet

_WHOLE = ("lrflow.models.Logistic", "lrflow.models.MLP")
"""Models that flatten their input: only the number of its values counts."""
_IMAGE = ("lrflow.models.CNN", "lrflow.models.ResNet")
_OF_TABLES = "lrflow.models.TableNet"

TABLE = "lrflow.data.Table"
"""The data module whose facts are taken from its files."""

IMAGES = "lrflow.data.Images"
"""The data module whose facts are taken from its folders and images."""

TEXTS = "lrflow.data.Text"
"""The data module whose facts are taken from its texts."""

STREAM = "lrflow.data.Stream"
"""The data module whose facts are taken from its shards."""

SETS = "lrflow.data.HuggingFace"
"""The data module whose facts are taken from a data set of Hugging Face."""

_OF_TOKENS = "lrflow.models.Transformer"

_NEEDED = ("examples", "shape", "outputs", "loss")


def fill_facts(config: DictConfig, typed: Collection[str] = ()) -> list[Problem]:
    """Fill in what the config leaves open of its data: the facts of files, and the sizes of parts that are shares.

    Args:
        config: composed config, changed in place.
        typed: keys that the command line sets.

    Returns:
        The problems of the files.
    """
    data = config.get("data")
    if not isinstance(data, DictConfig):
        return []
    try:
        node: Any = OmegaConf.to_container(data, resolve=True)
    except OmegaConfBaseException:  # reported when the config is resolved
        return []
    facts = node.get("facts") if isinstance(node.get("facts"), dict) else {}
    sizes = {name: node[name] for name in ("val_size", "test_size") if is_share(node.get(name))}
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    readers: dict[str, Callable[[dict[str, Any]], Prepared]]
    readers = {TABLE: _table, IMAGES: _images, TEXTS: _texts, STREAM: _stream, SETS: _set}
    cache = node.get("cache", "auto")
    if node.get("_target_") in (IMAGES, TEXTS) and not ("data.cache" in typed or stays_inside(str(cache))):
        return [path_problem("data.cache", cache)]  # before anything is written there
    prepare = readers.get(str(node.get("_target_")))
    if prepare and (sizes or any(facts.get(name) is None for name in _NEEDED)):
        try:
            prepared = prepare(node)
            found = {f"facts.{name}": value for name, value in prepared.facts.items() if facts.get(name) is None}
            found |= {f"{part}_size": size for part, size in prepared.sizes.items()}
        except ConfigError as error:
            problems = error.problems
            # So that only the file is to blame.
            found = {**dict.fromkeys(sizes, 0), "facts.cardinalities": []}
            of_tokens = node["_target_"] == SETS and OmegaConf.select(config, "model._target_") == _OF_TOKENS
            if of_tokens or node["_target_"] == TEXTS:
                found |= {"facts.head": LANGUAGE_MODEL, "facts.vocabulary": 1}
    elif is_whole(facts.get("examples")) and "val_size" in node and (sizes or node.get("folds") or node.get("fold")):
        held_out = HeldOut.of(node)
        if not (problems := held_out.problems()):
            held = held_out.sizes(facts["examples"])
            found = {f"{part}_size": size for part, size in held.items() if f"{part}_size" in node}
    for name, value in found.items():
        OmegaConf.update(config, f"data.{name}", value, force_add=True)
    return problems


def _table(node: dict[str, Any]) -> PreparedTable:
    """Return the table of a config, read and split."""
    from lrflow.data.table.parts import TableOptions, prepare

    missing = [name for name in ("file", "target") if node.get(name) == "???"]
    if missing:  # each is reported when the config is resolved
        raise ConfigError([])
    options = TableOptions.of(node)
    files = {"file": options.file, "val_file": options.val_file, "test_file": options.test_file}
    if problems := [one for name, path in files.items() for one in check_parquet(path, f"data.{name}")]:
        raise ConfigError(problems)
    return prepare(options)


def _images(node: dict[str, Any]) -> PreparedImages:
    """Return the images of a config, found and decoded."""
    from lrflow.data.images.files import ImageOptions
    from lrflow.data.images.parts import prepare

    options = ImageOptions.of(node)
    if problems := check_parquet(options.file, "data.file"):
        raise ConfigError(problems)
    return prepare(options)


def _texts(node: dict[str, Any]) -> PreparedText:
    """Return the texts of a config, read and split."""
    from lrflow.data.text.options import TextOptions
    from lrflow.data.text.parts import prepare

    options = TextOptions.of(node)
    files = {name: getattr(options, name) for name in ("root", "file", "val_file", "test_file")}
    problems = [one for name, path in files.items() for one in check_parquet(path, f"data.{name}")]
    for name, path in files.items():
        if path is not None and (package := package_named(path)) and not is_installed(package):
            problems.append(missing_package(package, f"data.{name}", path))
    if options.needs_library and not is_installed("tokenizers"):
        problems.append(missing_package("tokenizers", "data.tokenizer", options.tokenizer))
    if problems:
        raise ConfigError(problems)
    return prepare(options)


def _stream(node: dict[str, Any]) -> PreparedStream:
    """Return the shards of a config, indexed."""
    from lrflow.data.stream.files import StreamOptions, shards_of_parts
    from lrflow.data.stream.parts import prepare

    if node.get("shards") == "???":  # reported when the config is resolved
        raise ConfigError([])
    options = StreamOptions.of(node)
    first = shards_of_parts(options)[""][0]
    if problems := check_parquet(str(first), "data.shards"):
        raise ConfigError(problems)
    return prepare(options)


def _set(node: dict[str, Any]) -> PreparedSet:
    """Return the data set of a config, read and split."""
    from lrflow.data.huggingface.parts import prepare
    from lrflow.data.huggingface.source import SetOptions

    if node.get("name_or_path") == "???":  # reported when the config is resolved
        raise ConfigError([])
    options = SetOptions.of(node)
    if lacking := [package for package in ("datasets", "tokenizers") if not is_installed(package)]:
        raise ConfigError([missing_package(lacking[0], "data", "huggingface")])
    return prepare(options)


def check_facts(config: Config) -> Iterator[Problem]:
    """Yield a problem for each setting of batches, and each size of a model of lrflow's, that the data contradict."""
    model, facts = config.model, config.data.facts
    yield from check_batches(config)
    if facts is not None and model.target == HUGGINGFACE:
        yield from _check_embedding(config)
    if facts is None or model.target not in (*_WHOLE, *_IMAGE, _OF_TABLES, _OF_TOKENS):
        return
    given = model.plain()
    if (facts.vocabulary is None) == (model.target == _OF_TOKENS):
        yield _tokens_problem(model.target, facts.vocabulary)
        return
    yield from _check_categories(config, given.get("cardinalities") or [])
    shape, outputs = given.get("shape"), given.get("outputs")
    if facts.shape is not None and _is_shape(shape) and not _takes(model.target, shape, facts.shape):
        hint = f"leave it out, or set data.facts.shape if the data have other inputs; {_sizes(model.target)}"
        yield Problem("model.shape", f"the inputs of the data have the shape {facts.shape}", shape, hint)
    if facts.outputs is None or not isinstance(outputs, int) or isinstance(outputs, bool):
        return
    try:
        loss = loss_of(config)
    except ConfigError:  # reported by itself
        return
    classes = loss is not None and loss.kind == "classes"
    if outputs == 1 and loss is not None and not classes:  # two classes are one label, and one number for each example
        return
    if outputs < facts.outputs or (outputs != facts.outputs and not classes):
        what = (
            f"the data have {facts.outputs} classes" if classes else f"the data have {facts.outputs} values to predict"
        )
        yield Problem("model.outputs", what, outputs, f"leave it out: it is {facts.outputs} then")


def _check_embedding(config: Config) -> Iterator[Problem]:
    """Yield a problem if the data have tokens that a pretrained model does not embed."""
    facts, given = config.data.facts, config.model.plain()
    known: Any = {**(given.get("config") or {}), **(given.get("options") or {})}.get("vocab_size")
    if facts is None or facts.vocabulary is None or not is_whole(known):
        return
    needed = facts.vocabulary - (facts.padding == facts.vocabulary - 1)  # the model masks it
    if needed > known:
        tokenizer = config.data.plain().get("tokenizer")
        message = f"the texts have {needed:,} different tokens, and the model embeds {known:,}"
        yield Problem("data.tokenizer", message, tokenizer, "the tokenizer of the model: data.tokenizer=FOLDER")


def _check_categories(config: Config, own: Any) -> Iterator[Problem]:
    """Yield a problem if a model does not embed the categories of the data, or gets indices that are rounded."""
    known = config.data.facts.cardinalities if config.data.facts else None
    if known and config.model.target != _OF_TABLES:
        message = f"takes the indices of the {len(known)} columns of categories for numbers"
        yield Problem("model", message, config.model.target, "model=table embeds them; or data.categories=one_hot")
    elif known is not None and config.model.target == _OF_TABLES and known != own:
        yield Problem("model.cardinalities", f"the data have {known}", own, "leave it out")
    elif own and config.trainer.precision in ("16-true", "bf16-true"):
        message = "rounds the indices of the categories"
        yield Problem("trainer.precision", message, config.trainer.precision, "16-mixed and bf16-mixed do not")


def _tokens_problem(target: str, vocabulary: int | None) -> Problem:
    """Return the problem of a model that does not fit because only one of it and the data has tokens."""
    if vocabulary is None:
        message = "takes sequences of tokens, and the data have no data.facts.vocabulary"
        return Problem("model", message, target, "data=text has tokens")
    message = "takes the numbers of tokens for quantities"
    return Problem("model", message, target, "model=transformer embeds them")


def _is_shape(shape: Any) -> TypeGuard[list[int]]:
    return isinstance(shape, list) and all(isinstance(size, int) for size in shape)


def _takes(target: str, shape: Sequence[int], given: Sequence[int]) -> bool:
    if target in (*_WHOLE, _OF_TABLES):
        return math.prod(shape) == math.prod(given)
    if target.endswith("ResNet"):  # it takes the mean over any image
        return list(shape[:1]) == list(given[:1])
    return list(shape) == list(given)


def _sizes(target: str) -> str:
    name = target.rpartition(".")[2]
    return f"{name} needs the same {'number of values' if target in (*_WHOLE, _OF_TABLES) else 'sizes'}"
