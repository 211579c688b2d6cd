"""Linear maps that never learn, whose weights are kept in bf16 or in int8, and nowhere in fp32.

What a map's weight is kept in is also what its product is computed in, whatever the precision of
the network: so a training, its evaluation and its service see the same numbers, and no product
needs the weight in fp32. The gradient of a map's input is there; the weight has none.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.kernels.int8 import Int8Weight
from lmwright.models.core.bf16 import Bf16Linear, in_bf16, mapped
from lmwright.models.core.linear import Linear
from lmwright.models.core.matmul import linear
from lmwright.models.core.packed import multiplied

BasePrecision = Literal["fp32", "bf16", "int8"]


class FrozenLinear(Linear):
    """A map that never learns; its bias stays as it was.

    ``weight`` is what is multiplied by, made anew for each who asks, in shape and type of the
    weight that it was kept from.
    """

    def __init__(self, inner: Linear) -> None:
        super().__init__(inner.in_features, inner.parts, inner.members)
        weight, bias = inner.weight, inner.bias
        assert isinstance(weight, Tensor) and isinstance(bias, nn.Parameter | None)
        self.shape, self.dtype = weight.shape, weight.dtype
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """The weight in shape and type of the one that was given."""
        raise NotImplementedError

    @property
    def held_bytes(self) -> int:
        """The bytes that the weight takes in memory."""
        raise NotImplementedError

    @property
    def weights(self) -> int:
        """How many numbers the weight is."""
        return self.shape.numel()

    def bias_of(self, member: int, own: slice) -> Tensor | None:
        """The bias of some outputs of a member."""
        return None if self.bias is None else self.bias.view(self.members, -1)[member, own]

    def exact(self, x_ni: Tensor, member: int = 0) -> Tensor:
        """The outputs by the kept weight, with nothing rounded on the way."""
        weight_moi = self.weight.reshape(self.members, self.out_features, self.in_features)
        return linear(x_ni, weight_moi[member], self.bias_of(member, slice(None)))


class Bf16Frozen(FrozenLinear):
    """A map with its weight in bf16; x is rounded to it, sums are fp32 (``core/bf16.py``)."""

    def __init__(self, inner: Linear) -> None:
        super().__init__(inner)
        whole = self.members, self.out_features, self.in_features
        assert isinstance(inner.weight, Tensor)
        kept_moi = in_bf16(inner.weight.detach().reshape(whole))
        self.register_buffer("kept_moi", kept_moi, persistent=False)
        self.kept_moi: Tensor

    def forward(self, x_ni: Tensor, rows: slice | None = None, member: int = 0) -> Tensor:
        """Map each row of the stream."""
        own = rows or slice(None)
        weight_oi, bias_o = self.kept_moi[member, own], self.bias_of(member, own)
        if torch.is_grad_enabled() and x_ni.requires_grad:
            found: Tensor = Bf16Linear.apply(x_ni, weight_oi, weight_oi, bias_o)
            return found
        return mapped(in_bf16(x_ni), weight_oi, x_ni.dtype, bias_o)

    @property
    def weight(self) -> Tensor:
        """The rounded weight."""
        return self.kept_moi.to(self.dtype).view(self.shape)

    @property
    def held_bytes(self) -> int:
        """Two a weight."""
        return self.kept_moi.nbytes


class Int8Frozen(FrozenLinear):
    """A map with its weight in int8, packed, a scale a row; x is two terms of int8
    (``core/packed.py``). Sums are exact, so that the CPU and its threads change no bit.

    Each part of each member is packed by itself, so that products of some parts are whole ones.
    """

    def __init__(self, inner: Linear) -> None:
        super().__init__(inner)
        whole = self.members, self.out_features, self.in_features
        assert isinstance(inner.weight, Tensor)
        parts = [each.split(list(self.parts)) for each in inner.weight.detach().reshape(whole)]
        self.packed = Packed([[Int8Weight.pack(part) for part in member] for member in parts])

    def forward(self, x_ni: Tensor, rows: slice | None = None, member: int = 0) -> Tensor:
        """Map each row of the stream; BadInput where that is not on the CPU."""
        if x_ni.device.type != "cpu":
            raise BadInput(
                f"a base in int8 on {x_ni.device}", "a CPU", "set tune.base to bf16 or fp32"
            )
        start, stop, _ = (rows or slice(None)).indices(self.out_features)
        found, first = [], 0
        for weight, size in zip(self.packed.members[member], self.parts, strict=True):
            low, high = max(start - first, 0), min(stop - first, size)
            if low < high:
                bias_o = self.bias_of(member, slice(first, first + size))
                y_no: Tensor = Int8Product.apply(x_ni, weight, bias_o)
                found.append(y_no if high - low == size else y_no[:, low:high])
            first += size
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    @property
    def weight(self) -> Tensor:
        """Quants times scales."""
        whole = [part.dequantised() for member in self.packed.members for part in member]
        return torch.cat(whole).to(self.dtype).view(self.shape)

    @property
    def held_bytes(self) -> int:
        """One a weight, and the scales."""
        return sum(part.packed.nbytes for member in self.packed.members for part in member)


class Packed:
    """The packed weights of a map by member and part; a copy of it is itself, as none changes."""

    def __init__(self, members: list[list[Int8Weight]]) -> None:
        self.members = members

    def __deepcopy__(self, memo: dict[int, Any]) -> Packed:
        """The same."""
        return self


class Int8Product(torch.autograd.Function):
    """The product in int8, with the gradient of its input by the weight that stands for it."""

    @staticmethod
    def forward(ctx: Any, x_ni: Tensor, weight: Int8Weight, bias_o: Tensor | None) -> Tensor:  # type: ignore[override]
        """(n, in) -> (n, out)."""
        ctx.weight = weight
        return multiplied(weight, x_ni, bias_o)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The gradient of the input. The weight is in fp32 for no longer than this product."""
        if not ctx.needs_input_grad[0]:
            return None, None, None
        weight_oi = ctx.weight.dequantised().to(gradients[0].dtype)
        return linear(gradients[0], weight_oi.t(), None), None, None


FROZEN: dict[BasePrecision, type[FrozenLinear]] = {"bf16": Bf16Frozen, "int8": Int8Frozen}
"""How a map that never learns keeps its weight, by what it is kept in."""


def bytes_held(network: nn.Module) -> tuple[int, int]:
    """Bytes of a network's weights in memory: of those that stay, and of those that learn."""
    known = list(network.parameters())
    kept = [each.held_bytes for each in network.modules() if isinstance(each, FrozenLinear)]
    learn = sum(each.nbytes for each in known if each.requires_grad)
    return sum(each.nbytes for each in known) - learn + sum(kept), learn
