"""The choice of a token on a GPU against that on a CPU; its distribution is in `test_sampling`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl_alliteration.lm.inversion import inverse_of, invert, invert_in_fixed_order, prefix_sums

LAST = 1 - 2.0**-53  # the greatest number that `uniforms` can give


def test_cpus_keep_theirs() -> None:  # else texts would change: TEXTS_VERSION
    assert inverse_of(torch.device("cpu")) is invert
    assert inverse_of(torch.device("cuda")) is invert_in_fixed_order


def test_no_operation_is_one_without_a_fixed_order_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("cumsum has none")

    monkeypatch.setattr(torch.Tensor, "cumsum", refuse)
    monkeypatch.setattr(torch, "cumsum", refuse)
    assert invert_in_fixed_order(torch.ones(1, 10), torch.tensor([0.55], dtype=torch.float64)).tolist() == [5]


@given(
    vocabulary=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.0, 1.0, 10.0, 60.0]),
    kept=st.sampled_from([0.05, 0.5, 1.0]),
)
def test_a_gpu_makes_the_choice_of_a_cpu(vocabulary: int, seed: int, spread: float, kept: float) -> None:
    random = np.random.default_rng(seed)
    weights = np.exp(random.normal(0, spread, (40, vocabulary)))
    weights *= random.random(weights.shape) < kept
    weights[:, random.integers(vocabulary)] = 1.0
    uniform = random.random(40)
    uniform[:2] = 0.0, LAST
    on_cpu = invert(torch.tensor(weights), torch.tensor(uniform)).numpy()
    on_gpu = invert_in_fixed_order(torch.tensor(weights), torch.tensor(uniform)).numpy()
    assert (np.take_along_axis(weights, on_gpu[:, None], 1) > 0).all()
    for row in np.flatnonzero(on_cpu != on_gpu):  # a tie: the target lies between the two, but for rounding
        cumulative = weights[row].cumsum() / weights[row].sum()
        lower, upper = sorted((on_cpu[row], on_gpu[row]))
        assert np.abs(cumulative[lower:upper] - uniform[row]).max() < 1e-13


def test_a_gpu_adds_up_in_an_order_that_is_fixed() -> None:
    # Additions of whole tensors: the same to the bit in any batch, wherever a row lies in memory.
    weights = torch.rand(7, 2048, generator=torch.Generator().manual_seed(0))
    sums = prefix_sums(weights.double())
    assert torch.equal(sums[3:4], prefix_sums(weights[3:4].double()))
    torch.testing.assert_close(sums, weights.double().cumsum(-1), rtol=1e-14, atol=0)


def test_what_is_not_finite_chooses_some_token() -> None:  # `Trainer.step` then says so
    weights = torch.tensor([[float("nan")] * 5, [1.0] * 5])
    tokens = invert_in_fixed_order(weights, torch.tensor([0.5, LAST], dtype=torch.float64))
    assert tokens.tolist() == [4, 4]
