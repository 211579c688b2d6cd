"""Positions on their own: angles against the reference's, the others against plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lmwright.models.blocks.positions import (
    T5Bias,
    alibi_slopes,
    apply_rotary,
    frequencies,
    rotary_cos_sin,
    rotary_factors,
    sinusoids,
)
from lmwright.models.core.spec import Rotary, Sinusoids
from lmwright.models.core.spec import T5Bias as BucketsSpec
from lmwright.models.family.rotary import read_rotary, write_rotary
from tests.parity.harness import in_double

LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [1.0, 2.0, 4.0, 8.0, 9.0, 12.0, 20.0, 30.0],
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": YARN,
    "yarn, not rounded": {**YARN, "truncate": False},
    "yarn, other turns": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn, a ramp of one step": {**YARN, "beta_fast": 1.0, "beta_slow": 1.0, "truncate": False},
    "yarn, shorter than a turn": {
        **YARN,
        "original_max_position_embeddings": 5,
        "truncate": False,
    },
    "yarn, half of a head": {**YARN, "partial_rotary_factor": 0.5},
    "yarn, with a factor": {**YARN, "attention_factor": 1.5},
    "yarn, with two scales": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.1},
    "longrope": LONG,
    "longrope, with factors": {**LONG, "factor": 8.0, "attention_factor": 1.25},
    "longrope, by a factor": {**LONG, "factor": 8.0},
}


def reference(scaling: dict, length: int) -> tuple[torch.Tensor, float, dict]:
    """The reference's angles a position and factor, and its whole config."""
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=32,
        num_attention_heads=2,
        max_position_embeddings=256 if "original_max_position_embeddings" in scaling else 64,
        rope_parameters={"rope_theta": 500.0, **scaling},
    )
    with in_double(True):
        found, factor = rope.ROPE_INIT_FUNCTIONS[scaling["rope_type"]](
            config, "cpu", seq_len=length
        )
    return found, factor, config.to_dict()


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200, 1000])
@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_angles_equal_the_reference(name, length):
    wanted, factor, config = reference(SCALINGS[name], length)
    setting = read_rotary(config, 16)
    found, own = frequencies(setting, length)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    assert own == pytest.approx(factor, rel=1e-12)
    cos, sin = rotary_cos_sin(setting, torch.tensor([length - 1]), length)
    torch.testing.assert_close(cos, torch.cos((length - 1) * wanted)[None] * factor)
    torch.testing.assert_close(sin, torch.sin((length - 1) * wanted)[None] * factor)


@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_angles_differ_from_plain_ones(name):
    scaled = read_rotary(reference(SCALINGS[name], 200)[2], 16)
    plain = Rotary(base=500.0, width=scaled.width)
    parts = zip(
        rotary_cos_sin(scaled, torch.arange(200), 200),
        rotary_cos_sin(plain, torch.arange(200), 200),
        strict=True,
    )
    assert any(not torch.allclose(one, two) for one, two in parts)


@pytest.mark.parametrize("name", SCALINGS)
def test_a_scaling_written_is_read_back(name):
    _, _, config = reference(SCALINGS[name], 1)
    setting = read_rotary(config, 16)
    again = {**config, "rope_parameters": write_rotary(setting, 16)}
    assert read_rotary(again, 16) == setting


