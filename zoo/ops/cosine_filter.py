"""DP-SGD that drops the samples whose private gradient points away from the batch gradient, in two sweeps."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zoo.ops import _library
from zoo.ops._rows import sample

CosineOn = Literal["noisy", "clipped"]
Measure = Literal["magnitude", "std", "cov"]
Denominator = Literal["kept", "expected", "printed"]

MEAN_EPSILON = 1e-12  # keeps the coefficient of variation finite


class Filtered(NamedTuple):
    """What :func:`cosine_filter` returns."""

    aggregate: Float[Tensor, " f"]
    """The step's gradient, in the dtype of the gradients."""
    kept: Bool[Tensor, " b"]
    """The samples that went into it."""
    cosine: Float[Tensor, " b"]
    """The cosines as compared with the threshold: clipped and noisy if that was asked for; NaN for dropped samples."""
    norms: Float[Tensor, " b"]
    """Norms before clipping; infinite or NaN for dropped samples."""

    @property
    def dropped(self) -> Bool[Tensor, " b"]:
        """The samples whose gradient is not finite: they took no part in anything."""
        return ~self.norms.isfinite()


def cosine_filter(
    per_sample_grads: Float[Tensor, "b f"],
    *,
    clip_norm: float,
    noise: Float[Tensor, " f"] | Literal["shared", "literal_independent"] = "shared",
    noise_std: float = 0.0,
    seed: int | None = None,
    expected_batch_size: float | None = None,
    threshold: float | None = None,
    quantile: float | None = None,
    cs_on: CosineOn = "noisy",
    cs_clip: float | None = None,
    cs_noise_std: float = 0.0,
    dim_measure: Measure | None = None,
    percentile: float = 0.5,
    denominator: Denominator | None = None,
    generator: torch.Generator | None = None,
) -> Filtered:
    r"""One step of DP-SGD that keeps only the samples whose gradient agrees with the batch gradient.

    With gradients :math:`g_i`, clip norm :math:`C`, one draw of noise :math:`z` and the expected batch size :math:`L`

    .. math::
        a_i = \min(1, C / \|g_i\|), \quad
        \tilde g_i = a_i g_i + z / L, \quad
        \hat g = \textstyle\sum_i g_i, \quad
        c_i = \cos(\hat g_S, \tilde g_{i,S})

    where :math:`S` is every coordinate, or, with ``dim_measure``, those whose measure over the samples lies above its
    ``percentile``. Then :math:`c_i` is clipped and made noisy (``cs_clip``, ``cs_noise_std``), and
    :math:`X = \{i : c_i > \psi\}` goes into

    .. math::
        \frac{\sum_X a_i g_i + z}{|X|} \;\text{(kept)}, \qquad
        \frac{\sum_X a_i g_i + z}{L} \;\text{(expected)}, \qquad
        \frac{1}{|X|} \sum_X \tilde g_i = \frac{\sum_X a_i g_i}{|X|} + \frac{z}{L} \;\text{(printed)}.

    If no sample passes, all of them are kept for this step. Nothing of size ``b x f`` is built: beyond its results the
    compiled operator needs memory of order ``b + f``, and reads the gradients twice (four times with ``dim_measure``).
    The result does not depend on the number of threads. Also a screen for client updates, one per row:
    ``cosine_filter(updates, clip_norm=math.inf, threshold=0.0)`` averages those that don't oppose the mean update.

    Args:
        per_sample_grads: ``[b, f]``, any strides; float32, float64, float16 or bfloat16. ``b`` may be 0 when
            ``expected_batch_size`` is given (an empty Poisson sample: the step is noise alone).
            **A gradient that is not finite drops its sample**: ``kept`` is False, ``cosine`` is NaN, and the sample
            counts in no mean and no measure. :attr:`Filtered.dropped` tells which; the caller reports them. So does
            one whose norm exceeds the range of its dtype (float32 for half precision; for float64 the norm squared).
        clip_norm: :math:`C`, positive; ``math.inf`` does not clip. A zero gradient has factor 1.
        noise: the draw :math:`z`, ``[f]``, added once to the sum as in DP-SGD (float32 for half-precision gradients,
            else their dtype), or

            - ``"shared"``: one draw from :math:`N(0, \text{noise\_std}^2 I)`. The reading that keeps the guarantee.
            - ``"literal_independent"``: every sample gets its own draw of that size. **NOT PRIVATE**: independent draws
              average out, so the step carries less noise than any accountant assumes. For reproducing the printed
              formula. The draws come from a counter-based stream (Philox 4x32-10 and Box-Muller; counter = column
              and sample, key = seed), are computed where they are used and never stored.
        noise_std: standard deviation of :math:`z` where it is drawn here: noise multiplier times clip norm.
        seed: of the draws made here, instead of ``generator``. Neither: torch's default generator.
        expected_batch_size: :math:`L`, positive; ``b`` by default.
        threshold: :math:`\psi` in [-1, 1]. -1 switches the filter off: whatever the denominator, the result is that of
            plain DP-SGD, ``(sum + z) / L`` (for float32 and half precision bit for bit that of clip factors in float32
            and a sum in float64 in the order of the samples).
        quantile: instead of a threshold, in [0, 1]: keep the cosines above their order statistic
            ``ceil(quantile * count)``, so that about this share is filtered out.
        cs_on: ``"clipped"`` looks at :math:`a_i g_i` without :math:`z`, for cosine and measure. In high dimensions
            the noise swamps every single gradient and ``"noisy"`` sees nothing.
        cs_clip: :math:`\lambda` in (0, 2]: clip the cosines to [max(-1, psi - lambda), min(1, psi + lambda)].
        cs_noise_std: standard deviation of the noise added to the cosines then (the card's :math:`2 \lambda \tau`).
        dim_measure: of every coordinate over the samples of :math:`\tilde g`: ``"magnitude"`` mean of absolute values,
            ``"std"`` standard deviation, ``"cov"`` standard deviation over (absolute mean + 1e-12).
        percentile: in [0, 1]: coordinates at or below the order statistic ``ceil(percentile * f)`` of the measure are
            left out, ties too. A cosine over no coordinate, or of no length, is 0.
        denominator: see above; ``"kept"`` by default, and ``"printed"``, the only choice, for independent noise.
        generator: on the device of the gradients.

    Returns:
        :class:`Filtered` ``(aggregate [f], kept [b], cosine [b], norms [b])``. Norms and cosines are float64 for
        float64 gradients and float32 otherwise; on CPU they are accumulated in float64. Norms and, without
        ``cs_noise_std``, cosines and selection are not private. Nothing here is differentiable.

    Raises:
        ValueError: wrong rank, dtype or device, an option out of range, threshold and quantile both or neither.
        RuntimeError: on CPU, noise that is not finite.

    Source: D. Bani-Harouni et al., Gradient Self-alignment in Private Deep Learning, 2023, Algorithms 1 and 2.
    Algorithm 1 prints the average of raw gradients, which nothing protects; here, as in Algorithm 2, only private ones
    are averaged.
    """
    literal = isinstance(noise, str) and noise == "literal_independent"
    denominator = denominator or ("printed" if literal else "kept")
    _refuse_tensors(per_sample_grads, noise)
    _refuse_options(clip_norm, noise_std, seed, generator, cs_on, dim_measure, percentile)
    _refuse_selection(threshold, quantile, cs_clip, cs_noise_std, denominator, literal)
    b, f = per_sample_grads.shape
    size = _batch_size(b, expected_batch_size)
    with torch.no_grad():
        grads, dtype = per_sample_grads.detach(), _compute_dtype(per_sample_grads)
        draws_here = noise_std > 0 and isinstance(noise, str) and not literal
        if seed is not None and (draws_here or cs_noise_std > 0):
            generator = torch.Generator(grads.device).manual_seed(seed)
        draw: Tensor | None = None
        stream: int | None = None
        if isinstance(noise, Tensor):
            draw = noise.detach()
        elif literal:
            stream = seed if seed is not None else _draw_seed(grads.device, generator)
        elif draws_here:
            draw = noise_std * torch.randn(f, dtype=dtype, device=grads.device, generator=generator)
        scale = noise_std / size if literal else 1 / size

        unselected = _rank(percentile, f) if dim_measure else 0
        on_noise = (draw, scale, stream) if cs_on == "noisy" else (None, 0.0, None)
        cosine, norms = _score(grads, *on_noise, clip_norm, dim_measure or "none", unselected)

        cosine, kept = selected(cosine, norms.isfinite(), threshold, quantile, cs_clip, cs_noise_std, generator)
        weights = torch.where(kept, clip_factors(norms, clip_norm), 0)
        coefficients = coefficients_of(
            kept, size, "expected" if threshold == -1 and not literal else denominator, literal
        )
        aggregate = _aggregate(grads, weights, coefficients, draw, scale if literal else 1.0, stream)
    return Filtered(aggregate, kept, cosine, norms)


