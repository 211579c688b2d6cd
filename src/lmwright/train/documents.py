"""Documents that a language model reads, learns and writes: batches, losses, likelihoods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.models.blocks.context import Cache
from lmwright.models.blocks.head import Head, mean_pool
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import order_of_pairs, pack
from lmwright.models.network.network import Batch, Network
from lmwright.models.text_model import MOST_TOKENS_AT_ONCE, pieces
from lmwright.train.batches import UNLEARNT, Example
from lmwright.train.loss import BatchLoss, Learnt

WRITTEN_COST = 4
"""Tokens that are read in the time in which one is written beside those of other rows, about; so
that a batch of requests to write takes seconds and not minutes."""
MOST_LOGITS = 1 << 25
"""Numbers of logits that are held at a time."""


@dataclass(frozen=True)
class Document:
    """A document as ``tokens``, scored from ``first`` on. ``size`` is what is scored in bytes.

    ``prompt`` holds the ids that are to be continued (with an encoder: those that it reads), None
    where nothing is asked for; ``source`` those that an encoder reads, where the model has one.
    ``new_tokens`` may be written. ``cut`` says that something of it was too long and left out.
    ``learnt`` marks further ids that training learns, None where it learns those that are scored.
    """

    tokens: np.ndarray
    first: int
    size: int
    prompt: np.ndarray | None
    source: np.ndarray | None = None
    new_tokens: int = 0
    cut: bool = False
    learnt: np.ndarray | None = None

    @property
    def ids(self) -> np.ndarray:
        """What is read: the source where the model has an encoder, else the document itself."""
        return self.tokens if self.source is None else self.source

    @property
    def cost(self) -> int:
        """Number of tokens, where one that is written counts as several that are read."""
        read = len(self.tokens) + (0 if self.source is None else len(self.source))
        return read + WRITTEN_COST * self.new_tokens

    def example(self, name: int = 0) -> Example:
        """The training example under a name that keys its dropout; target: the next token.

        The stacks number their dropout alike, so a source has another name than its target.
        """
        target = np.full(len(self.tokens), UNLEARNT, dtype=np.int64)
        target[self.first - 1 : -1] = self.tokens[self.first :]
        if self.learnt is not None:
            target[:-1] = np.where(self.learnt[1:], self.tokens[1:], target[:-1])
        source = () if self.source is None else (Example(self.source, name ^ (1 << 127)),)
        return Example(self.tokens, name, target, source, cut=self.cut)


def packed(network: Network, examples: Sequence[Example]) -> Batch:
    """Examples as one batch; their sources as one of their own, for the encoder."""
    ids, names = [each.tokens for each in examples], [each.document for each in examples]
    sources = [source for each in examples for source in each.beside]
    if not sources:
        return pack(ids, names)
    encoder, decoder = network.streams
    read = [each.tokens for each in sources]
    order = order_of_pairs(read, ids)
    others = [each.document for each in sources]
    return {encoder: pack(read, others, order=order), decoder: pack(ids, names, order=order)}


def head_of(network: Network) -> Head:
    """The head of a language model."""
    assert network.head is not None
    return network.head


def next_token_loss(
    network: nn.Module,
    examples: Sequence[Example],
    dropout_rng: DropoutRNG | None,
    smoothing: float = 0.0,
) -> BatchLoss:
    """Mean cross-entropy (nats) of the next tokens that are learnt, with the auxiliary losses.

    ``smoothing`` is the share of a target that is spread over the whole vocabulary (Szegedy et al.
    2016, section 7).
    """
    aux_losses: list[Tensor] = []
    learnt = learnt_tokens(network, examples, dropout_rng, aux_losses)
    return loss_of_tokens(learnt, aux_losses, smoothing)


def learnt_tokens(
    network: nn.Module,
    examples: Sequence[Example],
    dropout_rng: DropoutRNG | None,
    aux_losses: list[Tensor],
) -> Learnt:
    """The states of the tokens whose next one is learnt, and these.

    The logits of a vocabulary may be a thousand times as large as the states that they are made
    of; so they are made of the tokens that are learnt from alone, at most :data:`MOST_LOGITS` at a
    time, and never twice.
    """
    body = cast(Network, network)
    head, batch = head_of(body), packed(body, examples)
    stream = body.output_batch(batch)
    hidden_nd = body.hidden(batch, dropout_rng, aux_losses=aux_losses)
    states_nd = torch.cat(stream.by_document(head.states(hidden_nd, stream, dropout_rng)))
    targets_n = torch.from_numpy(np.concatenate([np.asarray(each.target) for each in examples]))
    targets_n = targets_n.to(states_nd.device)
    return Learnt(states_nd, targets_n, head).known()


class LearnsTokens:
    """Loss and learnt tokens of task models that learn next tokens; the task says how much of a
    target is spread over the vocabulary."""

    task: Any

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> BatchLoss:
        """Mean cross-entropy of the tokens to be learnt, with auxiliary losses of the network's
        ops."""
        return next_token_loss(network, examples, dropout_rng, self.task.smoothing)

    def learnt(
        self,
        network: nn.Module,
        examples: Sequence[Example],
        dropout_rng: DropoutRNG | None,
        aux_losses: list[Tensor],
    ) -> Learnt:
        """The states of the tokens whose next one is learnt, and these."""
        return learnt_tokens(network, examples, dropout_rng, aux_losses)

    def loss_of(self, learnt: Learnt, aux_losses: Sequence[Tensor]) -> BatchLoss:
        """The loss of learnt tokens."""
        return loss_of_tokens(learnt, aux_losses, self.task.smoothing)


def loss_of_tokens(
    learnt: Learnt, aux_losses: Sequence[Tensor], smoothing: float = 0.0
) -> BatchLoss:
    """Mean cross-entropy (nats) of learnt tokens, with the auxiliary losses."""
    assert learnt.head is not None
    mean = mean_cross_entropy(learnt.head, learnt.states, learnt.targets, smoothing)
    return BatchLoss(sum(aux_losses, mean), len(learnt.targets), divisible=not aux_losses)


def mean_cross_entropy(
    head: Head, states_nd: Tensor, targets_n: Tensor, smoothing: float = 0.0
) -> Tensor:
    """The mean cross-entropy (nats) of targets by a head's states, 0 of none; of each target a
    share ``smoothing`` is spread over all classes."""
    if not torch.is_grad_enabled() or not len(targets_n):
        total = F.cross_entropy(
            head.logits(states_nd), targets_n, reduction="sum", label_smoothing=smoothing
        )
        return total / max(len(targets_n), 1)
    own = () if head.out is None else head.out.parameters()
    weights = [each for each in own if each.requires_grad]
    found: Tensor = MeanCrossEntropy.apply(head, states_nd, targets_n, smoothing, *weights)
    return found


class MeanCrossEntropy(torch.autograd.Function):
    """A mean of cross-entropies whose gradient is made together with it, some rows at a time.

    So logits need be neither kept nor made again for the way back, and their gradient, the
    probabilities less 1 at the target, takes their own place.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        head: Head,
        states_nd: Tensor,
        targets_n: Tensor,
        smoothing: float,
        *weights: Tensor,
    ) -> Tensor:
        """States (n, d) and targets (n) -> (); ``weights`` are those of the head that learn."""
        total, parts, sums = states_nd.new_zeros(()), list[Tensor](), list[Tensor]()
        size = max(1, MOST_LOGITS // max(1, head.setting.outputs))
        for own_nd, own_n in zip(states_nd.split(size), targets_n.split(size), strict=True):
            with torch.enable_grad():
                own_nd = own_nd.detach().requires_grad_()
                logits_nv = head.logits(own_nd)
            total += into_gradient(logits_nv.detach(), own_n, smoothing)
            gradient_nd, *others = torch.autograd.grad(
                logits_nv, [own_nd, *weights], logits_nv.detach()
            )
            parts.append(gradient_nd)
            for place, each in enumerate(others):
                if place == len(sums):
                    sums.append(each)
                else:
                    sums[place].add_(each)
        ctx.save_for_backward(*(each.div_(len(targets_n)) for each in (torch.cat(parts), *sums)))
        return total / len(targets_n)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of the states and of the weights, made before."""
        (factor,) = gradients
        plain = float(factor) == 1  # where the loss is the mean itself; spares a pass over a table
        states, *weights = (each if plain else each * factor for each in ctx.saved_tensors)
        return None, states, None, None, *weights


def into_gradient(logits_nv: Tensor, targets_n: Tensor, smoothing: float = 0.0) -> Tensor:
    """The sum of the cross-entropies (), whose gradient takes the place of the logits."""
    torch.log_softmax(logits_nv, dim=-1, out=logits_nv)
    rows_n = torch.arange(len(targets_n), device=targets_n.device)
    total = -logits_nv[rows_n, targets_n].sum()
    if not smoothing:
        logits_nv.exp_()[rows_n, targets_n] -= 1
        return total
    total = (1 - smoothing) * total - smoothing * logits_nv.mean(dim=-1).sum()
    logits_nv.exp_()[rows_n, targets_n] -= 1 - smoothing
    logits_nv.sub_(smoothing / logits_nv.shape[1])
    return total


def mean_log_loss(network: nn.Module, examples: Sequence[Example]) -> float:
    """The mean log-loss (nats) of the next tokens that are learnt."""
    total, count = 0.0, 0
    body = cast(Network, network)
    with torch.inference_mode():
        for places in pieces([each.cost for each in examples], MOST_TOKENS_AT_ONCE):
            batch = packed(body, [examples[place] for place in places])
            hidden = body.output_batch(batch).by_document(body.hidden(batch))
            for place, own_nd in zip(places, hidden, strict=True):
                learnt, ids = np.asarray(examples[place].target) != UNLEARNT, examples[place].tokens
                edges = np.flatnonzero(np.diff(learnt, prepend=False, append=False))
                for first, end in edges.reshape(-1, 2):
                    total += likelihood(body, own_nd, ids[: end + 1], first + 1)
                count += int(learnt.sum())
    return total / max(count, 1)


def likelihoods(network: Network, batch: Sequence[Document]) -> tuple[np.ndarray, np.ndarray]:
    """The negative log-likelihood (nats) of each document's scored tokens (n,), and the documents'
    vectors (n, d) at length 1."""
    nats = np.zeros(len(batch))
    vectors = np.empty((len(batch), network.width), dtype=np.float32)
    for places in pieces([item.cost for item in batch], MOST_TOKENS_AT_ONCE):
        with torch.inference_mode():
            whole = packed(network, [batch[place].example(place) for place in places])
            hidden_nd = network.hidden(whole)
            piece = network.output_batch(whole)
            pooled_bd = piece.as_packed(F.normalize(mean_pool(hidden_nd, piece), dim=-1))
            vectors[places] = pooled_bd.cpu().numpy()
            for place, own_nd in zip(places, piece.by_document(hidden_nd), strict=True):
                item = batch[place]
                nats[place] = likelihood(network, own_nd, item.tokens, item.first)
    return nats, vectors


def likelihoods_of_windows(
    network: Network, batch: Sequence[Document], most: int
) -> tuple[np.ndarray, np.ndarray]:
    """What :func:`likelihoods` gives, of documents of any length: one of more than ``most`` tokens
    is read in windows that share half of theirs. The vector is that of the first window."""
    parts = [
        [item]
        if len(item.tokens) <= most or item.source is not None
        else [*windows(item, most, max(1, most // 2))]
        for item in batch
    ]
    nats, vectors = likelihoods(network, [each for part in parts for each in part])
    starts = np.cumsum([0, *map(len, parts)])[:-1]
    return np.add.reduceat(nats, starts) if len(batch) else nats, vectors[starts]


def windows(item: Document, most: int, shared: int) -> Iterator[Document]:
    """A document of any length in windows of at most ``most`` tokens, which score each of its
    scored tokens once; a window begins with ``shared`` tokens of the one before it, at least 1."""
    begin, first, end = 0, max(item.first, 1), len(item.tokens)
    while begin + most < end:
        stop = begin + most
        if first < stop:  # else nothing of this window is scored
            yield Document(item.tokens[begin:stop], first - begin, 0, None)
            first = stop
        begin = stop - shared
    yield Document(item.tokens[begin:], first - begin, 0, None)


def continuation_nats(network: Network, item: Document, others: Sequence[np.ndarray]) -> np.ndarray:
    """The negative log-likelihood (nats) of each of several continuations (n,) of a document's
    unscored beginning, which a decoder reads once for all."""
    begun = item.tokens[: item.first]
    whole = [np.concatenate([begun, each]) for each in others]
    if item.source is not None or network.two_streams or len(begun) < 2:
        return likelihoods(network, [replace(item, tokens=ids) for ids in whole])[0]
    with torch.inference_mode():
        cache = Cache(1)
        network.hidden(pack([begun[:-1]]), cache=cache)
        cache.choose([0] * len(others))
        rest = [ids[len(begun) - 1 :] for ids in whole]
        batch = pack(rest, order=range(len(rest)), past=[len(begun) - 1] * len(rest))
        states = batch.by_document(network.hidden(batch, cache=cache))
        pairs = zip(states, rest, strict=True)
        return np.array([likelihood(network, own_nd, ids, 1) for own_nd, ids in pairs])


def likelihood(network: Network, hidden_nd: Tensor, ids: np.ndarray, first: int) -> float:
    """The negative log-likelihood (nats) of a document's tokens from ``first`` on.

    The logits of a large vocabulary are never held for all tokens at once.
    """
    head = head_of(network)
    wanted = torch.from_numpy(np.asarray(ids, dtype=np.int64)).to(hidden_nd.device)
    step = max(1, MOST_LOGITS // max(1, head.setting.outputs))
    total = 0.0
    for start in range(first - 1, len(ids) - 1, step):
        end = min(start + step, len(ids) - 1)
        logits = head(hidden_nd[start:end], pack([ids[start:end]]), None).double()
        total += float(F.cross_entropy(logits, wanted[start + 1 : end + 1], reduction="sum"))
    return total


def byte_count(text: str) -> int:
    """The bytes of a text, at least 1."""
    return max(1, len(text.encode("utf-8", "surrogatepass")))
