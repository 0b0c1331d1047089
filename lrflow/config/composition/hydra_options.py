"""What lrflow changes in the way in which Hydra keeps its store of options, finds them in files and composes them."""

from __future__ import annotations

import copy
import posixpath
from collections import defaultdict
from functools import lru_cache
from typing import Any

from hydra._internal import defaults_list
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import InputDefault
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig, ListConfig, _utils, base, grammar_parser, nodes

from lrflow.config.composition.arithmetic import with_quotes
from lrflow.config.origins import check_aliases


def adapt_hydra() -> None:
    """Change how Hydra keeps its store and finds options; to be called before it composes anything."""
    _share_store()
    _copy_nodes_directly()
    _parse_once()
    _limit_aliases()
    _keep_inside()
    _skip_unused_choices()


def _share_store() -> None:
    """Keep Hydra from copying its config store for each composition, which takes as long as the rest of it."""
    type(ConfigStore.instance()).__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]


def _copy_nodes_directly() -> None:
    """Let OmegaConf (2.3) copy the attributes of its nodes, which takes a fifth of the time.

    To copy a node it makes an empty one, with all checks of a new node, and copies its description field by field.
    Hydra and OmegaConf copy a config dozens of times until it is composed.
    """

    def copied(node: Any, parent: Any, memo: dict[int, Any]) -> Any:
        if type(node) not in kinds:
            made = copy.deepcopy(node, memo)
            made.__dict__["_parent"] = parent
            return made
        made = object.__new__(type(node))
        state = made.__dict__
        state.update(node.__dict__)
        metadata = object.__new__(type(state["_metadata"]))
        metadata.__dict__.update(state["_metadata"].__dict__)
        metadata.flags = dict(metadata.flags or {})
        metadata.resolver_cache = (
            copy.deepcopy(metadata.resolver_cache) if metadata.resolver_cache else defaultdict(dict)
        )
        state.update(_metadata=metadata, _parent=parent, _flags_cache=None)
        content = state.get("_content")
        if isinstance(content, dict):
            state["_content"] = {key: copied(value, made, memo) for key, value in content.items()}
        elif isinstance(content, list):
            state["_content"] = [copied(value, made, memo) for value in content]
        return made

    values = (nodes.AnyNode, nodes.BooleanNode, nodes.EnumNode, nodes.FloatNode, nodes.IntegerNode, nodes.StringNode)
    kinds = (DictConfig, ListConfig, *values)
    for kind in kinds:
        if hasattr(kind.__deepcopy__, "of_omegaconf"):
            continue

        def copied_alone(node: Any, memo: dict[int, Any]) -> Any:
            return copied(node, node.__dict__["_parent"], memo)

        copied_alone.of_omegaconf = kind.__deepcopy__  # type: ignore[attr-defined]
        kind.__deepcopy__ = copied_alone  # type: ignore[method-assign, assignment]


def _parse_once() -> None:
    """Keep OmegaConf (2.3) from parsing the text of an interpolation again each time that it is read.

    The expressions of `${calc:...}` get the quotes that its grammar needs around parentheses.
    """
    if not hasattr(grammar_parser.parse, "cache_clear"):
        parse = grammar_parser.parse

        @lru_cache(maxsize=1024)
        def parse_once(text: str, *args: Any, **options: Any) -> Any:
            return parse(with_quotes(text), *args, **options)

        base.parse = _utils.parse = grammar_parser.parse = parse_once


def _limit_aliases() -> None:
    """Keep OmegaConf (2.3) from copying what the aliases of a short YAML file stand for until the memory is full."""
    original = _utils.get_yaml_loader
    if hasattr(original, "limits"):
        return

    def limited() -> Any:
        class Loader(original()):  # type: ignore[misc]
            def construct_document(self, node: Any) -> Any:
                check_aliases(node)
                return super().construct_document(node)

        return Loader

    limited.limits = True  # type: ignore[attr-defined]
    _utils.get_yaml_loader = limited


def _keep_inside() -> None:
    """Keep Hydra (1.3) from reading `../../private.yaml` as an option that a list of defaults names."""
    find = ConfigRepository._find_object_source
    if getattr(find, "stays_inside", False):
        return

    def find_inside(repository: ConfigRepository, config_path: str, object_type: ObjectType) -> ConfigSource | None:
        path = posixpath.normpath(config_path.replace("\\", "/") or ".")
        is_outside = path == ".." or path.startswith(("../", "/"))
        return None if is_outside else find(repository, config_path, object_type)

    find_inside.stays_inside = True  # type: ignore[attr-defined]
    replacement: Any = find_inside
    ConfigRepository._find_object_source = replacement  # type: ignore[method-assign]


def _skip_unused_choices() -> None:
    """Keep Hydra (1.3) from collecting the choices of all groups for each file whose defaults have no interpolation.

    It does so for every file of a composition, which takes a third of it, and reads them only to resolve `${recipe}`
    and the like in a list of defaults.
    """
    collect = defaults_list._create_interpolation_map
    if getattr(collect, "skips_unused", False):
        return

    def collect_if_used(overrides: Any, defaults: list[InputDefault], self_added: bool) -> DictConfig:
        used = any(not default.is_self() and default.is_interpolation() for default in defaults)
        return collect(overrides, defaults, self_added) if used else DictConfig({})

    collect_if_used.skips_unused = True  # type: ignore[attr-defined]
    replacement: Any = collect_if_used
    defaults_list._create_interpolation_map = replacement
