"""TableNet: embeddings beside the numbers."""

from __future__ import annotations

import pytest
import torch

from lrflow.errors import ConfigError
from lrflow.models import MLP, TableNet


def test_categories_are_embedded_beside_the_numbers() -> None:
    network = TableNet([5], 3, cardinalities=[4, 1000], widths=[8])
    # 1.6 n^0.56, as in fastai
    assert [tuple(one.weight.shape) for one in network.embeddings] == [(4, 3), (1000, 77)]
    assert not any(one.weight[0].any() for one in network.embeddings)  # unknown categories
    rows = torch.tensor([[0.5, -1.0, 2.0, 3.0, 999.0], [0.5, -1.0, 2.0, 0.0, 0.0]])
    first, second = network.embeddings
    inputs = torch.cat([rows[:, :3], first.weight[[3, 0]], second.weight[[999, 0]]], 1)
    network.eval()
    torch.testing.assert_close(network(rows), network.head(network.stage1(inputs)))
    network(rows).sum().backward()
    assert first.weight.grad[[0, 3]].any(1).all()
    assert not first.weight.grad[1:3].any()


def test_without_categories_it_is_a_multilayer_perceptron() -> None:
    torch.manual_seed(0)
    network, other = TableNet([1, 8, 8], 10, widths=[16, 8]).eval(), MLP([1, 8, 8], 10, widths=[16, 8]).eval()
    other.load_state_dict(network.state_dict())
    inputs = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(network(inputs), other(inputs))
    assert [*TableNet([2], 1, [3, 3], embedding_width=5).embeddings.parameters()][1].shape == (3, 5)
    with pytest.raises(ConfigError, match="at least the 3 indices"):
        TableNet([2], 1, cardinalities=[3, 3, 3])
