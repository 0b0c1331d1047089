"""The GAN: its Fréchet distance against a formula, its classifier, and evaluations that do not change the run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lrflow.recipes.gan.model import GAN, Features, frechet_distance


@pytest.mark.parametrize("examples", [200, 5])  # of 8 features: the second covariance is singular
def test_the_distance_is_that_of_the_eigenvalues_of_the_product(examples: int) -> None:
    draw = torch.Generator().manual_seed(0)
    first = torch.randn(examples, 8, generator=draw) @ torch.randn(8, 8, generator=draw)
    second = 2 * torch.randn(300, 8, generator=draw) + 1
    one, other = (np.cov(sample.double().numpy().T) for sample in (first, second))
    means = np.square(first.double().numpy().mean(0) - second.double().numpy().mean(0)).sum()
    roots = np.sqrt(np.linalg.eigvals(one @ other).real.clip(min=0))
    expected = means + np.trace(one + other) - 2 * roots.sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-7)


def test_it_is_zero_for_the_same_and_the_square_of_a_shift() -> None:
    sample = torch.randn(100, 4, generator=torch.Generator().manual_seed(1))
    assert frechet_distance(sample, sample) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(sample, sample + torch.tensor([3.0, 4.0, 0.0, 0.0])) == pytest.approx(25, rel=1e-5)


def test_the_classifier_depends_on_the_pictures_alone_and_learns_them() -> None:
    draw = torch.Generator().manual_seed(2)
    classes = torch.randint(0, 10, (400,), generator=draw)
    pictures = 0.3 * torch.randn(400, 1, 28, 28, generator=draw)
    pictures[:, 0, 0] += torch.nn.functional.one_hot(classes, 28).float() * 4
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = []
    for _ in range(2):
        features = Features()
        torch.randn(3)  # another state of the generator at each of them
        state = torch.get_rng_state()
        features.fit(pictures, classes, 40)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(features)
    assert not torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one, other) for one, other in zip(found[0].parameters(), found[1].parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in found[0].parameters())
    assert found[0].steps == 40
    right = (found[0].head(found[0](pictures)).argmax(1) == classes).float().mean()
    assert right > 0.9


def test_an_evaluation_has_the_same_noise_each_time_and_draws_none_of_the_runs() -> None:
    gan = GAN(latent=4, width=2).eval()
    real = torch.rand(20, 1, 28, 28)
    state = torch.get_rng_state()
    distances = []
    for _ in range(2):
        gan._compare(real, 0)
        distances.append(gan._distance())
    assert distances[0] == distances[1]
    assert torch.equal(torch.get_rng_state(), state)
