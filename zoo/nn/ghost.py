"""What gradients of single samples are needed for, without having them: their norms, products and weighted sums.

Of a linear layer or a convolution the gradient of one sample is a product of what went in and of what came back, so its
norm and its product with any vector follow from these two (X. Li et al., Large Language Models Can Be Strong
Differentially Private Learners, ICLR 2022, Sec. 4; Z. Bu et al., Scalable and Efficient Training of Large Convolutional
Neural Networks with Differential Privacy, NeurIPS 2022, Sec. 4). Nothing of size samples x parameters is built: the
memory is that of training without privacy, the price a pass through the network for each of the three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import OptionError
from zoo.ops.cosine_filter import CosineOn, Denominator, Filtered, clip_factors, coefficients_of, selected

NUMBERS = 1 << 18
"""That any single layer may hold beside what training holds anyway."""


class Ghosts:
    """The gradients of a batch, by sample and by ``network.parameters()``, of which none is stored.

    ``backward`` is called with the summed cross-entropy of ``physical_batch`` samples at a time. Raises
    ``OptionError`` for layers that are used twice or share parameters, of which one use alone would be seen.
    """

    def __init__(
        self,
        network: nn.Module,
        x: Float[Tensor, "b ..."],
        y: Int[Tensor, " b"],
        physical_batch: int,
        backward: Callable[[Tensor], None] = Tensor.backward,
    ) -> None:
        self.network, self.x, self.y = network, x, y
        self.physical_batch, self._backward = physical_batch, backward
        self.parameters = list(network.parameters())
        self.layers = [m for m in network.modules() if any(True for _ in m.parameters(recurse=False))]
        owned = [id(p) for layer in self.layers for p in layer.parameters(recurse=False)]
        if len(set(owned)) < len(owned):
            raise OptionError("layers share parameters; gradients=ghost can't tell whose gradient it is")
        if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in network.modules()):
            raise OptionError("dropout differs between the passes of gradients=ghost; choose gradients=each")
        self.losses = torch.zeros(len(x), device=x.device)

    def __len__(self) -> int:
        return len(self.x)

    def loss(self) -> float:
        """Mean cross-entropy of the samples whose loss is finite, at the last pass."""
        finite = self.losses[self.losses.isfinite()]
        return float(finite.mean()) if len(finite) else 0.0

    def norms(self) -> Float[Tensor, " b"]:
        """Of each sample's gradient; infinite or NaN where it isn't finite."""
        squares = torch.zeros(len(self), dtype=torch.float64, device=self.x.device)

        def look(layer: nn.Module, rows: Tensor, x: Tensor, grad: Tensor) -> None:
            squares[rows] += _squares(layer, x, grad)

        self._pass(torch.ones(len(self), device=self.x.device), look)
        return squares.sqrt().float()

    def products(self, vectors: Sequence[Float[Tensor, " f"]], usable: Bool[Tensor, " b"]) -> list[Float[Tensor, " b"]]:
        """Of the samples' gradients with each vector; 0 for samples that aren't usable."""
        widths = [p.numel() for p in self.parameters]
        parts = [
            {id(p): part.view_as(p) for p, part in zip(self.parameters, vector.split(widths), strict=True)}
            for vector in vectors
        ]
        found = [torch.zeros(len(self), dtype=torch.float64, device=self.x.device) for _ in vectors]

        def look(layer: nn.Module, rows: Tensor, x: Tensor, grad: Tensor) -> None:
            for product, part in zip(found, parts, strict=True):
                product[rows] += _product(layer, x, grad, part)

        self._pass(usable.float(), look)
        return found

    def weighted(self, weights: Float[Tensor, " b"]) -> Float[Tensor, " f"]:
        """The sum of the gradients, each with its weight; a sample of weight 0 isn't looked at."""
        self._pass(weights, None)
        summed = [p.grad.flatten() if p.grad is not None else p.new_zeros(p.numel()) for p in self.parameters]
        for p in self.parameters:
            p.grad = None
        return torch.cat(summed).detach()

    def _pass(self, weights: Tensor, look: Callable[..., None] | None) -> None:
        """Through the network and back with the samples that have a weight; ``look`` sees what passes every layer."""
        rows = weights.nonzero().squeeze(1)
        for part in rows.split(self.physical_batch) if len(rows) else ():
            with _watched(self.layers, look, part):
                each = F.cross_entropy(self.network(self.x[part]), self.y[part], reduction="none")
                self._backward((each * weights[part]).sum())
            self.losses[part] = each.detach()
            if look is not None:
                for p in self.parameters:
                    p.grad = None