def selected(
    cosine: Float[Tensor, " b"],
    usable: Bool[Tensor, " b"],
    threshold: float | None,
    quantile: float | None,
    cs_clip: float | None,
    cs_noise_std: float,
    generator: torch.Generator | None,
) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
    """The cosines as they are compared, and who is kept; options as of :func:`cosine_filter`."""
    if cs_clip is not None and threshold is not None:
        cosine = cosine.clamp(max(-1.0, threshold - cs_clip), min(1.0, threshold + cs_clip))
    if cs_noise_std > 0:
        draw = torch.randn(len(cosine), dtype=cosine.dtype, device=cosine.device, generator=generator)
        cosine = cosine + cs_noise_std * draw
    if threshold == -1:
        return cosine, usable
    kept = usable & (cosine > (_quantile(cosine, usable, quantile) if threshold is None else threshold))
    return cosine, torch.where(kept.any(), kept, usable)  # nobody passes: everybody does, for this step


def clip_factors(norms: Float[Tensor, " b"], clip_norm: float) -> Float[Tensor, " b"]:
    """min(1, clip_norm / norm), rounded to the dtype of the norms; 1 for a norm of 0."""
    return (clip_norm / norms.double()).clamp(max=1).to(norms.dtype)


def reference_score(
    grads: Float[Tensor, "b f"],
    noise: Float[Tensor, " f"] | None,
    noise_scale: float,
    seed: int | None,
    clip_norm: float,
    measure: str,
    unselected: int,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Cosines and norms in plain PyTorch, by way of the matrix of private gradients in float64."""
    x = grads.double()
    norms = torch.linalg.vector_norm(x, dim=1).to(_compute_dtype(grads))
    usable = norms.isfinite().unsqueeze(1)
    x = torch.where(usable, x, 0)
    private = torch.where(usable, clip_factors(norms, clip_norm).double().unsqueeze(1), 0) * x
    shared = 0.0 if noise is None else noise_scale * noise.double()
    if seed is not None:
        private = private + noise_scale * normal_stream(*grads.shape, seed=seed, device=grads.device)
    batch = x.sum(0)
    seen = private + shared
    if measure != "none" and unselected > 0 and len(grads) > 0:
        column = _measure(private, shared, usable, measure).float()
        selected = column > column.sort().values[unselected - 1]
        batch, seen = batch * selected, seen * selected
    lengths = torch.linalg.vector_norm(seen, dim=1) * torch.linalg.vector_norm(batch)
    cosine = torch.where(lengths > 0, (seen @ batch) / lengths, 0).clamp(-1, 1)
    return torch.where(usable.squeeze(1), cosine, torch.nan).to(norms.dtype), norms


def reference_aggregate(
    grads: Float[Tensor, "b f"],
    weights: Float[Tensor, " b"],
    coefficients: Float[Tensor, " 2"],
    noise: Float[Tensor, " f"] | None,
    noise_scale: float,
    seed: int | None,
) -> Float[Tensor, " f"]:
    """``(coefficients[0] * weighted sum + noise) / coefficients[1]`` in plain PyTorch, in the order of the rows.

    Rows of weight zero are not looked at. With a seed every other row gets its own noise, which counts into the sum.
    """
    if (
        noise is not None
        and noise.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not noise.isfinite().all()
    ):
        raise RuntimeError("noise must be finite")
    total = torch.zeros(grads.shape[1], dtype=torch.float64, device=grads.device)
    for i in range(grads.shape[0]):
        row = weights[i].double() * grads[i].double()
        if seed is not None:
            row = row + noise_scale * normal_stream(1, grads.shape[1], seed=seed, first_row=i, device=grads.device)[0]
        total = total + torch.where(weights[i] == 0, 0, row)
    total = coefficients[0] * total
    if noise is not None:
        total = total + noise_scale * noise.double()
    return (total / coefficients[1]).to(_compute_dtype(grads)).to(grads.dtype)


def normal_stream(
    b: int, f: int, *, seed: int, first_row: int = 0, device: torch.device | str = "cpu"
) -> Float[Tensor, "b f"]:
    """The standard normal numbers of ``noise="literal_independent"``, float64 with the resolution of float32.

    Row ``i`` and column ``j`` hold number ``j % 4`` of Philox 4x32-10 with counter ``(j // 4, first_row + i)`` and key
    ``seed``: two uniform words make two normal numbers by Box-Muller.
    """
    quads = torch.arange((f + 3) // 4, device=device).expand(b, -1)
    rows = (first_row + torch.arange(b, device=device)).unsqueeze(1).expand_as(quads)
    low = 0xFFFFFFFF
    c = [quads & low, quads >> 32, rows & low, rows >> 32]
    k0, k1 = seed & low, (seed >> 32) & low
    for _ in range(10):
        # The product of two 32-bit words wraps around int64, with the right bits.
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [((p1 >> 32) & low) ^ c[1] ^ k0, p1 & low, ((p0 >> 32) & low) ^ c[3] ^ k1, p0 & low]
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    normal = []
    for uniform, turn in ((c[0], c[1]), (c[2], c[3])):
        # float32, because the words near 2^32 round to 1 there
        radius = (-2 * (uniform.float() * 2.0**-32 + 2.0**-33).log().double()).sqrt()
        angle = turn.double() * (2 * math.pi * 2.0**-32)
        normal += [radius * angle.cos(), radius * angle.sin()]
    return torch.stack(normal, -1).flatten(1)[:, :f]


def _measure(
    private: Float[Tensor, "b f"], shared: Tensor | float, usable: Bool[Tensor, "b 1"], measure: str
) -> Float[Tensor, " f"]:
    count = usable.sum()
    if measure == "magnitude":
        return torch.where(usable, (private + shared).abs(), 0).sum(0) / count
    # About the first usable row, so that a column of equal values has no deviation at all.
    origin = private[usable.squeeze(1).int().argmax()]
    difference = torch.where(usable, private - origin, 0)
    mean = difference.sum(0) / count
    deviation = (difference.square().sum(0) / count - mean.square()).clamp_min(0).sqrt()
    return deviation if measure == "std" else deviation / ((origin + mean + shared).abs() + MEAN_EPSILON)


def _score(
    grads: Tensor,
    noise: Tensor | None,
    noise_scale: float,
    seed: int | None,
    clip_norm: float,
    measure: str,
    unselected: int,
) -> tuple[Tensor, Tensor]:
    compiled = _library.use_compiled("cosine_filter", grads.device)
    run = torch.ops.zoo.cosine_filter if compiled else reference_score
    return run(grads, noise, noise_scale, seed, clip_norm, measure, unselected)


def _aggregate(
    grads: Tensor, weights: Tensor, coefficients: Tensor, noise: Tensor | None, noise_scale: float, seed: int | None
) -> Tensor:
    compiled = _library.use_compiled("cosine_filter_aggregate", grads.device)
    run = torch.ops.zoo.cosine_filter_aggregate if compiled else reference_aggregate
    return run(grads, weights, coefficients, noise, noise_scale, seed)


def coefficients_of(kept: Tensor, size: float, denominator: str, literal: bool = False) -> Float[Tensor, " 2"]:
    """The factor of the sum, and the divisor of sum and noise. On the device: nobody waits for the count."""
    count = kept.sum().double()
    expected = torch.full_like(count, size)
    there = torch.where(count > 0, count, expected)  # with no sample at all the step is noise / expected size
    if literal:  # every kept sample brings its own noise, already divided by the expected size
        return torch.stack([torch.ones_like(count), there])
    if denominator == "kept":
        return torch.stack([torch.ones_like(count), there])
    scale = torch.ones_like(count) if denominator == "expected" else expected / there
    return torch.stack([scale, expected])


def _quantile(cosine: Tensor, usable: Tensor, quantile: float | None) -> Tensor | float:
    if quantile is None or cosine.shape[0] == 0:
        return -math.inf
    rank = (quantile * usable.sum().double() - 1e-9).ceil().long()
    ordered = torch.where(usable, cosine, torch.inf).sort().values
    value = ordered.gather(0, (rank - 1).clamp_min(0).unsqueeze(0))
    return torch.where(rank > 0, value, -torch.inf)


def _rank(share: float, count: int) -> int:
    """ceil(share * count), for shares such as 0.1 that binary numbers only approach."""
    return math.ceil(share * count - 1e-9)


def _draw_seed(device: torch.device, generator: torch.Generator | None) -> int:
    return int(torch.randint(2**63 - 1, (), device=device, generator=generator).item())


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _batch_size(b: int, expected: float | None) -> float:
    if expected is None and b == 0:
        raise ValueError("expected_batch_size must be given for an empty batch")
    if expected is not None and not 0 < expected < math.inf:
        raise ValueError(f"expected_batch_size must be positive and finite, not {expected}")
    return b if expected is None else expected


def _refuse_tensors(grads: Tensor, noise: Tensor | str) -> None:
    if grads.dim() != 2:
        raise ValueError(f"per_sample_grads must be [b, f], not of shape {tuple(grads.shape)}")
    if grads.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise ValueError(f"per_sample_grads must be float32, float64, float16 or bfloat16, not {grads.dtype}")
    if isinstance(noise, str):
        if noise not in ("shared", "literal_independent"):
            raise ValueError(f"noise must be a tensor, 'shared' or 'literal_independent', not {noise!r}")
        return
    if noise.dim() != 1 or noise.shape[0] != grads.shape[1]:
        raise ValueError(f"noise must be [f] with f = {grads.shape[1]}, not of shape {tuple(noise.shape)}")
    if noise.dtype != _compute_dtype(grads):
        raise ValueError(f"noise must be {_compute_dtype(grads)} for {grads.dtype} gradients, not {noise.dtype}")
    if noise.device != grads.device:
        raise ValueError(
            f"noise and per_sample_grads must be on the same device, not {noise.device} and {grads.device}"
        )


def _refuse_options(
    clip_norm: float,
    noise_std: float,
    seed: int | None,
    generator: torch.Generator | None,
    cs_on: str,
    dim_measure: str | None,
    percentile: float,
) -> None:
    if not clip_norm > 0:
        raise ValueError(f"clip_norm must be positive, not {clip_norm}")
    if not 0 <= noise_std < math.inf:
        raise ValueError(f"noise_std must be finite and at least 0, not {noise_std}")
    if seed is not None and generator is not None:
        raise ValueError("seed and generator exclude each other")
    if seed is not None and not 0 <= seed < 2**63:
        raise ValueError(f"seed must be in [0, 2^63), not {seed}")
    if cs_on not in get_args(CosineOn):
        raise ValueError(f"cs_on must be one of {', '.join(get_args(CosineOn))}, not {cs_on!r}")
    if dim_measure is not None and dim_measure not in get_args(Measure):
        raise ValueError(f"dim_measure must be None or one of {', '.join(get_args(Measure))}, not {dim_measure!r}")
    if not 0 <= percentile <= 1:
        raise ValueError(f"percentile must be in [0, 1], not {percentile}")


def _refuse_selection(
    threshold: float | None,
    quantile: float | None,
    cs_clip: float | None,
    cs_noise_std: float,
    denominator: str,
    literal: bool,
) -> None:
    if (threshold is None) == (quantile is None):
        raise ValueError("give either threshold or quantile")
    if threshold is not None and not -1 <= threshold <= 1:
        raise ValueError(f"threshold must be in [-1, 1], not {threshold}")
    if quantile is not None and not 0 <= quantile <= 1:
        raise ValueError(f"quantile must be in [0, 1], not {quantile}")
    if cs_clip is not None and not 0 < cs_clip <= 2:
        raise ValueError(f"cs_clip must be in (0, 2], not {cs_clip}")
    if cs_clip is not None and threshold is None:
        raise ValueError("cs_clip is a range about the threshold: it can't go with quantile")
    if not 0 <= cs_noise_std < math.inf:
        raise ValueError(f"cs_noise_std must be finite and at least 0, not {cs_noise_std}")
    if denominator not in get_args(Denominator):
        raise ValueError(f"denominator must be one of {', '.join(get_args(Denominator))}, not {denominator!r}")
    if literal and denominator != "printed":
        raise ValueError(f"denominator must be 'printed' for noise='literal_independent', not {denominator!r}")


def _fake_score(
    grads: Tensor,
    noise: Tensor | None,
    noise_scale: float,
    seed: int | None,
    clip_norm: float,
    measure: str,
    unselected: int,
) -> tuple[Tensor, Tensor]:
    empty = grads.new_empty(grads.shape[:1], dtype=_compute_dtype(grads))
    return empty, torch.empty_like(empty)


def _fake_aggregate(
    grads: Tensor, weights: Tensor, coefficients: Tensor, noise: Tensor | None, noise_scale: float, seed: int | None
) -> Tensor:
    return grads.new_empty(grads.shape[1:])


def _check(device: torch.device) -> tuple[Tensor, ...]:
    """For the comparison of kernels and references: all gradients and some, one of them not finite, both noises."""
    grads = sample((12, 700), 0).to(device)
    grads[3, 5] = math.inf
    options = {"clip_norm": 5.0, "threshold": 0.2, "expected_batch_size": 12.0}
    found = cosine_filter(grads, noise=sample((700,), 1).to(device), **options)  # type: ignore[arg-type]
    some = cosine_filter(
        grads,
        noise="literal_independent",
        noise_std=0.1,
        seed=7,
        dim_measure="std",
        **options,  # type: ignore[arg-type]
    )
    return *found, *some


if _library.declare("cosine_filter", _check):
    torch.library.register_fake("zoo::cosine_filter", _fake_score)
if _library.declare("cosine_filter_aggregate", _check):
    torch.library.register_fake("zoo::cosine_filter_aggregate", _fake_aggregate)
