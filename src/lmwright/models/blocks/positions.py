"""Position information in attention: rotary embedding, ALiBi, T5 bias, Transformer-XL scores.

Letters in names: n tokens, b documents, q queries and s keys of a document, m heads, h head
width, f frequencies, r distances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lmwright.models.core import spec
from lmwright.models.core.linear import DenseLinear


def sinusoids(positions_n: Tensor, width: int, setting: spec.Sinusoids) -> Tensor:
    """Fixed position vectors (n, width) (Vaswani et al. 2017, section 3.5), fp64."""
    half = width // 2
    steps = half - 1 if setting.spaced else half
    numbers_f = torch.arange(half, dtype=torch.float64, device=positions_n.device)
    frequencies_f = torch.exp(-math.log(10000.0) / steps * numbers_f)
    angles_nf = positions_n[:, None].double() * frequencies_f
    parts = torch.sin(angles_nf), torch.cos(angles_nf)
    if setting.interleaved:
        return torch.stack(parts, dim=-1).flatten(1)
    return torch.cat(parts, dim=-1)


def rotary_cos_sin(
    setting: spec.Rotary, positions_n: Tensor, longest: int
) -> tuple[Tensor, Tensor]:
    """Cosines and sines (n, width / 2) of the rotary angles at ``positions_n``, fp64.

    ``longest`` is the length of their document so far, on which some scalings depend.
    """
    frequencies_f, factor = frequencies(setting, longest, positions_n.device)
    angles_nf = positions_n[:, None].double() * frequencies_f
    return torch.cos(angles_nf) * factor, torch.sin(angles_nf) * factor


def frequencies(
    setting: spec.Rotary, longest: int, device: torch.device | None = None
) -> tuple[Tensor, float]:
    """Rotary frequencies (width / 2,), fp64, and the factor of sines and cosines."""
    numbers_f = torch.arange(0, setting.width, 2, dtype=torch.float64, device=device)
    exponents_f = numbers_f / setting.width
    plain_f = setting.base**-exponents_f
    scaling = setting.scaling
    if scaling is None:
        return plain_f, 1.0
    return SCALINGS[scaling.kind](setting, scaling, plain_f, exponents_f, longest), (
        scaling.attention
    )


def linear_scaling(
    setting: spec.Rotary, scaling: spec.Scaling, plain_f: Tensor, exponents_f: Tensor, longest: int
) -> Tensor:
    """Positions interpolated (Chen et al. 2023, equation 3)."""
    return plain_f / scaling.factor


def dynamic_scaling(
    setting: spec.Rotary, scaling: spec.Scaling, plain_f: Tensor, exponents_f: Tensor, longest: int
) -> Tensor:
    """A base that grows with the length beyond the trained one (NTK-aware scaling)."""
    length = max(longest, scaling.original)
    growth = scaling.factor * length / scaling.original - (scaling.factor - 1)
    base = setting.base * growth ** (setting.width / (setting.width - 2))
    return exponents_f.new_tensor(base) ** -exponents_f


def llama3_scaling(
    setting: spec.Rotary, scaling: spec.Scaling, plain_f: Tensor, exponents_f: Tensor, longest: int
) -> Tensor:
    """Wavelengths beyond the trained length stretched, short ones kept, a blend between."""
    periods_f = scaling.original * plain_f / (2 * math.pi)
    kept_f = ((periods_f - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    return kept_f * plain_f + (1 - kept_f) * plain_f / scaling.factor


def yarn_scaling(
    setting: spec.Rotary, scaling: spec.Scaling, plain_f: Tensor, exponents_f: Tensor, longest: int
) -> Tensor:
    """A ramp over the frequencies' numbers from kept to stretched (Peng et al. 2024, section 3.2).

    Where a frequency has ``high`` periods in the trained length the ramp begins, at ``low`` it
    ends, both rounded outwards if ``truncate``.
    """
    first, last = (
        setting.width
        * math.log(scaling.original / (count * 2 * math.pi))
        / (2 * math.log(setting.base))
        for count in (scaling.high, scaling.low)
    )
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, setting.width - 1)
    numbers_f = torch.arange(len(plain_f), dtype=torch.float64, device=plain_f.device)
    stretched_f = ((numbers_f - first) / (last - first or 1e-3)).clamp(0, 1)
    return plain_f * (1 - stretched_f) + plain_f / scaling.factor * stretched_f


def longrope_scaling(
    setting: spec.Rotary, scaling: spec.Scaling, plain_f: Tensor, exponents_f: Tensor, longest: int
) -> Tensor:
    """A divisor for each frequency (Ding et al. 2024), others beyond the trained length."""
    chosen = scaling.long if longest > scaling.original else scaling.short
    return plain_f / plain_f.new_tensor(chosen)


SCALINGS = {
    "linear": linear_scaling,
    "dynamic": dynamic_scaling,
    "llama3": llama3_scaling,
    "yarn": yarn_scaling,
    "longrope": longrope_scaling,
}


def rotary_factors(cos_sin: tuple[Tensor, Tensor], setting: spec.Rotary) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines in the shapes that :func:`apply_rotary` takes.

    From (n, width / 2) to (n, 1, 2, width / 2) half-split or (n, 1, width / 2, 2) interleaved; the
    sine of a pair's first number is negative.
    """
    cos_nf, sin_nf = cos_sin
    two = pair_dimension(setting)
    return cos_nf.unsqueeze(two)[:, None], torch.stack([-sin_nf, sin_nf], dim=two)[:, None]