def ghost_filter(
    ghosts: Ghosts,
    *,
    clip_norm: float,
    noise: Float[Tensor, " f"],
    expected_batch_size: float,
    threshold: float | None = None,
    quantile: float | None = None,
    cs_on: CosineOn = "noisy",
    cs_clip: float | None = None,
    cs_noise_std: float = 0.0,
    denominator: Denominator = "kept",
    generator: torch.Generator | None = None,
) -> tuple[Filtered, Float[Tensor, " f"]]:
    """:func:`zoo.ops.cosine_filter` by norms, products and sums of :class:`Ghosts`, to rounding, over all coordinates.

    Returns its result and the batch gradient of the samples that are finite. Not of noise for each sample, nor of a
    choice of coordinates, both of which need the gradients themselves.
    """
    norms = ghosts.norms()
    usable, size = norms.isfinite(), expected_batch_size
    factors = clip_factors(norms, clip_norm).double().where(usable, 0)
    total = ghosts.weighted(usable.float())
    if threshold == -1:
        cosine = torch.zeros_like(norms)
    else:
        noisy = cs_on == "noisy" and bool(noise.any())
        found = ghosts.products([total, noise] if noisy else [total], usable)
        dots, squares = factors * found[0], (factors * norms.double().where(usable, 0)).square()
        if noisy:
            dots = dots + _dot(total, noise) / size
            squares = squares + 2 * factors * found[1] / size + _dot(noise, noise) / size**2
        lengths = squares.clamp_min(0).sqrt() * _dot(total, total).sqrt()
        cosine = torch.where(lengths > 0, dots / lengths, 0).clamp(-1, 1).float()
    cosine = cosine.where(usable, torch.nan)
    cosine, kept = selected(cosine, usable, threshold, quantile, cs_clip, cs_noise_std, generator)
    coefficients = coefficients_of(kept, size, "expected" if threshold == -1 else denominator)
    summed = ghosts.weighted(factors.where(kept, 0).float())
    aggregate = ((coefficients[0] * summed.double() + noise) / coefficients[1]).float()
    return Filtered(aggregate, kept, cosine, norms), total


def _dot(a: Tensor, b: Tensor) -> Tensor:
    parts = zip(a.split(NUMBERS), b.split(NUMBERS), strict=True)
    return torch.stack([x.double() @ y.double() for x, y in parts]).sum()


@contextmanager
def _watched(layers: Sequence[nn.Module], look: Callable[..., None] | None, rows: Tensor) -> Iterator[None]:
    seen: set[int] = set()
    busy = False

    def looked(layer: nn.Module, x: Tensor, grad: Tensor) -> None:
        nonlocal busy
        busy = True  # looking may call the layer
        look(layer, rows, x, grad)  # type: ignore[misc]
        busy = False

    def forward(layer: nn.Module, given: tuple[Any, ...], out: Tensor) -> None:
        if busy:
            return
        if id(layer) in seen:
            raise OptionError(f"a {type(layer).__name__} is used twice; gradients=ghost would see its last use alone")
        seen.add(id(layer))
        held = [given[0].detach()]  # until it was looked at: autograd, too, lets go of it then
        out.register_hook(lambda grad: looked(layer, held.pop(), grad))

    hooks = [layer.register_forward_hook(forward) for layer in layers] if look is not None else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# ---- one layer -----------------------------------------------------------------------------------------------------