@pytest.mark.parametrize("layout", ["half_split", "interleaved"])
def test_rotary_keeps_lengths_and_depends_on_distances_alone(layout):
    """A product of a apply_rotary query and key depends on how far apart they stand."""
    rng, setting = np.random.default_rng(0), Rotary(base=100.0, width=6, layout=layout)
    q, k = torch.from_numpy(rng.normal(size=(2, 8))).unbind()
    places = torch.arange(30)
    angles = rotary_factors(rotary_cos_sin(setting, places, 30), setting)
    qs, ks = (apply_rotary(x.expand(30, 1, 8), angles, setting)[:, 0] for x in (q, k))
    torch.testing.assert_close(qs.norm(dim=1), q.norm().expand(30))
    assert torch.equal(qs[:, 6:], q[6:].expand(30, 2))
    for back in (0, 1, 7):
        products = (qs[back:] * ks[: 30 - back]).sum(1)
        torch.testing.assert_close(products, products[:1].expand(30 - back))
    pairs = [(0, 1), (2, 3), (4, 5)] if layout == "interleaved" else [(0, 3), (1, 4), (2, 5)]
    for number, (one, two) in enumerate(pairs):
        turn = np.exp(1j * places.numpy() * 100.0 ** (-2 * number / 6))
        wanted = (q[one].item() + 1j * q[two].item()) * turn
        np.testing.assert_allclose(qs[:, one] + 1j * qs[:, two].numpy(), wanted, rtol=1e-12)


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
def test_sinusoids_equal_the_formula(interleaved, spaced):
    """PE(p, 2i) = sin(p / 10000^(2i/d)), PE(p, 2i + 1) = cos of the same, or sines first."""
    width, places = 10, [0, 1, 5, 511]
    setting = Sinusoids(interleaved=interleaved, spaced=spaced)
    found = sinusoids(torch.tensor(places), width, setting)
    for row, place in zip(found.tolist(), places, strict=True):
        for i in range(width // 2):
            angle = place / 10000 ** (i / (width // 2 - 1 if spaced else width // 2))
            sine, cosine = (2 * i, 2 * i + 1) if interleaved else (i, i + width // 2)
            assert row[sine] == pytest.approx(math.sin(angle), abs=1e-12)
            assert row[cosine] == pytest.approx(math.cos(angle), abs=1e-12)


@pytest.mark.parametrize("heads", [1, 2, 8, 16, 64])
def test_slopes_of_a_power_of_two_are_a_geometric_series(heads):
    """From 2^(-8/n) on, by the same ratio (Press et al. 2022, section 3)."""
    ratio = 2 ** (-8 / heads)
    assert alibi_slopes(heads) == pytest.approx([ratio**n for n in range(1, heads + 1)])


@pytest.mark.parametrize("heads", [3, 6, 12, 20, 112])
def test_other_slopes_are_those_of_the_power_below_and_every_other_of_the_one_above(heads):
    power = 2 ** int(math.log2(heads))
    wanted = [*alibi_slopes(power), *alibi_slopes(2 * power)[::2][: heads - power]]
    assert alibi_slopes(heads) == pytest.approx(wanted)
    assert len(set(alibi_slopes(heads))) == heads


def bucket(distance: int, buckets: int, most: int, bidirectional: bool) -> int:
    """T5's bucket of key minus query, one number at a time."""
    first = 0
    if bidirectional:
        buckets //= 2
        first = buckets if distance > 0 else 0
        back = abs(distance)
    else:
        back = max(0, -distance)
    exact = buckets // 2
    if back < exact:
        return first + back
    far = exact + int(math.log(back / exact) / math.log(most / exact) * (buckets - exact))
    return first + min(far, buckets - 1)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("buckets", "most"), [(32, 130), (8, 10), (16, 50)])
def test_buckets_equal_the_formula(buckets, most, bidirectional):
    """``most`` such that no distance lies on an edge, where rounding would decide."""
    made = T5Bias(
        BucketsSpec(buckets=buckets, max_distance=most, bidirectional=bidirectional), heads=2
    )
    distances = torch.arange(-200, 201)
    wanted = [bucket(d, buckets, most, bidirectional) for d in distances.tolist()]
    assert made.bucket(distances).tolist() == wanted
    assert set(wanted) >= {0, buckets - 1}


@pytest.mark.parametrize("bidirectional", [False, True])
def test_published_buckets_equal_the_reference(bidirectional):
    """32 buckets up to 128, where distances do lie on edges."""
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    made = T5Bias(BucketsSpec(buckets=32, max_distance=128, bidirectional=bidirectional), heads=2)
    distances = torch.arange(-2000, 2001)
    wanted = t5.T5Attention._relative_position_bucket(distances, bidirectional, 32, 128)
    assert torch.equal(made.bucket(distances), wanted)


def test_a_bias_is_the_row_of_its_bucket():
    made = T5Bias(BucketsSpec(buckets=8, max_distance=10, bidirectional=True), heads=3)
    with torch.no_grad():
        made.weight.copy_(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    queries, keys = torch.tensor([[4, 5]]), torch.tensor([[0, 4, 9]])
    bias = made(queries, keys)
    assert bias.shape == (1, 3, 2, 3)
    for q, query in enumerate([4, 5]):
        for s, key in enumerate([0, 4, 9]):
            assert torch.equal(bias[0, :, q, s], made.weight[bucket(key - query, 8, 10, True)])
