"""A pass through a whole stack in one call of the kernel library: the fused stack.

It computes what the stack's modules compute without a gradient or dropout: norms, rotary embedding,
attention with or without a KV cache, activations, and the products of packed weights. The modules
are its reference.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p
from itertools import accumulate, chain, pairwise
from types import NoneType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lmwright.kernels.library import NO_MEMORY, available, follow_threads, library
from lmwright.kernels.terms import CMap
from lmwright.models.blocks.activation import ACTIVATIONS
from lmwright.models.blocks.attention import Attention
from lmwright.models.blocks.context import Cache, ForwardContext
from lmwright.models.blocks.feed_forward import FeedForward
from lmwright.models.blocks.norm import LayerNorm, RmsNorm
from lmwright.models.blocks.pages import PAGE, Pages, pages_for
from lmwright.models.blocks.positions import rotary_cos_sin
from lmwright.models.blocks.sublayer import Sublayer
from lmwright.models.core import spec
from lmwright.models.core.linear import DenseLinear, Linear
from lmwright.models.core.low_rank import LowRankLinear
from lmwright.models.core.packed import PackedProduct
from lmwright.models.core.ragged import Ragged

if TYPE_CHECKING:
    from lmwright.models.network.network import Network, Stack

NORMS = {nn.Identity: 0, LayerNorm: 1, RmsNorm: 2}
OPS = {Attention: 0, FeedForward: 1}
C_ACTIVATIONS = {"none": 0, "silu": 1, "gelu_tanh": 2, "gelu": 3, "relu": 4, "tanh": 5}
MOST_UPDATE_ROWS = 4096
"""``LMW_UPDATE_ROWS``."""
FIXED = (None, "linear", "llama3", "yarn")
"""Scalings of rotary frequencies that do not depend on a document's length."""


class CNorm(ctypes.Structure):
    """``lmw_norm``."""

    _fields_ = (("gain", c_void_p), ("bias", c_void_p), ("eps", c_float), ("kind", c_int32))


class CSublayer(ctypes.Structure):
    """``lmw_sublayer``."""

    _fields_ = (
        *((name, CNorm) for name in ("pre", "branch", "post", "q_norm", "k_norm")),
        *(("first", CMap), ("last", CMap)),
        *((name, c_int32) for name in ("op", "residual", "activation", "gated")),
        *((name, c_int32) for name in ("heads", "kv_heads", "head_width", "window")),
        *((name, c_int32) for name in ("rotary_width", "interleaved", "table", "cache")),
        *(("scale", c_float), ("softcap", c_float), ("causal", c_int32)),
    )


class CStack(ctypes.Structure):
    """``lmw_stack``."""

    _fields_ = (
        *(("sublayers", POINTER(CSublayer)), ("count", c_int64)),
        *(("width", c_int64), ("last", CNorm)),
    )


class CKv(ctypes.Structure):
    """``lmw_kv``."""

    _fields_ = tuple((name, c_void_p) for name in ("k", "v", "k_scales", "v_scales"))

    @classmethod
    def of(cls, pages: Pages) -> CKv:
        """The data of an attention's pages."""
        return cls(*(each.data_ptr() for each in (pages.k, pages.v, *pages.scales)))


class CUpdate(ctypes.Structure):
    """``lmw_update``."""

    _fields_ = (
        *(("a", c_void_p), ("b", c_void_p), ("ends", POINTER(c_int64))),
        *(("parts", c_int64), ("rank", c_int64)),
    )


class CWork(ctypes.Structure):
    """``lmw_pass_work``."""

    _fields_ = (
        *(("stack", POINTER(CStack)), ("kv", POINTER(CKv))),
        *((name, POINTER(c_int64)) for name in ("starts", "past", "pages", "firsts")),
        *(("cosines", POINTER(c_void_p)), ("sines", POINTER(c_void_p))),
        ("updates", POINTER(c_void_p)),
        *(("x", c_void_p), ("queries", c_void_p)),
        *(("rows", c_int64), ("documents", c_int64)),
    )