def _plain(layer: nn.Module) -> bool:
    """Whether it is a convolution that ``unfold`` can take apart."""
    return (
        type(layer) is nn.Conv2d
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def _squares(layer: nn.Module, x: Tensor, grad: Tensor) -> Tensor:
    """Squared norm of each sample's gradient of this layer."""
    if type(layer) is nn.Linear or _plain(layer):
        positions = grad[0].numel() // grad.shape[-1 if type(layer) is nn.Linear else 1]
        held = min(positions**2 * 2, layer.weight.numel()) + x[0].numel() * _spread(layer)  # type: ignore[operator,union-attr]
        parts = zip(*(t.split(max(1, NUMBERS // held)) for t in (x, grad)), strict=True)
        return torch.cat([_matrix_squares(layer, a, g, positions) for a, g in parts])
    found = [_each(layer, a, g) for a, g in _small(layer, x, grad)]
    return torch.cat([
        torch.stack([one.flatten(1).double().square().sum(1) for one in each]).sum(0) for each in found
    ])  # fmt: skip


def _spread(layer: nn.Module) -> int:
    """How often a convolution reads a number."""
    return layer.kernel_size[0] * layer.kernel_size[1] if isinstance(layer, nn.Conv2d) else 1


def _matrix_squares(layer: Any, x: Tensor, grad: Tensor, positions: int) -> Tensor:
    a, g = _matrices(layer, x, grad)  # [b t d], [b t p]
    if 2 * positions**2 <= layer.weight.numel():
        squares = ((a @ a.mT) * (g @ g.mT)).double().sum((1, 2))
    else:
        squares = (g.mT @ a).double().square().sum((1, 2))
    return squares + (g.sum(1).double().square().sum(1) if layer.bias is not None else 0)


def _matrices(layer: Any, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """What went in and what came back, as rows of positions."""
    if type(layer) is nn.Linear:
        return x.reshape(len(x), -1, x.shape[-1]), grad.reshape(len(grad), -1, grad.shape[-1])
    columns = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return columns.mT, grad.flatten(2).mT


def _product(layer: Any, x: Tensor, grad: Tensor, part: dict[int, Tensor]) -> Tensor:
    """Of each sample's gradient of this layer with one vector: the vector in the layer's place, and what came back."""
    if type(layer) is nn.Linear or type(layer) is nn.Conv2d:
        bias = None if layer.bias is None else part[id(layer.bias)]
        weight = part[id(layer.weight)]
        size = max(1, NUMBERS // (grad[0].numel() + x[0].numel()))
        return torch.cat([
            (
                (F.linear(a, weight, bias) if type(layer) is nn.Linear else layer._conv_forward(a, weight, bias)) * g  # type: ignore[operator]
            ).flatten(1).double().sum(1)
            for a, g in zip(x.split(size), grad.split(size), strict=True)
        ])  # fmt: skip
    vectors = [part[id(p)].flatten().double() for p in layer.parameters(recurse=False)]
    found = [_each(layer, a, g) for a, g in _small(layer, x, grad)]
    return torch.cat([
        torch.stack([one.flatten(1).double() @ v for one, v in zip(each, vectors, strict=True)]).sum(0)
        for each in found
    ])  # fmt: skip


def _small(layer: nn.Module, x: Tensor, grad: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some samples at a time, so that their gradients of this layer are few numbers."""
    held = sum(p.numel() for p in layer.parameters(recurse=False)) + 2 * x[0].numel()
    size = max(1, NUMBERS // held)
    yield from zip(x.split(size), grad.split(size), strict=True)


def _each(layer: Any, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The gradients themselves, of any layer without statistics of the batch; for the few numbers of a norm layer."""
    given = {name: p.detach() for name, p in layer.named_parameters(recurse=False)}

    def one(a: Tensor, g: Tensor) -> dict[str, Tensor]:
        back = torch.func.vjp(lambda p: torch.func.functional_call(layer, p, (a[None],)), given)[1]
        return back(g[None])[0]  # type: ignore[operator]

    with torch.enable_grad():
        return tuple(torch.func.vmap(one)(x, grad).values())
