"""The weight formats of GGUF files: blocks of few bits to fp32 exactly, and fp32 to some of them.

A block holds a fixed number of neighbouring weights of a row in a fixed number of bytes: scales,
then the weights' low bits packed several a byte. Source: block structures of ggml-common.h in
the ggml project, and the OCP Microscaling (MX) specification 1.0 for MXFP4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Format:
    """``number`` in a file; how many ``weights`` a block has, and in how many ``bytes``."""

    number: int
    weights: int
    bytes: int


FORMATS = {
    "F32": Format(0, 1, 4),
    "F16": Format(1, 1, 2),
    "Q4_0": Format(2, 32, 18),
    "Q4_1": Format(3, 32, 20),
    "Q5_0": Format(6, 32, 22),
    "Q5_1": Format(7, 32, 24),
    "Q8_0": Format(8, 32, 34),
    "Q2_K": Format(10, 256, 84),
    "Q3_K": Format(11, 256, 110),
    "Q4_K": Format(12, 256, 144),
    "Q5_K": Format(13, 256, 176),
    "Q6_K": Format(14, 256, 210),
    "IQ2_XXS": Format(16, 256, 66),
    "IQ2_XS": Format(17, 256, 74),
    "IQ3_XXS": Format(18, 256, 98),
    "IQ1_S": Format(19, 256, 50),
    "IQ4_NL": Format(20, 32, 18),
    "IQ3_S": Format(21, 256, 110),
    "IQ2_S": Format(22, 256, 82),
    "IQ4_XS": Format(23, 256, 136),
    "I8": Format(24, 1, 1),
    "I16": Format(25, 1, 2),
    "I32": Format(26, 1, 4),
    "I64": Format(27, 1, 8),
    "F64": Format(28, 1, 8),
    "IQ1_M": Format(29, 256, 56),
    "BF16": Format(30, 1, 2),
    "TQ1_0": Format(34, 256, 54),
    "TQ2_0": Format(35, 256, 66),
    "MXFP4": Format(39, 32, 17),
    "NVFP4": Format(40, 64, 36),
    "Q1_0": Format(41, 128, 18),
}
"""Every format with a number, also those that we only name when we refuse them."""

IQ4_LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
FP4_LEVELS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
"""Twice the values of E2M1, whose halves the block's scale takes up."""


def decode(blocks: np.ndarray, name: str) -> np.ndarray:
    """The weights (fp32, blocks × weights) in ``blocks`` (uint8, blocks × bytes)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return DECODERS[name](blocks)


def encode(weights: np.ndarray, name: str) -> np.ndarray:
    """The blocks (uint8, blocks × bytes) of finite ``weights`` (fp32, blocks × weights).

    What a format cannot hold becomes infinite in it; the caller looks at what comes back.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return ENCODERS[name](weights)


def planes(packed: np.ndarray, bits: int, width: int) -> np.ndarray:
    """Unpack fields of ``bits`` bits from groups of ``width`` bytes (blocks × bytes).

    Of each group come first the lowest bits of all its bytes, then the next ones, and so on.
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    groups = packed.reshape(len(packed), -1, 1, width)
    return ((groups >> shifts) & np.uint8((1 << bits) - 1)).reshape(len(packed), -1)


def half(packed: np.ndarray) -> np.ndarray:
    """Scales stored as fp16 (blocks × 2 bytes each) as fp32."""
    return np.ascontiguousarray(packed).view("<f2").astype(np.float32)


def grouped(scales: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Each group of a block's levels times its own scale."""
    count = len(levels)
    parts = levels.reshape(count, scales.shape[1], -1).astype(np.float32)
    return (scales[:, :, None] * parts).reshape(count, -1)


def decode_f16(blocks: np.ndarray) -> np.ndarray:
    """One fp16 number each."""
    return half(blocks)


def decode_bf16(blocks: np.ndarray) -> np.ndarray:
    """The upper half of an fp32 number each."""
    upper = np.ascontiguousarray(blocks).view("<u2").astype(np.uint32)
    return (upper << np.uint32(16)).view(np.float32)


def decode_q4_0(blocks: np.ndarray) -> np.ndarray:
    """Scale; 32 × 4 bits, 8 is zero."""
    return half(blocks[:, :2]) * (planes(blocks[:, 2:], 4, 16).astype(np.float32) - 8)


def decode_q4_1(blocks: np.ndarray) -> np.ndarray:
    """Scale, least; 32 × 4 bits."""
    levels = planes(blocks[:, 4:], 4, 16).astype(np.float32)
    return half(blocks[:, :2]) * levels + half(blocks[:, 2:4])


