"""Dropout masks as a function of seed, step, document and dropout id, without generator state."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmwright.core.random import key
from lmwright.models.core.ragged import Group, Ragged

FRESH = {"bit_generator": "SFC64", "has_uint32": 0, "uinteger": 0}
COUNTER = (1).to_bytes(8, "little")  # where SFC64's own counter begins
WARM_UP = 12  # numbers after which its authors hold a state for mixed


class DropoutRNG:
    """Dropout masks keyed by seed, step, document and dropout id, and by nothing else.

    Each document has a stream of its own at each dropout id (SFC64 of Doty-Humphrey's PractRand,
    its state a hash of all four; numpy's Philox takes three times as long). So a document's masks
    are the same in whatever company it is packed, and a resumed run needs no generator's state.
    """

    def __init__(self, seed: int, step: int) -> None:
        self.key = key(seed, "dropout", step).to_bytes(16, "little")
        self.bits = np.random.SFC64(0)

    def fill_mask(
        self, mask: np.ndarray, rate: float, dropout_id: int, document: int, first: int = 0
    ) -> None:
        """Set a float ``mask`` to 0 with probability ``rate``, else to 1 / (1 - rate).

        The mask is that from number ``first`` on of a longer one.
        """
        kept = self.keep_mask(mask.size, rate, dropout_id, document, first).reshape(mask.shape)
        np.multiply(kept, mask.dtype.type(1 / (1 - rate)), out=mask, dtype=mask.dtype)

    def keep_mask(
        self, count: int, rate: float, dropout_id: int, document: int, first: int
    ) -> np.ndarray:
        """Boolean mask of the kept ones of ``count`` numbers from ``first`` on.

        Bits are compared sixteen at a time, so the rate is kept to within 2**-17.
        """
        name = f"{dropout_id} {document}".encode()
        digest = hashlib.blake2b(name, digest_size=24, key=self.key).digest()
        words = np.frombuffer(digest + COUNTER, dtype="<u8").astype(np.uint64)
        state: Any = {**FRESH, "state": {"state": words}}
        self.bits.state = state
        self.bits.random_raw(WARM_UP, output=False)
        drawn = self.bits.random_raw((first + count + 3) // 4).view(np.uint16)
        kept: np.ndarray = drawn[first : first + count] >= np.uint16(round(rate * 65536))
        return kept

    def token_mask(self, batch: Ragged, like_nd: Tensor, rate: float, dropout_id: int) -> Tensor:
        """A mask for one vector a token, shaped and typed as ``like_nd``."""
        width = like_nd.shape[1]
        mask = np.empty(like_nd.numel(), dtype=numpy_type(like_nd))
        firsts = batch.firsts or [0] * len(batch.documents)
        spans = zip(batch.documents, batch.spans(), firsts, strict=True)
        for document, (start, stop), first in spans:
            self.fill_mask(
                mask[start * width : stop * width], rate, dropout_id, document, first * width
            )
        return like_operand(torch.from_numpy(mask).view(like_nd.shape), like_nd)

    def attention_weight_mask(
        self,
        group: Group,
        heads: int,
        like_bmqh: Tensor,
        rate: float,
        dropout_id: int,
        firsts: Sequence[int] | None = None,
    ) -> Tensor:
        """A mask for a group's attention weights: (documents * heads, length, key length).

        ``firsts``: for each document the first of its rows that its queries are; they get the
        mask that a pass over all would give them.
        """
        keys = group.key_length
        shape = len(group.documents), heads, group.length, keys
        mask = np.empty(shape, dtype=numpy_type(like_bmqh))
        own_firsts = [0] * len(mask) if firsts is None else firsts
        for document, own, first in zip(group.documents, mask, own_firsts, strict=True):
            # A row has the mask of all heads before the next row has any.
            self.fill_mask(own.swapaxes(0, 1), rate, dropout_id, document, first * heads * keys)
        return like_operand(torch.from_numpy(mask.reshape(-1, group.length, keys)), like_bmqh)

    def pooled_mask(self, batch: Ragged, like_bd: Tensor, rate: float, dropout_id: int) -> Tensor:
        """A mask for one vector a document of the stream, shaped and typed as ``like_bd``."""
        mask = np.empty(tuple(like_bd.shape), dtype=numpy_type(like_bd))
        for row, document in zip(mask, batch.documents, strict=True):
            self.fill_mask(row, rate, dropout_id, document)
        return like_operand(torch.from_numpy(mask), like_bd)

    def document_mask(self, batch: Ragged, like_nd: Tensor, rate: float, dropout_id: int) -> Tensor:
        """Stochastic-depth factors, one a document and the same for all of its rows: (n, 1)."""
        mask = np.empty((len(batch.documents), 1), dtype=numpy_type(like_nd))
        for row, document in zip(mask, batch.documents, strict=True):
            self.fill_mask(row, rate, dropout_id, document)
        return like_operand(torch.from_numpy(mask.repeat(batch.lengths(), axis=0)), like_nd)


def like_operand(mask: Tensor, other: Tensor) -> Tensor:
    """A mask, drawn on the CPU, in the dtype and on the device of another tensor."""
    return mask.to(device=other.device, dtype=other.dtype)


def numpy_type(tensor: Tensor) -> type[np.floating]:
    """The numpy dtype of a mask for ``tensor``."""
    return np.float64 if tensor.dtype == torch.float64 else np.float32
