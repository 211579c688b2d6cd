"""Recurrent layers and convolutions over each document of the stream.

Letters in names: n tokens, b documents, d width, c channels.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from lmwright.core.errors import BadInput
from lmwright.models.blocks.activation import BENDS
from lmwright.models.blocks.build import Place
from lmwright.models.blocks.context import Flow
from lmwright.models.core import spec
from lmwright.models.core.ragged import Ragged

CELLS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Recurrent(nn.Module):
    """RNN (Elman 1990), GRU (Cho et al. 2014) or LSTM (Hochreiter and Schmidhuber 1997).

    All documents of a batch take each step together, those that are at their end left out.
    """

    mixes_tokens = True

    def __init__(self, setting: spec.Recurrent, place: Place) -> None:
        super().__init__()
        self.setting, self.name = setting, place.name
        more: dict[str, Any] = {"proj_size": setting.project} if setting.project else {}
        both = setting.both_ways
        self.cell = CELLS[setting.cell](place.width, setting.hidden, bidirectional=both, **more)
        self.width = (setting.project or setting.hidden) * (2 if both else 1)

    def forward(self, x_nd: Tensor, flow: Flow) -> Tensor:
        """The state after each token: (n, hidden), both directions' side by side."""
        batch, setting = flow.batch, self.setting
        documents = list(x_nd.split(batch.lengths()))
        if setting.backward:
            documents = [document.flip(0) for document in documents]
        packed = pack_sequence(documents, enforce_sorted=False)
        given, after = self.cell(packed, self.state(flow, packed))
        self.remember(flow, after)
        found = unpacked(given, batch)
        if setting.backward:
            found = [document.flip(0) for document in found]
        return torch.cat(found)

    def state(self, flow: Flow, packed: PackedSequence) -> Any:
        """The states that former tokens left, or None."""
        if flow.cache is None:
            return None
        if self.setting.both_ways or self.setting.backward:
            raise BadInput("a layer that reads from the end", "one that reads forwards to go on")
        kept = flow.cache.kept.get(self.name)
        if kept is None:
            return None
        states = tuple(part.transpose(0, 1).contiguous() for part in kept)
        return states if self.setting.cell == "lstm" else states[0]

    def remember(self, flow: Flow, after: Any) -> None:
        """Keep the last states, a document a row."""
        if flow.cache is not None:
            parts = after if self.setting.cell == "lstm" else (after,)
            flow.cache.kept[self.name] = tuple(part.transpose(0, 1) for part in parts)


def unpacked(given: PackedSequence, batch: Ragged) -> list[Tensor]:
    """The documents of a packed sequence: step t holds row t of each that is long enough."""
    assert given.unsorted_indices is not None
    firsts = torch.cumsum(torch.cat([torch.zeros(1, dtype=torch.int64), given.batch_sizes]), 0)
    return [
        given.data[firsts[:length] + place]
        for place, length in zip(given.unsorted_indices.tolist(), batch.lengths(), strict=True)
    ]


class Convolution(nn.Module):
    """Convolutions of several widths over each document, side by side (Kim 2014, equation 2).

    One product over the whole stream, with zeros between the documents.
    """

    mixes_tokens = True

    def __init__(self, setting: spec.Convolution, place: Place) -> None:
        super().__init__()
        self.bend, self.widths = BENDS[setting.bend], setting.widths
        self.maps = nn.ModuleList(
            nn.Conv1d(place.width, setting.channels, width) for width in setting.widths
        )
        self.width = setting.channels * len(setting.widths)

    def forward(self, x_nd: Tensor, flow: Flow) -> Tensor:
        """(n, d) -> (n, widths * channels)."""
        if flow.cache is not None:
            raise BadInput(
                "a convolution over the document", "a layer that can go on token by token"
            )
        batch = flow.batch
        found = []
        for width, convolve in zip(self.widths, self.maps, strict=True):
            before = (width - 1) // 2
            gap = x_nd.new_zeros(width - 1, x_nd.shape[1])
            parts = [gap[:before]]
            for start, stop in batch.spans():
                parts += [x_nd[start:stop], gap]
            result_cn = convolve(torch.cat(parts).T[None])[0]
            places = [
                torch.arange(start, stop) + number * (width - 1)
                for number, (start, stop) in enumerate(pairwise(batch.cu_seqlens))
            ]
            found.append(result_cn.T[torch.cat(places)])
        return self.bend(torch.cat(found, dim=-1))
