"""Our network against the reference implementation: tiny, with weights that hide nothing.

The reference computes norms, angles and softmaxes in fp32 whatever its weights are; ``InDouble``
makes it use fp64 there too, so that both sides can be held to nine digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lmwright.models.beam_search import beam_search
from lmwright.models.core.ragged import Ragged, order_of_pairs, pack
from lmwright.models.core.spec import Head, ModelSpec
from lmwright.models.decode import generate
from lmwright.models.family.family import Family, to_ours
from lmwright.models.network.network import Network, build, fill
from lmwright.text.generation import SamplingParams

STD = 0.4


class InDouble(TorchFunctionMode):
    """fp64 wherever fp32 is asked for by name."""

    def __torch_function__(self, function, types, given=(), named=None):
        named = {k: torch.float64 if v is torch.float32 else v for k, v in (named or {}).items()}
        given = tuple(torch.float64 if each is torch.float32 else each for each in given)
        if function is torch.Tensor.float:
            return given[0].double()
        return function(*given, **named)


@contextmanager
def in_double(on: bool) -> Iterator[None]:
    """fp64 inside, if ``on``."""
    if not on:
        yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with InDouble(), patch.object(torch, "FloatTensor", torch.DoubleTensor):
            yield
    finally:
        torch.set_default_dtype(before)


@dataclass
class Case:
    """One architecture: our family, the reference's class and tiny config, and the head.

    ``pairs``: it reads a source and a target. ``lengths`` are of the documents; ``unseen`` names
    fields of the spec of which a wrong value changes nothing here. ``segments``: the reference's
    name for the segments of tokens, if any are drawn. ``fixed`` names parameters of the reference
    that are not drawn. ``generates``: whether it says what follows a prompt (by default whether
    its language model reads forwards). ``shifts``: whether the reference's loss takes a token's
    label for what comes next (by default whether our network is a causal LM, from one stream).
    ``on_disk`` gives the reference's tensors as its checkpoints have them, where they differ.
    """

    family: Family
    model: str
    config: dict[str, Any]
    head: str
    lengths: tuple[int, ...] = (7, 1, 12, 2, 7)
    pairs: bool = False
    unseen: frozenset[str] = frozenset()
    segments: str = ""
    fixed: tuple[str, ...] = ()
    generates: bool | None = None
    shifts: bool | None = None
    given: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    on_disk: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict

    @property
    def settings(self) -> dict[str, Any]:
        """The whole config, as the reference writes it to ``config.json``."""
        return made_config(self).to_dict()

    @property
    def generating(self) -> bool:
        """Whether it says what follows a prompt."""
        if self.generates is not None:
            return self.generates
        last = self.family.spec(self.settings).stacks[-1]
        return self.head == "lm" and last.is_causal


def made_config(case: Case) -> Any:
    import transformers

    kind = getattr(transformers, case.model).config_class
    return kind(**case.config, attn_implementation="eager")


def reference(case: Case, double: bool = True) -> Any:
    """The reference's model, every weight drawn wide."""
    import transformers

    with in_double(double):
        model = getattr(transformers, case.model)(made_config(case))
        model = (model.double() if double else model.float()).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        biases = [(n, each) for n, each in model.named_buffers() if n.endswith("logits_bias")]
        for name, weight in [*model.named_parameters(), *biases]:
            if name in case.fixed:
                continue
            gain = weight.ndim == 1 and "bias" not in name and "norm" in name.lower()
            weight.copy_(torch.randn(weight.shape, generator=generator) * STD + float(gain))
    model.tie_weights()
    return model


def tensors_of(case: Case, model: Any, gradients: bool = False) -> dict[str, Tensor]:
    """The reference's weights, or their gradients, under the names of a checkpoint."""
    found = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if gradients and not weight.requires_grad:
            continue
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        found[name.removeprefix(case.family.prefix)] = gradient if gradients else weight
    for name, buffer in () if gradients else model.named_buffers():
        found.setdefault(name.removeprefix(case.family.prefix), buffer)
    return case.on_disk(found)


