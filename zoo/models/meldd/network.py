"""The set model: lesions of a patient as tokens of a small transformer, for any number of patients of any size.

Tokens of all patients lie packed one behind the other, ``[t d]``, so that no layer works on padding. Attention alone
sees them as a padded table with its ``lengths``, and the operator skips the rest of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.ops import masked_attention

VariantName = Literal["V0", "V1", "V2", "V3", "V4"]
VARIANTS: tuple[VariantName, ...] = ("V0", "V1", "V2", "V3", "V4")
WITH_SITE, WITH_PERSON = ("V2", "V4"), ("V3", "V4")
UNKNOWN_SITE = 6  # the last of the seven columns of E^L
AGE_TOKEN, SEX_TOKEN, LESION_TOKEN = 0, 1, 2  # columns of E^M


@dataclass(frozen=True)
class ContextConfig:
    """The encoder over lesions. Comments say where the paper leaves a value open."""

    width: int = field(default=64, metadata={"min": 4, "max": 1024})  # D
    layers: int = field(default=4, metadata={"min": 1, "max": 24})
    heads: int = field(default=4, metadata={"min": 1, "max": 32})
    ffn: int = field(default=256, metadata={"min": 1, "max": 8192})  # open: 4 D
    dropout: float = field(default=0.1, metadata={"min": 0.0, "max": 0.9})  # open
    block: Literal["paper", "preln"] = "paper"
    """``paper``: FFN(LN(attention(E))) + E as printed; ``preln``: the usual block with a residual around each part."""
    scale: Literal["model", "head"] = "model"
    """Of the products of queries and keys: 1 / sqrt(D) as printed, or 1 / sqrt(D / heads)."""
    age_bin: int = field(default=1, metadata={"min": 1, "max": 50})  # years that share a position; open

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 2:
            raise ValueError("width must be even and a multiple of heads")


@dataclass(frozen=True)
class Layout:
    """Where the tokens of each set lie: set b holds ``lengths[b]`` rows, behind those of the sets before it."""

    lengths: Int[Tensor, " b"]

    @cached_property
    def longest(self) -> int:
        return int(self.lengths.max()) if len(self.lengths) else 0

    @cached_property
    def owner(self) -> Int[Tensor, " t"]:
        """The set of each row."""
        return torch.repeat_interleave(torch.arange(len(self.lengths), device=self.lengths.device), self.lengths)

    @cached_property
    def place(self) -> Int[Tensor, " t"]:
        """Of each row within its set."""
        starts = self.lengths.cumsum(0) - self.lengths
        return torch.arange(len(self.owner), device=self.lengths.device) - starts[self.owner]

    @cached_property
    def cell(self) -> Int[Tensor, " t"]:
        """Of each row in a padded table ``[b longest]``."""
        return self.owner * self.longest + self.place


@dataclass(frozen=True)
class Sets:
    """Patients as tensors. Rows of ``features`` and ``site`` are lesions, packed patient by patient."""

    features: Float[Tensor, "t f"]
    site: Int[Tensor, " t"]  # UNKNOWN_SITE where it isn't known
    lengths: Int[Tensor, " b"]
    age: Float[Tensor, " b"]  # years; NaN where it isn't known
    sex: Int[Tensor, " b"]  # 0 female, 1 male, -1 not known

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.lengths)

    def rows_of(self, index: Int[Tensor, " k"]) -> Int[Tensor, " s"]:
        """The rows of the patients at ``index``, patient by patient."""
        starts = (self.lengths.cumsum(0) - self.lengths)[index]
        part = Layout(self.lengths[index])
        return starts[part.owner] + part.place

    def take(self, index: Int[Tensor, " k"]) -> Sets:
        """The patients at ``index``, in that order."""
        rows = self.rows_of(index)
        return Sets(self.features[rows], self.site[rows], self.lengths[index], self.age[index], self.sex[index])

    def lesions(self, rows: Int[Tensor, " s"], lengths: Int[Tensor, " b"]) -> Sets:
        """The same patients with other lesions: ``lengths[b]`` of ``rows`` for each."""
        return replace(self, features=self.features[rows], site=self.site[rows], lengths=lengths)

    def to(self, device: torch.device | str) -> Sets:
        return Sets(*(x.to(device) for x in (self.features, self.site, self.lengths, self.age, self.sex)))


class Attention(nn.Module):
    """Multi-head attention within each set."""

    def __init__(self, config: ContextConfig) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.scale = 1 / math.sqrt(d if config.scale == "model" else d / config.heads)
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)

    def forward(self, x: Float[Tensor, "t d"], layout: Layout) -> Float[Tensor, "t d"]:
        b, n, h = len(layout.lengths), layout.longest, self.heads
        qkv = self.qkv(x)
        table = qkv.new_zeros(b * n, qkv.shape[1]).index_copy(0, layout.cell, qkv)
        q, k, v = table.view(b, n, 3, h, -1).permute(2, 0, 3, 1, 4)
        o = masked_attention(q, k, v, lengths=layout.lengths, scale=self.scale)
        return self.out(o.transpose(1, 2).reshape(b * n, -1)[layout.cell])

    def weights(self, x: Float[Tensor, "n d"], rows: slice = slice(None)) -> Float[Tensor, "h m n"]:
        """The weights themselves, of one set; those of the queries in ``rows``."""
        q, k, _ = self.qkv(x).view(len(x), 3, self.heads, -1).permute(1, 2, 0, 3)
        return (self.scale * q[:, rows] @ k.transpose(-1, -2)).softmax(-1)


class Block(nn.Module):
    """One layer of the encoder."""

    def __init__(self, config: ContextConfig) -> None:
        super().__init__()
        d = config.width
        self.printed = config.block == "paper"
        self.attention = Attention(config)
        self.norm = nn.LayerNorm(d)
        self.norm_in = nn.Identity() if self.printed else nn.LayerNorm(d)
        self.ffn = nn.Sequential(
            nn.Linear(d, config.ffn), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.ffn, d)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "t d"], layout: Layout) -> Float[Tensor, "t d"]:
        if self.printed:
            return self.dropout(self.ffn(self.norm(self.attention(x, layout)))) + x
        x = x + self.dropout(self.attention(self.norm_in(x), layout))
        return x + self.dropout(self.ffn(self.norm(x)))


class Variant(nn.Module):
    """One of V0 to V4: projection, the evidence that it takes, the encoder, and the head shared by all lesions."""

    def __init__(self, name: str, features: int, config: ContextConfig) -> None:
        super().__init__()
        d = config.width
        self.name, self.config = name, config
        self.projection = nn.Linear(features, d)
        self.site = nn.Embedding(UNKNOWN_SITE + 1, d) if name in WITH_SITE else None  # E^L
        self.sex = nn.Embedding(2, d) if name in WITH_PERSON else None  # E^S
        self.kind = nn.Embedding(3, d) if name in WITH_PERSON else None  # E^M
        self.blocks = nn.ModuleList(Block(config) for _ in range(0 if name == "V0" else config.layers))
        self.head = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(d, 1))
        for table in (self.site, self.sex, self.kind):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)

    def forward(self, sets: Sets) -> tuple[Float[Tensor, " t"], Float[Tensor, "t d"]]:
        """Logit of melanoma of every lesion, and its token of the last layer."""
        x, layout, lesions = self.tokens(sets)
        for block in self.blocks:
            x = block(x, layout)
        return self.head(x[lesions])[:, 0], x[lesions]

    def tokens(self, sets: Sets) -> tuple[Float[Tensor, "s d"], Layout, Int[Tensor, " t"]]:
        """E_0 of all patients, where each patient's tokens lie, and which of them are lesions.

        Age and sex, where they are known, stand before a patient's lesions; what isn't known has no token.
        """
        lesions = self.projection(sets.features)
        if self.site is not None:
            lesions = lesions + self.site(sets.site)
        if self.sex is None or self.kind is None:
            return lesions, sets.layout, torch.arange(lesions.shape[0], device=lesions.device)
        old, sexed = ~sets.age.isnan(), sets.sex >= 0
        extra = old.long() + sexed.long()
        layout = Layout(sets.lengths + extra)
        starts = layout.lengths.cumsum(0) - layout.lengths
        place = (starts + extra)[sets.layout.owner] + sets.layout.place
        age = age_code(sets.age[old], self.config).to(lesions.dtype) + self.kind.weight[AGE_TOKEN]
        sex = self.sex(sets.sex[sexed]) + self.kind.weight[SEX_TOKEN]
        rows = torch.cat([place, starts[old], (starts + old.long())[sexed]])
        tokens = torch.cat([lesions + self.kind.weight[LESION_TOKEN], age, sex])
        return torch.zeros_like(tokens).index_copy(0, rows, tokens), layout, place

    def attention_maps(self, sets: Sets) -> Float[Tensor, "l h m m"]:
        """The weights of every layer and head, of one patient, computed apart from the operator and exactly as it does.

        Rows attend, columns are attended to; demographic tokens come first.
        """
        x, layout, _ = self.tokens(sets)
        maps = []
        for block in self.blocks:
            maps.append(block.attention.weights(block.norm_in(x)))  # type: ignore[union-attr, operator]
            x = block(x, layout)
        return torch.stack(maps) if maps else x.new_zeros(0, self.config.heads, len(x), len(x))

    def raised(self, sets: Sets) -> Float[Tensor, " n"]:
        """Logit of each lesion of one patient among the others, less its logit by itself: the ugly-duckling score.

        Above 0 where the patient's other lesions make it more suspicious, 0 without others.
        """
        n = len(sets.features)
        each = torch.zeros(n, dtype=torch.int64, device=sets.features.device)
        ones = torch.ones(n, dtype=torch.int64, device=sets.features.device)
        alone = Sets(sets.features, sets.site, ones, sets.age[each], sets.sex[each])
        return self(sets)[0] - self(alone)[0]

    def received(self, sets: Sets, chunk: int = 256) -> Float[Tensor, " n"]:
        """Mean weight, over the last layer's heads and the other lesions, that each lesion of one patient receives.

        In units of the mean over lesions, so 1 is what attention without preference gives. Never holds more than
        ``chunk`` rows of weights.
        """
        x, layout, lesions = self.tokens(sets)
        n = len(lesions)
        if not len(self.blocks) or n < 2:
            return torch.ones(n)
        for block in self.blocks[:-1]:
            x = block(x, layout)
        last = self.blocks[-1]
        x = last.norm_in(x)  # type: ignore[operator]
        first = len(x) - n
        total = x.new_zeros(n)
        for start in range(first, len(x), chunk):
            part = last.attention.weights(x, slice(start, start + chunk)).mean(0)[:, first:]  # type: ignore[union-attr, operator]
            own = torch.arange(start - first, start - first + len(part), device=x.device)
            part[torch.arange(len(part), device=x.device), own] = 0
            total += part.sum(0)
        return (total / total.mean()).cpu()


def age_code(age: Float[Tensor, " b"], config: ContextConfig) -> Float[Tensor, "b d"]:
    """Sine and cosine code of the rounded age, clipped to 0 to 100 years."""
    position = age.round().clamp(0, 100).div(config.age_bin).floor()
    rate = 10000.0 ** (-torch.arange(0, config.width, 2, device=age.device) / config.width)
    angle = position[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


def repeated(
    lengths: Int[Tensor, " b"], count: int
) -> tuple[Int[Tensor, " s"], Int[Tensor, " b2"], Int[Tensor, " b2"]]:
    """Patients cut into pieces of exactly ``count`` lesions, for models that take a fixed number.

    Returns the rows of all pieces, the patient of each piece, and for each the number of rows that count; a last
    piece is filled up with the patient's first lesions again, round and round.
    """
    rows, owner, real = [], [], []
    start = 0
    for b, n in enumerate(lengths.tolist()):
        for first in range(0, n, count):
            rows.append(start + torch.arange(first, first + count) % n)
            owner.append(b)
            real.append(min(count, n - first))
        start += n
    return torch.cat(rows), torch.tensor(owner), torch.tensor(real)