def five_bits(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """32 levels of five bits: the fifth bits in order, the low four as in Q4_0."""
    return (planes(low, 4, 16) | (planes(high, 1, 1) << np.uint8(4))).astype(np.float32)


def decode_q5_0(blocks: np.ndarray) -> np.ndarray:
    """Scale; 32 fifth bits; 32 × 4 bits; 16 is zero."""
    return half(blocks[:, :2]) * (five_bits(blocks[:, 2:6], blocks[:, 6:]) - 16)


def decode_q5_1(blocks: np.ndarray) -> np.ndarray:
    """Scale, least; 32 fifth bits; 32 × 4 bits."""
    levels = five_bits(blocks[:, 4:8], blocks[:, 8:])
    return half(blocks[:, :2]) * levels + half(blocks[:, 2:4])


def decode_q8_0(blocks: np.ndarray) -> np.ndarray:
    """Scale; 32 signed bytes."""
    return half(blocks[:, :2]) * blocks[:, 2:].view(np.int8).astype(np.float32)


def decode_q2_k(blocks: np.ndarray) -> np.ndarray:
    """16 groups' scale and least in 4 bits each; 256 × 2 bits; the scales of both."""
    both, levels = blocks[:, :16], planes(blocks[:, 16:80], 2, 32)
    scales = half(blocks[:, 80:82]) * (both & 15).astype(np.float32)
    least = half(blocks[:, 82:84]) * (both >> 4).astype(np.float32)
    return less(grouped(scales, levels), least)


def less(weights: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Each group of a block's weights less its own minimum."""
    count, groups = least.shape
    return (weights.reshape(count, groups, -1) - least[:, :, None]).reshape(count, -1)


def decode_q3_k(blocks: np.ndarray) -> np.ndarray:
    """256 third bits (set: nothing to subtract); 256 × 2 bits; 16 scales of 6 bits; scale."""
    third, low = planes(blocks[:, :32], 1, 32), planes(blocks[:, 32:96], 2, 32)
    scales = planes(blocks[:, 96:104], 4, 8) | (planes(blocks[:, 104:108], 2, 4) << np.uint8(4))
    levels = (low | (third << np.uint8(2))).astype(np.float32) - 4
    return grouped(half(blocks[:, 108:110]) * (scales.astype(np.float32) - 32), levels)


def scales_and_least(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eight scales and eight minima of 6 bits in the 12 bytes of Q4_K and Q5_K.

    Bytes 0 to 3 hold the first four scales, 4 to 7 the first four minima. The others' low four
    bits share bytes 8 to 11, their upper two are the top bits of bytes 0 to 7.
    """
    first, second, low = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.hstack([first & 63, (low & 15) | ((first >> 2) & 48)])
    least = np.hstack([second & 63, (low >> 4) | ((second >> 2) & 48)])
    return scales.astype(np.float32), least.astype(np.float32)


def eight_groups(blocks: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The weights of Q4_K and Q5_K, whose blocks begin alike."""
    scales, least = scales_and_least(blocks[:, 4:16])
    weights = grouped(half(blocks[:, :2]) * scales, levels)
    return less(weights, half(blocks[:, 2:4]) * least)


def decode_q4_k(blocks: np.ndarray) -> np.ndarray:
    """Scale of scales, scale of minima; 8 groups' scales and minima; 256 × 4 bits."""
    return eight_groups(blocks, planes(blocks[:, 16:], 4, 32))


def decode_q5_k(blocks: np.ndarray) -> np.ndarray:
    """As Q4_K, with 256 fifth bits before the low four."""
    fifth = planes(blocks[:, 16:48], 1, 32) << np.uint8(4)
    return eight_groups(blocks, planes(blocks[:, 48:], 4, 32) | fifth)


def decode_q6_k(blocks: np.ndarray) -> np.ndarray:
    """256 × low 4 bits; 256 × upper 2 bits; 16 signed scales; scale. 32 is zero."""
    upper = planes(blocks[:, 128:192], 2, 32) << np.uint8(4)
    levels = (planes(blocks[:, :128], 4, 64) | upper).astype(np.float32) - 32
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32)
    return grouped(half(blocks[:, 208:210]) * scales, levels)


def decode_iq4_nl(blocks: np.ndarray) -> np.ndarray:
    """Scale; 32 × 4 bits that number a level."""
    return half(blocks[:, :2]) * IQ4_LEVELS[planes(blocks[:, 2:], 4, 16)]


def decode_iq4_xs(blocks: np.ndarray) -> np.ndarray:
    """Scale; 8 groups' scales, upper 2 bits, then low 4; 256 × 4 bits that number a level."""
    scales = planes(blocks[:, 4:8], 4, 1) | (planes(blocks[:, 2:4], 2, 1) << np.uint8(4))
    levels = IQ4_LEVELS[planes(blocks[:, 8:], 4, 16)]
    return grouped(half(blocks[:, :2]) * (scales.astype(np.float32) - 32), levels)


def decode_mxfp4(blocks: np.ndarray) -> np.ndarray:
    """A power of two (E8M0); 32 × 4 bits that number a value of E2M1."""
    scale = np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128)
    return scale * FP4_LEVELS[planes(blocks[:, 1:], 4, 16)]


def decode_tq1_0(blocks: np.ndarray) -> np.ndarray:
    """Ternary: five a byte in base 3 (the last 16 four a byte), as a fraction of 256; scale."""
    wide = thirds(blocks[:, :32], 32, 5)
    narrow = thirds(blocks[:, 32:48], 16, 5)
    last = thirds(blocks[:, 48:52], 4, 4)
    levels = np.hstack([wide, narrow, last]).astype(np.float32) - 1
    return half(blocks[:, 52:54]) * levels


def thirds(packed: np.ndarray, width: int, digits: int) -> np.ndarray:
    """The first ``digits`` digits in base 3 of bytes that are fractions of 256, digit by digit."""
    powers = np.array([1, 3, 9, 27, 81], np.uint8)[:digits, None]
    rest = packed.reshape(len(packed), -1, 1, width) * powers
    return ((rest.astype(np.uint16) * 3) >> 8).reshape(len(packed), -1)


def decode_tq2_0(blocks: np.ndarray) -> np.ndarray:
    """Ternary: 256 × 2 bits; scale."""
    return half(blocks[:, 64:66]) * (planes(blocks[:, :64], 2, 32).astype(np.float32) - 1)


DECODERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "F16": decode_f16,
    "BF16": decode_bf16,
    "Q4_0": decode_q4_0,
    "Q4_1": decode_q4_1,
    "Q5_0": decode_q5_0,
    "Q5_1": decode_q5_1,
    "Q8_0": decode_q8_0,
    "Q2_K": decode_q2_k,
    "Q3_K": decode_q3_k,
    "Q4_K": decode_q4_k,
    "Q5_K": decode_q5_k,
    "Q6_K": decode_q6_k,
    "IQ4_NL": decode_iq4_nl,
    "IQ4_XS": decode_iq4_xs,
    "MXFP4": decode_mxfp4,
    "TQ1_0": decode_tq1_0,
    "TQ2_0": decode_tq2_0,
}