def mapped(case: Case, setting: ModelSpec) -> list:
    """Every weight of body and head."""
    _, head = case.family.heads[case.head](case.settings, setting)
    prefix = case.family.prefix
    head = [replace(w, theirs=tuple(t.removeprefix(prefix) for t in w.theirs)) for w in head]
    return [*case.family.weights(setting), *head]


def specs(case: Case) -> tuple[ModelSpec, Head]:
    """The right spec and head."""
    right = case.family.spec(case.settings)
    return right, case.family.heads[case.head](case.settings, right)[0]


def ours(case: Case, model: Any, wrong: tuple[ModelSpec, Head] | None = None) -> Network:
    """Our network with the reference's weights; spec and head may differ from what is right."""
    right, _ = specs(case)
    network = build(*(wrong or specs(case)))
    tensors = to_ours(mapped(case, right), tensors_of(case, model))
    shapes = {name: weight.shape for name, weight in network.named_parameters()}
    fill(network, {n: t.detach().clone() for n, t in tensors.items() if shapes.get(n) == t.shape})
    missing = [name for name, weight in network.named_parameters() if weight.is_meta]
    assert not missing, f"weights that nothing was read for: {missing}"
    return network


def documents(case: Case, seed: int = 2) -> list[np.ndarray]:
    """Token ids of several lengths, without the first few, which are often special."""
    rng = np.random.default_rng(seed)
    most = case.config.get("vocab_size", 61)
    return [rng.integers(4, most, length) for length in case.lengths]


def segments_of(case: Case, setting: ModelSpec, texts: list[np.ndarray]) -> list[np.ndarray]:
    """A segment for each token, drawn."""
    rng, count = np.random.default_rng(7), setting.stacks[0].embedding.segments
    return [rng.integers(0, count, len(text)) for text in texts]


def batch_of(case: Case, network: Network, texts: list[np.ndarray]) -> Any:
    """The documents as our batch; of pairs the targets are the same documents in other order."""
    if not case.pairs:
        segments = segments_of(case, network.spec, texts) if case.segments else None
        return pack(texts, segments=segments)
    targets = texts[::-1]
    order = order_of_pairs(texts, targets)
    names = [stack.name for stack in network.spec.stacks]
    streams = pack(texts, order=order), pack(targets, order=order)
    return dict(zip(names, streams, strict=True))


def logits_of_ours(case: Case, network: Network, texts: list[np.ndarray]) -> list[Tensor]:
    """Each document's logits, in the order of the documents."""
    batch = batch_of(case, network, texts)
    found = network(batch)
    if network.head.setting.pool != "none":
        return list(found)
    stream = batch if isinstance(batch, Ragged) else batch[network.spec.output_stacks[0].name]
    return stream.by_document(found)


def logits_of_reference(case: Case, model: Any, texts: list[np.ndarray]) -> list[Tensor]:
    """The same, one document at a time."""
    found = []
    for place in range(len(texts)):
        said = said_by_reference(case, model, texts, place)
        if case.head == "spans":
            found.append(torch.stack([said.start_logits[0], said.end_logits[0]], dim=-1))
        else:
            found.append(said.logits[0])
    return found


def said_by_reference(
    case: Case, model: Any, texts: list[np.ndarray], place: int, **more: Any
) -> Any:
    """All that the reference says of one document, given ``more``."""
    given = {"input_ids": torch.from_numpy(texts[place])[None], **case.given}
    if case.pairs:
        given["decoder_input_ids"] = torch.from_numpy(texts[-1 - place])[None]
    if case.segments:
        segments = segments_of(case, case.family.spec(case.settings), texts)
        given[case.segments] = torch.from_numpy(segments[place])[None]
    if case.head == "choice":
        given = {name: each[None] for name, each in given.items()}
    with in_double(next(model.parameters()).dtype == torch.float64):
        return model(**given, **more)