def pair_dimension(setting: spec.Rotary) -> int:
    """The dimension of the two numbers of a rotated pair."""
    return -2 if setting.layout == "half_split" else -1


def apply_rotary(x_nmh: Tensor, factors: tuple[Tensor, Tensor], setting: spec.Rotary) -> Tensor:
    """Rotate the first ``width`` numbers of heads (n, m, h) by :func:`rotary_factors`."""
    cos, sin = factors
    two, whole = pair_dimension(setting), setting.width == x_nmh.shape[-1]
    part = x_nmh if whole else x_nmh[..., : setting.width]
    pairs = part.unflatten(-1, (2, -1) if two == -2 else (-1, 2))
    # Each number by the cosine, and the other of its pair by the signed sine.
    found = torch.addcmul(pairs * cos, pairs.flip(two), sin).flatten(-2)
    return found if whole else torch.cat([found, x_nmh[..., setting.width :]], dim=-1)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """ALiBi slopes (Press et al. 2022, section 3), also where the heads are no power of two."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (head + 1) / power) for head in range(power)]
    more = [2.0 ** (-4.0 * (head + 1) / power) for head in range(0, 2 * (heads - power), 2)]
    return tuple(slopes + more)


class T5Bias(nn.Module):
    """A learned bias a head for each bucket of distances (Raffel et al. 2020, section 2.1)."""

    def __init__(self, setting: spec.T5Bias, heads: int) -> None:
        super().__init__()
        self.setting = setting
        self.weight = nn.Parameter(torch.empty(setting.buckets, heads))

    def forward(self, queries_bq: Tensor, keys_bs: Tensor) -> Tensor:
        """The bias (b, m, q, s) of queries and keys at these positions; b may be 1."""
        distances_bqs = keys_bs[:, None] - queries_bq[:, :, None]
        return self.weight[self.bucket(distances_bqs)].permute(0, 3, 1, 2)

    def bucket(self, distances: Tensor) -> Tensor:
        """Bucket numbers of distances (key minus query)."""
        count, first = self.setting.buckets, torch.zeros_like(distances)
        if self.setting.bidirectional:
            count //= 2
            first = (distances > 0) * count
            distances = distances.abs()
        else:
            distances = (-distances).clamp(min=0)
        exact = count // 2
        # The logarithm in fp32, as the published weights were trained with: where a distance
        # lies on the edge of two buckets, another precision would choose the other.
        far = exact + (
            torch.log(distances.clamp(min=1).float() / exact)
            / math.log(self.setting.max_distance / exact)
            * (count - exact)
        ).to(torch.int64)
        return first + torch.where(distances < exact, distances, far.clamp(max=count - 1))


class TransformerXL(nn.Module):
    """Scores from content, distance and segment (Dai et al. 2019; Yang et al. 2019).

    Given queries q, keys k and distances' sinusoids r: (q + u)·k + (q + v)·R r + (q + s)·e, with
    e one of two vectors for keys of the query's own and of another segment.
    """

    def __init__(
        self, setting: spec.TransformerXL, heads: int, head_width: int, width: int
    ) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.content = nn.Parameter(torch.empty(heads, head_width))
        self.distance = nn.Parameter(torch.empty(heads, head_width))
        self.map = DenseLinear(width, heads * head_width, bias=False)
        self.segment = self.segments = None
        if setting.segments:
            self.segment = nn.Parameter(torch.empty(heads, head_width))
            self.segments = nn.Parameter(torch.empty(2, heads, head_width))

    def score_bias(
        self,
        q_bmqh: Tensor,
        k_bmsh: Tensor,
        queries_bq: Tensor,
        keys_bs: Tensor,
        other_bqs: Tensor | None,
    ) -> Tensor:
        """The unscaled bias of the scores q·k: (b, m, q, s)."""
        distances_bqs = queries_bq[:, :, None] - keys_bs[:, None]
        distances, index_bqs = distances_bqs.unique(return_inverse=True)
        vectors_rd = sinusoids(distances, self.width, spec.Sinusoids(interleaved=False))
        r_rmh = self.map(vectors_rd.to(q_bmqh.dtype)).view(len(distances), self.heads, -1)
        by_distance = torch.einsum("bmqh,rmh->bmqr", q_bmqh + self.distance[:, None], r_rmh)
        index = index_bqs[:, None].expand(len(q_bmqh), self.heads, -1, -1)
        bias = by_distance.gather(-1, index) + (self.content[:, None] * k_bmsh).sum(-1)[:, :, None]
        if other_bqs is not None and self.segment is not None and self.segments is not None:
            queries = q_bmqh + self.segment[:, None]
            own, other = torch.einsum("bmqh,smh->sbmq", queries, self.segments)[..., None]
            bias = bias + torch.where(other_bqs[:, None], other, own)
        return bias
