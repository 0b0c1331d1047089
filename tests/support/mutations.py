"""Strategies of hypothesis that break texts and trees, and how many examples of them are tried."""

from __future__ import annotations

import copy
import os
from typing import Any

from hypothesis import Phase
from hypothesis import strategies as st

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [
            "", " ", "???", "${x}", "${", "${oc.env:NO}", "${oc.env:HOME}", "${oc.decode:'[1'}", "${.}", "${..}",
            "${optimizer}", "${hydra:x}", "${now:%Y}", "${oc.create:{}}", "1e-3", "-1e400", "nan", "10%", "3 epochs",
            "auto", "null", "a.b", "[", "\u0000", "\ud800", "é", "\U0001f600", "a" * 300, 10**30, 10**400, -1, 0,
            "torch.nn.Linear", "os.system", "lrflow.models.MLP", "lrflow.schedules.Cosine", "10x", "re:(", "*",
        ]
    ),
)  # fmt: skip
"""Values that a config, a plan or a summary does not expect."""


def examples(usual: int) -> int:
    """The number of examples of a fuzz: `usual` in the suite, LRFLOW_FUZZ times as many in a campaign."""
    return usual * int(os.environ.get("LRFLOW_FUZZ", "1"))


PHASES = (Phase.explicit, Phase.reuse, Phase.generate) if "LRFLOW_FUZZ" in os.environ else tuple(Phase)
"""A campaign does not make its finds smaller, which takes longer than finding them."""


def trees(names: list[str]) -> st.SearchStrategy[Any]:
    """Nests of lists and mappings with these names."""
    return st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner, max_size=3),
        max_leaves=5,
    )


@st.composite
def broken_trees(draw: st.DrawFn, tree: Any, names: list[str]) -> Any:
    """A copy of a nest with one to three changes: a value replaced, removed, wrapped, moved or added."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        node, parent, name = tree, None, None
        while isinstance(node, dict | list) and node and (parent is None or draw(st.integers(0, 4))):
            name = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
            parent, node = node, node[name]
        if parent is None:
            return draw(trees(names))
        change = draw(st.sampled_from(["replace", "replace", "remove", "wrap", "add", "name", "swap"]))
        if change == "replace":
            parent[name] = draw(trees(names))
        elif change == "remove":
            del parent[name]
        elif change == "wrap":
            parent[name] = draw(st.sampled_from([[node], {"x": node}, str(node), {str(node)[:20]: None}]))
        elif change == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(names) | st.text(max_size=4))] = draw(trees(names))
        elif change == "name" and isinstance(parent, dict):
            parent[draw(st.sampled_from(names) | LEAVES.filter(lambda key: key.__hash__ is not None))] = parent.pop(
                name
            )
        elif change == "swap":
            other = draw(st.sampled_from(list(tree))) if isinstance(tree, dict) and tree else None
            if other is not None:
                parent[name] = copy.deepcopy(tree[other])
    return tree


@st.composite
def broken_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """A copy of a file's content that is cut, has other bytes, or repeats or loses a part."""
    content = bytes(content)
    for _ in range(draw(st.integers(1, 3))):
        at, length = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
        change = draw(st.sampled_from(["cut", "flip", "insert", "lose", "repeat", "digits", "nest"]))
        if change == "cut":
            content = content[:at]
        elif change == "flip":
            content = content[:at] + draw(st.binary(min_size=1, max_size=3)) + content[at + 1 :]
        elif change == "insert":
            content = content[:at] + draw(st.binary(max_size=8) | st.text(max_size=4).map(_encoded)) + content[at:]
        elif change == "lose":
            content = content[:at] + content[at + length :]
        elif change == "repeat":
            content = content[:at] + content[at : at + length] + content[at:]
        elif change == "digits":
            content = content[:at] + b"9" * 5000 + content[at:]
        elif change == "nest":
            content = content[:at] + b"[" * 300 + b"]" * 300 + content[at:]
    return content


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