def compare(case: Case, model: Any, network: Network, wanted: list[Tensor] | None = None) -> None:
    """Logits, equal to nine digits in fp64 and to five in fp32; ``wanted`` if they are known."""
    texts = documents(case)
    double = next(model.parameters()).dtype == torch.float64
    rtol, atol = (1e-9, 1e-10) if double else (2e-4, 2e-4)
    with torch.no_grad():
        wanted = wanted or logits_of_reference(case, model, texts)
        for left, right in zip(logits_of_ours(case, network, texts), wanted, strict=True):
            torch.testing.assert_close(left, right, rtol=rtol, atol=atol)


def compare_losses(case: Case, model: Any, network: Network) -> None:
    """The reference's own loss, by its ``labels``, is the mean cross-entropy of our logits.

    Labels are of a token's next one, of itself, or of its document; of a regression they are
    numbers, and the loss is the mean square.
    """
    texts, shifts = documents(case), case.shifts
    if shifts is None:
        shifts = network.is_causal_lm and not case.pairs and not network.two_streams
    shifted, pooled = int(shifts), network.head.setting.pool != "none"
    every = logits_of_ours(case, network, texts)
    generator = torch.Generator().manual_seed(3)
    for place, logits in enumerate(every):
        rows = logits.reshape(-1, logits.shape[-1])
        if len(rows) <= shifted:
            continue  # a single token has no next one
        labels = torch.randint(rows.shape[1], (len(rows),), generator=generator)
        theirs = labels if pooled else labels[None]
        if case.settings["problem_type"] == "regression":
            theirs = torch.randn(len(rows), generator=generator, dtype=rows.dtype)
            found = F.mse_loss(rows[:, 0], theirs)
        else:
            found = F.cross_entropy(rows[: len(rows) - shifted], labels[shifted:])
        wanted = said_by_reference(case, model, texts, place, labels=theirs).loss
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


def compare_gradients(case: Case, model: Any, network: Network) -> None:
    """The gradients of a cross-entropy with drawn targets, of every weight."""
    texts = documents(case)
    model.zero_grad()
    losses = []
    for logits in (logits_of_ours(case, network, texts), logits_of_reference(case, model, texts)):
        rows = torch.cat([each.reshape(-1, each.shape[-1]) for each in logits])
        rows = rows.T if case.head == "choice" else rows  # the documents are one question's choices
        generator = torch.Generator().manual_seed(1)
        targets = torch.randint(rows.shape[1], (len(rows),), generator=generator)
        losses.append(F.cross_entropy(rows, targets))
        losses[-1].backward()
    torch.testing.assert_close(*losses, rtol=1e-9, atol=1e-11)
    setting = network.spec
    theirs = tensors_of(case, model, gradients=True)
    wanted = to_ours([w for w in mapped(case, setting) if set(w.theirs) <= set(theirs)], theirs)
    untrained = {w.ours for w in mapped(case, setting) if not set(w.theirs) <= set(theirs)}
    for name, weight in network.named_parameters():
        if name not in untrained:
            found = torch.zeros_like(weight) if weight.grad is None else weight.grad
            torch.testing.assert_close(
                found, wanted[name], rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
            )


