"""The chunked head against the naive log-softmax: values, gradients, types, and the memory it allocates."""

import pytest
import torch
from largest_tensor import LargestTensor
from torch import Tensor

from pipeline.scoring.scoring import head_scores

ROWS, WIDTH, VOCABULARY = 37, 24, 101


def inputs(dtype: torch.dtype, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()

    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    return draw(ROWS, WIDTH), draw(VOCABULARY, WIDTH), draw(VOCABULARY) if bias else None, targets


def naive(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    logits = torch.nn.functional.linear(hidden, weight, bias) / temperature
    log_p = logits.log_softmax(1)
    return log_p.gather(1, targets[:, None])[:, 0], logits.logsumexp(1), -(log_p.exp() * log_p).sum(1)


def weighted(scores: tuple[Tensor, Tensor, Tensor], entropy: bool) -> Tensor:
    """A loss with another slope for every token and every output."""
    steps = torch.linspace(-1, 2, ROWS, dtype=torch.float64)
    logprob, value, spread = (s.double() for s in scores)
    total = (steps * logprob).sum() + (steps.flip(0) * value).sum()
    return total + (steps.square() * spread).sum() if entropy else total


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 10, 1_000])
def test_values_and_gradients_in_float64(chunk: int, temperature: float, bias: bool, entropy: bool) -> None:
    hidden, weight, offset, targets = inputs(torch.float64, bias)
    leaves = [t for t in (hidden, weight, offset) if t is not None]
    got = head_scores(hidden, weight, offset, targets, temperature, chunk, entropy)
    expected = naive(hidden, weight, offset, targets, temperature)
    for mine, theirs in zip(got[: 2 + entropy], expected, strict=False):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-12)
    slopes = torch.autograd.grad(weighted(got, entropy), leaves)
    for mine, theirs in zip(slopes, torch.autograd.grad(weighted(expected, entropy), leaves), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_narrow_types_are_as_close_to_the_truth_as_the_naive_form(dtype: torch.dtype, tolerance: float) -> None:
    hidden, weight, offset, targets = inputs(dtype)
    assert offset is not None
    leaves = (hidden, weight, offset)
    exact_leaves = [t.detach().double().requires_grad_() for t in leaves]
    exact = naive(exact_leaves[0], exact_leaves[1], exact_leaves[2], targets, 1.0)
    got, plain = head_scores(*leaves, targets, 1.0, 10, True), naive(*leaves, targets, 1.0)
    assert all(s.dtype == torch.float32 for s in got)

    def error(values: tuple[Tensor, ...]) -> float:
        gaps = [
            (v.detach().double() - e.detach()).abs().max() / e.detach().abs().max()
            for v, e in zip(values, exact, strict=True)
        ]
        return float(torch.stack(gaps).max())

    assert error(got) <= max(error(plain), tolerance)
    slopes = torch.autograd.grad(weighted(exact, True), exact_leaves)
    for mine, true in zip(torch.autograd.grad(weighted(got, True), leaves), slopes, strict=True):
        assert mine.dtype == dtype
        assert float((mine.double() - true).norm() / true.norm()) < tolerance


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.full((2, 4), 300.0, requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]]).repeat(1, 4).requires_grad_()
    logprob, value, entropy = head_scores(hidden, weight, None, torch.tensor([1, 0]), entropy=True)
    assert logprob.tolist() == pytest.approx([-2400.0, 0.0])
    assert value.tolist() == pytest.approx([1200.0, 1200.0])
    assert entropy.tolist() == pytest.approx([0, 0], abs=1e-6)
    (logprob.sum() + value.sum() + entropy.sum()).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    assert torch.isfinite(hidden.grad).all()
    assert torch.isfinite(weight.grad).all()


def test_frozen_weights_get_no_gradient() -> None:
    hidden, weight, _, targets = inputs(torch.float32)
    head_scores(hidden, weight.detach(), None, targets)[0].sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


@pytest.mark.parametrize("entropy", [False, True])
def test_no_tensor_of_tokens_by_vocabulary_exists(entropy: bool) -> None:
    tokens, vocabulary, chunk = 512, 4_000, 16
    hidden = torch.randn(tokens, 8, requires_grad=True)
    weight = torch.randn(vocabulary, 8, requires_grad=True)
    with LargestTensor() as seen:
        logprob, value, _ = head_scores(hidden, weight, None, torch.arange(tokens), 1.0, chunk, entropy)
        (logprob.sum() + value.sum()).backward()
    assert seen.elements <= max(chunk * vocabulary, weight.numel())
    with LargestTensor() as seen:
        naive(hidden, weight, None, torch.arange(tokens), 1.0)
    assert seen.elements == tokens * vocabulary