class RotaryTable:
    """Cosines and sines (positions, width / 2), fp32, of all positions so far asked for."""

    def __init__(self, setting: spec.Rotary) -> None:
        self.setting = setting
        self.known = torch.empty(2, 0, setting.width // 2)

    def below(self, length: int) -> Tensor:
        """Those of the positions below ``length``, and of some more: (2, positions, width / 2).

        Another thread may ask for more meanwhile: what was given stays as it is.
        """
        known = self.known
        if known.shape[1] < length:
            positions = torch.arange(max(256, 2 * length))
            found = rotary_cos_sin(self.setting, positions, len(positions))
            known = self.known = torch.stack(found).float()
        return known


class FusedStack:
    """A network's only stack as the data of the kernel library.

    A map with an update of low rank is its frozen map and the update, which documents of another
    network on the same frozen maps do without: a pass may have documents of several.

    It holds pointers into the packed weights and the norms' gains, which it keeps alive: of maps or
    weights that have changed since it is not ``current``. ``unfit`` says why a network cannot have
    one; that fits no batch.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack, self.unfit = stack, ""
        self.kept: list[Any] = []
        self.maps: list[tuple[Any, str, Linear, Any]] = []
        self.update_list: list[CUpdate] = []
        self.updates: Any = None
        self.caches: list[tuple[str, Tensor]] = []
        self.tables: list[RotaryTable] = []
        self.sublayers: list[CSublayer] = []
        self.data = CStack()
        # Tensors of inference mode have no versions, and cannot change outside of it.
        self.weights = [each for each in stack.parameters() if not each.is_inference()]
        self.versions = self.weight_versions()

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Nothing: a copy of a network has weights of its own, of which it makes its own."""

    @classmethod
    def of(cls, network: Network) -> FusedStack:
        """That of a network whose maps have packed weights."""
        found = cls(list(network.stacks.values())[-1])  # type: ignore[arg-type]
        try:
            if not available():
                raise ValueError("there is no kernel library")
            if len(network.stacks) > 1 or not network.outputs_last_stack:
                raise ValueError("its hidden states are not those of one stack")
            if found.stack.prompt_length:
                raise ValueError("it reads vectors before every document")
            found.read()
        except ValueError as error:
            found.unfit = str(error)
        return found

    def read(self) -> None:
        """Read the stack's sublayers; ValueError says what the library does not compute."""
        self.sublayers = [self.sublayer(each) for _, each in self.stack.sublayers()]
        self.data = CStack(
            (CSublayer * len(self.sublayers))(*self.sublayers),
            len(self.sublayers),
            self.stack.width,
            self.norm(self.stack.norm),
        )
        if any(each.rank for each in self.update_list):
            self.updates = (CUpdate * len(self.update_list))(*self.update_list)

    def weight_versions(self) -> int:
        """A number that grows whenever a weight is changed in place."""
        return sum(each._version for each in self.weights)

    @property
    def query_width(self) -> int:
        """The most numbers that the queries of a token are."""
        return max((each.heads * each.head_width for each in self.sublayers), default=0)

    @property
    def causal(self) -> bool:
        """True if all attention is causal."""
        return all(each.causal for each in self.sublayers if each.op == OPS[Attention])

    @property
    def current(self) -> bool:
        """Whether maps and weights are those that it was made of."""
        same = all(
            owner._modules[name] is each and (weight is None or each.weight is weight)
            for owner, name, each, weight in self.maps
        )
        return same and self.versions == self.weight_versions()

    def sublayer(self, module: Sublayer) -> CSublayer:
        """The data of a sublayer."""
        op = module.op
        found = CSublayer(op=OPS.get(type(op), -1), residual=module.residual)
        for name, each in (
            ("pre", module.pre_norm),
            ("branch", module.branch_norm),
            ("post", module.post_norm),
        ):
            setattr(found, name, self.norm(each))
        if type(op) is Attention:  # and none that computes more
            self.attention(op, found)
        elif type(op) is FeedForward:
            found.first, found.last = self.map(op, "up"), self.map(op, "down")
            found.gated = op.gated
            names = [name for name, each in ACTIVATIONS.items() if each is op.activation]
            found.activation = C_ACTIVATIONS[names[0]]
        else:
            raise ValueError(f"it has {type(op).__name__.lower()} sublayers")
        return found

    def attention(self, op: Attention, found: CSublayer) -> None:
        """Fill in the data of an attention."""
        setting = op.setting
        rotary = setting.positions
        if setting.mask not in ("causal", "full") or setting.cross_attends:
            raise ValueError(f"its attention is {setting.mask} or to another stack")
        if setting.mask == "full" and setting.window:
            raise ValueError("its attention has a window to both sides")
        if not isinstance(rotary, spec.Rotary | None):
            raise ValueError(f"its positions are {rotary.kind}")
        if rotary and (rotary.scaling.kind if rotary.scaling else None) not in FIXED:
            raise ValueError("its rotary frequencies depend on the length")
        found.first, found.last = self.map(op, "qkv"), self.map(op, "out")
        found.q_norm, found.k_norm = self.norm(op.q_norm), self.norm(op.k_norm)
        found.heads, found.kv_heads = setting.heads, setting.kv_heads
        found.head_width, found.window = setting.head_width, setting.window
        found.scale, found.softcap = setting.scale, setting.logit_softcap
        if rotary:
            found.rotary_width = rotary.width
            found.interleaved = rotary.layout == "interleaved"
            found.table = self.table(rotary)
        found.causal, found.cache = setting.mask == "causal", len(self.caches)
        self.caches.append((op.name, torch.empty(0, setting.kv_heads, setting.head_width)))

    def table(self, rotary: spec.Rotary) -> int:
        """The number of the table of these angles."""
        known = [table.setting for table in self.tables]
        if rotary not in known:
            self.tables.append(RotaryTable(rotary))
            return len(known)
        return known.index(rotary)

    def norm(self, module: nn.Module) -> CNorm:
        """The data of a norm, its gain with the offset."""
        if not isinstance(module, LayerNorm | RmsNorm):
            return CNorm()
        gain = (module.weight.detach() + module.offset).float().contiguous()
        bias = None if module.bias is None else module.bias.detach().float().contiguous()
        self.kept += [gain, bias]
        return CNorm(
            gain.data_ptr(),
            None if bias is None else bias.data_ptr(),
            module.eps,
            NORMS[type(module)],
        )

    def map(self, owner: nn.Module, name: str) -> CMap:
        """The data of a map of an op, by its name there."""
        linear = getattr(owner, name)
        self.update_list.append(self.update(owner, name, linear))
        if type(linear) is LowRankLinear:
            owner, name, linear = linear, "inner", linear.inner
        if type(linear) is not DenseLinear or not isinstance(linear.product, PackedProduct):
            raise ValueError(f"it has maps of {type(linear).__name__}")
        self.maps.append((owner, name, linear, linear.weight))
        packed = linear.product.of(linear.weight)
        bias = None if linear.bias is None else linear.bias.detach()
        self.kept += [packed, bias]
        return CMap.of(packed, bias)

    def update(self, owner: nn.Module, name: str, linear: Linear) -> CUpdate:
        """The update of low rank of a map; one of rank 0 where it has none."""
        if type(linear) is not LowRankLinear:
            return CUpdate()
        parts, rank = linear.lora_a.shape[1:3]
        if linear.magnitude is not None or linear.members > 1 or parts * rank > MOST_UPDATE_ROWS:
            raise ValueError("its updates of low rank are weighed by norms, or too large")
        self.maps.append((owner, name, linear, None))
        a = linear.lora_a.detach()[0].float().contiguous()
        b = (linear.scale * linear.lora_b.detach()[0].float()).T.contiguous()
        ends = (c_int64 * parts)(*accumulate(linear.parts))
        self.kept += [a, b, ends]
        return CUpdate(a.data_ptr(), b.data_ptr(), ends, parts, rank)

    def fits(self, context: ForwardContext) -> bool:
        """Whether it computes the pass of a context."""
        batch, cache = context.batch, context.cache
        past = [0] * len(batch.documents) if cache is None else cache.lengths
        return (
            not self.unfit
            and not torch.is_grad_enabled()
            and context.dropout_rng is None
            and context.trace is None
            and type(cache) in (NoneType, Cache)
            and len(past) == len(batch.documents)
            and (cache is None or self.causal)
            and (not self.tables or torch.equal(batch.positions_n, consecutive(batch, past)))
        )

    def updates_of(self, stacks: Sequence[FusedStack]) -> Any:
        """The pointers to each document's updates; a null one where no document has any."""
        if all(each.updates is None for each in stacks):
            return POINTER(c_void_p)()
        given = [
            None if each.updates is None else ctypes.addressof(each.updates) for each in stacks
        ]
        return (c_void_p * len(stacks))(*given)

    def states(self, context: ForwardContext, stacks: Sequence[FusedStack] = ()) -> Tensor:
        """The last states (n, d) of the stream; new keys join the cache, if there is one.

        ``stacks`` are those of each document, if they have other updates than this one.
        """
        batch, cache = context.batch, context.cache
        x_nd = self.stack.embedding(context).float().contiguous()
        documents, lengths = len(batch.documents), batch.lengths()
        if isinstance(cache, Cache):
            cache.make_room(lengths)
            past, pages = cache.lengths, [held.pages for held in cache.table]
            kv = [CKv.of(cache.pool.of(name, like, like)) for name, like in self.caches]
        else:
            past, ends = [0] * documents, [0, *accumulate(map(pages_for, lengths))]
            pages = [list(range(*pair)) for pair in pairwise(ends)]
            # Keys of a layer are read by no other one, so all have the same memory.
            most = max((like.shape[1] * like.shape[2] for _, like in self.caches), default=0)
            own = torch.empty(2, ends[-1] * PAGE, most)
            kv = [CKv(own[0].data_ptr(), own[1].data_ptr())] * len(self.caches)
        longest = max(one + two for one, two in zip(past, lengths, strict=True))
        angles = [table.below(longest) for table in self.tables]
        queries = torch.empty(len(x_nd), self.query_width)
        work = CWork(
            ctypes.pointer(self.data),
            (CKv * max(1, len(kv)))(*kv),
            (c_int64 * (documents + 1))(*batch.cu_seqlens),
            (c_int64 * documents)(*past),
            (c_int64 * sum(map(len, pages)))(*chain.from_iterable(pages)),
            (c_int64 * documents)(*accumulate([0, *map(len, pages[:-1])])),
            pointers([cosines for cosines, _ in angles]),
            pointers([sines for _, sines in angles]),
            self.updates_of(stacks or [self] * documents),
            x_nd.data_ptr(),
            queries.data_ptr(),
            len(x_nd),
            documents,
        )
        code = library()
        follow_threads(code)
        if code.lmw_pass(ctypes.byref(work)) == NO_MEMORY:
            raise MemoryError("no memory for the states of a pass")
        return x_nd


def consecutive(batch: Ragged, past: list[int]) -> Tensor:
    """The places (n) of a stream's tokens in their documents, after so many tokens of each."""
    if len(batch.tokens_n) == len(past):
        return torch.tensor(past)
    firsts = [before - start for before, start in zip(past, batch.cu_seqlens, strict=False)]
    offsets = torch.tensor(firsts).repeat_interleave(torch.tensor(batch.lengths()))
    return torch.arange(len(batch.tokens_n)) + offsets


def pointers(tensors: list[Tensor]) -> Any:
    """An array of pointers to tensors."""
    return (c_void_p * max(1, len(tensors)))(*(each.data_ptr() for each in tensors))