def encode_f32(weights: np.ndarray) -> np.ndarray:
    """As it is."""
    return weights.astype("<f4").view(np.uint8)


def encode_f16(weights: np.ndarray) -> np.ndarray:
    """The nearest fp16, ties to even."""
    return weights.astype("<f2").view(np.uint8)


def encode_bf16(weights: np.ndarray) -> np.ndarray:
    """The nearest bf16, ties to even: half of what is cut off is added first."""
    bits = np.ascontiguousarray(weights).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype("<u2").view(np.uint8)


def encode_q8_0(weights: np.ndarray) -> np.ndarray:
    """The largest becomes ±127; halves are rounded away from zero."""
    scale = np.abs(weights).max(axis=1, keepdims=True) / np.float32(127)
    scaled = weights * inverse(scale)
    whole = np.trunc(scaled)
    levels = whole + np.trunc(2 * (scaled - whole))
    return np.hstack([stored_half(scale), levels.astype(np.int8).view(np.uint8)])


def encode_q4_0(weights: np.ndarray) -> np.ndarray:
    """The first of the largest becomes −8; the far end, +8, does not exist and becomes +7."""
    place = np.abs(weights).argmax(axis=1)
    scale = weights[np.arange(len(weights)), place][:, None] / np.float32(-8)
    levels = np.minimum(weights * inverse(scale) + np.float32(8.5), 15).astype(np.uint8)
    return np.hstack([stored_half(scale), levels[:, :16] | (levels[:, 16:] << np.uint8(4))])


def inverse(scale: np.ndarray) -> np.ndarray:
    """1 / scale; 0 where that is not finite, as fp16 has no such scale but 0."""
    found = np.float32(1) / scale
    return np.where(np.isfinite(found), found, np.float32(0))


def stored_half(scale: np.ndarray) -> np.ndarray:
    """A scale as the bytes of fp16."""
    return scale.astype("<f2").view(np.uint8)


ENCODERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "F32": encode_f32,
    "F16": encode_f16,
    "BF16": encode_bf16,
    "Q8_0": encode_q8_0,
    "Q4_0": encode_q4_0,
}