def generated(case: Case, model: Any, network: Network, prompt: np.ndarray, beams: int) -> tuple:
    """What both sides say after one prompt (or, of pairs, to one source): 12 tokens at most."""
    end = 3
    decoding = SamplingParams(max_new_tokens=12, beams=beams, stop_ids=(end,))
    start = np.array([getattr(model.config, "decoder_start_token_id", 0)]) if case.pairs else prompt
    source = prompt if case.pairs else None
    if beams > 1:
        ours = list(beam_search(network, start, decoding, source)[0].tokens)
    else:
        rng, sources = np.random.default_rng(0), None if source is None else [source]
        ours = [step[0].id for step in generate(network, [start], decoding, rng, sources)]
    more = {"decoder_start_token_id": int(start[0])} if case.pairs else {}
    with in_double(next(model.parameters()).dtype == torch.float64), torch.no_grad():
        found = model.generate(
            torch.from_numpy(prompt)[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=12,
            do_sample=False,
            num_beams=beams,
            eos_token_id=end,
            pad_token_id=end,
            bos_token_id=1,
            forced_eos_token_id=None,
            **more,
            **case.generation,
        )[0].tolist()
    theirs = found[1:] if case.pairs else found[len(prompt) :]
    while len(theirs) > 1 and theirs[-1] == theirs[-2] == end:
        theirs.pop()
    return ours, theirs


HARMLESS = {
    "dropout",
    "stochastic_depth",
    "inner_dropout",
    "output_dropout",
    "aux_loss_coef",
    "name",
    "share",
    "context_length",
}


def mutations(
    setting: tuple[ModelSpec, Head], skipped: frozenset[str] = frozenset()
) -> dict[str, tuple[ModelSpec, Head]]:
    """Specs with one thing wrong, by what it is: every number, kind and switch of the two."""
    found: dict[str, tuple[ModelSpec, Head]] = {}
    for path in paths(setting):
        last = path[-1]
        if last in HARMLESS | skipped:
            continue
        if last == "first_position" and not at(setting, path[:-1]).positions:
            continue
        for other in others(last, at(setting, path)):
            name = ".".join(map(str, path)) + f" {other}"
            found.setdefault(name, changed(setting, path, other))
    return found


def paths(part: Any, before: tuple = ()) -> Iterator[tuple]:
    """Where a spec's plain values stand; of several layers or branches only the last is walked."""
    if isinstance(part, tuple):
        if part and (is_dataclass(part[0]) or isinstance(part[0], tuple)):
            start = max(0, len(part) - 2)
            for place in range(start, len(part)):
                yield from paths(part[place], (*before, place))
        elif part:
            yield before
    elif is_dataclass(part):
        for each in fields(part):
            yield from paths(getattr(part, each.name), (*before, each.name))
    else:
        yield before


def at(part: Any, path: tuple) -> Any:
    for step in path:
        part = part[step] if isinstance(step, int) else getattr(part, step)
    return part


def changed(part: Any, path: tuple, value: Any) -> Any:
    """A copy of a spec with one value changed."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        return (*part[:step], changed(part[step], rest, value), *part[step + 1 :])
    return replace(part, **{step: changed(getattr(part, step), rest, value)})


KINDS = {
    "activation": ("gelu", "gelu_tanh", "relu", "silu"),
    "mask": ("full", "causal"),
    "layout": ("half_split", "interleaved"),
}
POOLS = ("mean", "max", "first", "last")


def others(name: str, value: Any) -> list[Any]:
    """Wrong values in place of a right one, such that the network still runs."""
    if name in KINDS:
        return [each for each in KINDS[name] if each != value][:2]
    if name == "pool" and value in POOLS:
        return [each for each in POOLS if each != value]
    if name == "eps":
        return [max(value * 1000, 1e-5)]
    if name == "window":
        return [value + 1, value - 1] if value > 1 else [3]
    if name in ("scale", "base", "offset", "factor", "logit_softcap"):
        return [value * 1.25 + (0.5 if value == 0 else 0)]
    if name in (
        "residual",
        "interleaved",
        "spaced",
        "bidirectional",
        "softmax_over_top_k",
        "normalise",
        "backward",
    ):
        return [not value]
    if name == "top_k":
        return [value - 1 if value > 1 else value + 1]
    if name == "slopes":
        return [tuple(reversed(value))]
    if name == "first_position":
        return [value + 1] if value == 0 else [value - 1]
    if name == "max_distance":
        return [value // 2]
    return []
