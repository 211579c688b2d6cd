"""Recurrent layers and convolutions over each document of the stream.

Letters in names: n tokens, b documents, d width, c channels, w tokens of a window.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from lmwright.core.errors import BadInput
from lmwright.models.blocks.activation import ACTIVATIONS
from lmwright.models.blocks.build import BuildContext
from lmwright.models.blocks.context import ForwardContext, RecurrentState
from lmwright.models.core import spec
from lmwright.models.core.linear import WindowLinear
from lmwright.models.core.ragged import Ragged

CELLS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Recurrent(nn.Module):
    """RNN (Elman 1990), GRU (Cho et al. 2014) or LSTM (Hochreiter and Schmidhuber 1997).

    All documents of a batch take each step together until their end. The cell is torch's own, its
    products fused with the steps: its weights are the only ones that no ``Linear`` has.
    """

    mixes_tokens = True

    def __init__(self, setting: spec.Recurrent, build: BuildContext) -> None:
        super().__init__()
        self.setting, self.name = setting, build.name
        more: dict[str, Any] = {"proj_size": setting.project} if setting.project else {}
        both = setting.bidirectional
        self.cell = CELLS[setting.cell](build.width, setting.hidden, bidirectional=both, **more)
        self.width = (setting.project or setting.hidden) * (2 if both else 1)

    def forward(self, x_nd: Tensor, context: ForwardContext) -> Tensor:
        """(n, d) -> the state after each token (n, hidden), both directions' concatenated."""
        batch, setting = context.batch, self.setting
        documents = list(x_nd.split(batch.lengths()))
        if setting.backward:
            documents = [document.flip(0) for document in documents]
        packed = pack_sequence(documents, enforce_sorted=False)
        states, after = self.cell(packed, self.state(context, packed))
        self.remember(context, after)
        found = unpacked(states, batch)
        if setting.backward:
            found = [document.flip(0) for document in found]
        return torch.cat(found)

    def state(self, context: ForwardContext, packed: PackedSequence) -> Any:
        """The cached states of former tokens, or None."""
        if context.cache is None:
            return None
        if self.setting.bidirectional or self.setting.backward:
            raise BadInput("a layer that reads from the end", "one that reads forwards to go on")
        cached: RecurrentState | None = context.cache.entries.get(self.name)
        if cached is None:
            return None
        states = tuple(part.transpose(0, 1).contiguous() for part in cached.states)
        return states if self.setting.cell == "lstm" else states[0]

    def remember(self, context: ForwardContext, after: Any) -> None:
        """Cache the last states, a document a row."""
        if context.cache is not None:
            parts = after if self.setting.cell == "lstm" else (after,)
            states = tuple(part.transpose(0, 1) for part in parts)
            context.cache.entries[self.name] = RecurrentState(states)


def unpacked(states: PackedSequence, batch: Ragged) -> list[Tensor]:
    """Split a packed sequence by document: step t holds row t of each that is long enough."""
    assert states.unsorted_indices is not None
    sizes = torch.cat([states.batch_sizes.new_zeros(1), states.batch_sizes])  # on the CPU always
    firsts = torch.cumsum(sizes, 0).to(states.data.device)
    return [
        states.data[firsts[:length] + place]
        for place, length in zip(states.unsorted_indices.tolist(), batch.lengths(), strict=True)
    ]


class Convolution(nn.Module):
    """Convolutions of several widths over each document, concatenated (Kim 2014, equation 2).

    One product over the windows of the whole stream, with zeros between the documents.
    """

    mixes_tokens = True

    def __init__(self, setting: spec.Convolution, build: BuildContext) -> None:
        super().__init__()
        self.activation, self.widths = ACTIVATIONS[setting.activation], setting.widths
        self.maps = nn.ModuleList(
            WindowLinear(build.width, setting.channels, width) for width in setting.widths
        )
        self.width = setting.channels * len(setting.widths)

    def forward(self, x_nd: Tensor, context: ForwardContext) -> Tensor:
        """(n, d) -> (n, widths * channels)."""
        if context.cache is not None:
            raise BadInput(
                "a convolution over the document", "a layer that can go on token by token"
            )
        batch = context.batch
        found = []
        for width, convolve in zip(self.widths, self.maps, strict=True):
            before = (width - 1) // 2
            gap = x_nd.new_zeros(width - 1, x_nd.shape[1])
            parts = [gap[:before]]
            for start, stop in batch.spans():
                parts += [x_nd[start:stop], gap]
            windows_ndw = torch.cat(parts).unfold(0, width, 1)
            rows = [
                torch.arange(start, stop, device=x_nd.device) + number * (width - 1)
                for number, (start, stop) in enumerate(pairwise(batch.cu_seqlens))
            ]
            found.append(convolve(windows_ndw.flatten(1))[torch.cat(rows)])
        return self.activation(torch.cat(found, dim=-1))
