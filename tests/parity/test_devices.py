"""Every family on another device, with its values, and in bf16; no GPU is used for it.

The other device is pretended (``tests/pretend.py``): an op that meets tensors of both fails.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmwright.models import contrastive_search as contrastive
from lmwright.models.beam_search import beam_search
from lmwright.models.contrastive_search import contrastive_search
from lmwright.models.core import bf16, mkl
from lmwright.models.core.device import Placement
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import Ragged, pack
from lmwright.models.decode import DecodingState, generate
from lmwright.models.generation import Generation
from lmwright.models.network.network import Network, set_weight, tie
from lmwright.models.text_model import TextModel, Tokens
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.text_generation import TextGeneration
from lmwright.tasks.token_classification import TokenClassification
from lmwright.text.generation import GenerationConfig, SamplingParams
from lmwright.train import documents
from lmwright.train.batches import Example, Share
from lmwright.train.division import Division
from lmwright.train.documents import Document
from lmwright.train.loop import OptimizerConfig, State, train
from lmwright.train.loss import BatchLoss, cross_entropy
from lmwright.train.optimizers import SGD, AdamW
from lmwright.train.schedules import Linear
from lmwright.train.task_model import trained_task_model
from tests.parity.networks import NETWORKS
from tests.pretend import ELSEWHERE, Elsewhere, Mixed, pretend_device

QUICK = ("elmo", "text cnn", "bert, classify", "llama", "t5", "bart", "xlnet", "bloom", "mixtral")
"""Every op and every kind of positions; the other families have no other."""
WRITERS = ("gpt2", "bloom", "bart", "mixtral")
every = pytest.mark.parametrize(
    "name",
    [each if each in QUICK else pytest.param(each, marks=pytest.mark.long) for each in NETWORKS],
)
HALF = Placement("cpu", "bf16")


def moved(network: Network) -> Network:
    """The network with its weights on the pretend device."""
    for name, weight in list(network.named_parameters()):
        set_weight(network, name, nn.Parameter(Elsewhere(weight.detach().clone())))
    tie(network)
    return network


def loss_and_gradients(network: Network, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss under dropout with auxiliary losses, and the gradients of all weights."""
    aux_losses: list[Tensor] = []
    logits = network(batch, DropoutRNG(0, 0), aux_losses=aux_losses)
    loss = sum(aux_losses, logits.square().mean())
    loss.backward()
    return loss.detach(), {
        name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None
    }


@every
def test_a_network_on_another_device_meets_no_tensor_of_the_cpu_and_gives_the_same(name):
    (here, batch), (there, _) = NETWORKS[name](), NETWORKS[name]()
    wanted = loss_and_gradients(here, batch)
    with pretend_device():
        found = loss_and_gradients(moved(there), batch)
    assert isinstance(found[0], Elsewhere)
    assert all(isinstance(each, Elsewhere) for each in found[1].values())
    torch.testing.assert_close(found[0].held, wanted[0], rtol=1e-9, atol=1e-10)
    assert found[1].keys() == wanted[1].keys()
    for path, gradient in found[1].items():
        torch.testing.assert_close(gradient.held, wanted[1][path], rtol=1e-6, atol=1e-9, msg=path)


def test_a_stream_that_stays_on_the_cpu_is_found(monkeypatch):
    network, batch = NETWORKS["gpt2"]()
    monkeypatch.setattr(Ragged, "to", lambda self, device: self)
    with pytest.raises(Mixed), pretend_device():
        moved(network)(batch)


@pytest.mark.parametrize("name", WRITERS)
@torch.no_grad()
def test_texts_are_written_from_another_device(name, monkeypatch):
    """With a cache that grows, documents that end, constraints, sampling and beams."""
    for place, name_ in (
        (DecodingState, "extend"),
        (contrastive, "read"),
        (contrastive, "logits_of"),
    ):
        plain: Any = getattr(place, name_)
        monkeypatch.setattr(place, name_, plain.__wrapped__)  # tags take no inference mode
    here, there = NETWORKS[name]()[0], NETWORKS[name]()[0]
    config = GenerationConfig(repetition_penalty=1.2, no_repeat_ngram_size=2, min_length=2)
    params = SamplingParams(6, 0.9, 10, 0.9, stop_ids=(1, 2, 3), banned_ids=(4,))
    params = params.__class__(**{**vars(params), "generation_config": config})
    prompts = [np.array([5, 6, 7]), np.array([8]), np.array([9, 10])]
    sources = None if len(here.streams) == 1 else [np.array([4, 5]), np.array([6]), np.array([7])]

    def written(network: Network) -> list[list[int]]:
        steps = generate(network, prompts, params, np.random.default_rng(0), sources)
        sampled = [[step[j].id if j in step else -1 for j in range(3)] for step in steps]
        beams = SamplingParams(4, beams=3, stop_ids=(1, 2))
        source = None if sources is None else sources[0]
        best = beam_search(network, prompts[0], beams, source)
        search = SamplingParams(4, top_k=3, penalty_alpha=0.6)
        unlike = contrastive_search(network, prompts[0], search, source)
        return [*sampled, *(list(each.tokens) for each in best), [each.id for each in unlike]]

    wanted = written(here)
    with pretend_device():
        assert written(moved(there)) == wanted
    assert len(wanted) > 4


@pytest.mark.parametrize("setting", [AdamW(), SGD()])
def test_training_on_another_device_moves_the_weights_alike(setting):
    """The loop itself; its optimizer's state comes back from tensors of the CPU."""

    class Steps:
        seed, steps = 0, 4

        def at(self, step: int, network: Any, share: Share) -> list[Example]:
            return [Example(np.arange(3 + step + j) % 40, j, j % 2) for j in range(3)][share.of(3)]

    def loss(network: Any, examples: Any, dropout_rng: Any) -> BatchLoss:
        rows = network(batch_of(examples), dropout_rng)
        return cross_entropy(rows, torch.tensor([example.target for example in examples]))

    def batch_of(examples: Any) -> Ragged:
        return pack([each.tokens for each in examples], [each.document for each in examples])

    def quiet(event: str, **facts: object) -> None:
        pass

    def trained(network: Network) -> dict[str, Tensor]:
        state, descent = State(), OptimizerConfig(1e-2, Linear(), 1.0)
        optimizer = setting.make(network)
        steps: Any = Steps()
        train(network, steps, loss, optimizer, descent, state, [], quiet)
        kept = {name: each.cpu() for name, each in optimizer.state().items()}
        again = setting.make(network)
        again.restore(kept)
        train(network, steps, loss, again, descent, State(), [], quiet, Division(2))
        return dict(network.named_parameters())

    here, there = NETWORKS["bert, classify"]()[0], NETWORKS["bert, classify"]()[0]
    wanted = trained(here)
    with pretend_device():
        found = trained(moved(there))
    for name, weight in found.items():
        assert weight.device == ELSEWHERE
        torch.testing.assert_close(weight.held, wanted[name], rtol=1e-6, atol=1e-9, msg=name)


TEXTS = [np.array(ids) for ids in ([5, 6, 7, 8], [9, 10], [11, 12, 13])]
ENTITIES = TokenClassification(labels=("A",))
TASKS = {
    "text-classification": (
        "bert, classify",
        TextClassification(labels=("a", "b", "c")),
        (0, 2, 1),
    ),
    "token-classification": ("bert", ENTITIES, [np.full(len(ids), 1) for ids in TEXTS]),
    "text-generation": ("gpt2", TextGeneration(), [np.roll(ids, -1) for ids in TEXTS]),
    "with an encoder": ("bart", TextGeneration(), [np.roll(ids, -1) for ids in TEXTS]),
}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_learn_score_and_answer_on_another_device(name, monkeypatch):
    """Loss, scores and vectors are those of the CPU, and what a task gives out is there."""
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # tags take no inference mode
    monkeypatch.setattr(documents, "MOST_LOGITS", 3 * 61)  # so that logits come in parts
    network_name, task, targets = TASKS[name]
    model = trained_task_model(task)
    beside = (Example(np.array([4, 5]), 1 << 127, 0),) if name == "with an encoder" else ()
    examples = [
        Example(ids, place, target, beside)
        for place, (ids, target) in enumerate(zip(TEXTS, targets, strict=True))
    ]

    def learnt(network: Network) -> tuple[Any, Any, list[np.ndarray]]:
        loss = model.loss(network, examples, DropoutRNG(0, 0)).mean
        loss.backward()
        prepared = [Tokens(ids) for ids in TEXTS]
        if beside:
            items = [Document(ids, 1, 3, None, beside[0].tokens) for ids in TEXTS]
            bound: Any = TextModel(network, cast(Any, None), 64, Generation(decoder_start_id=2))
            answers = model.answers(bound, items)
            return loss.detach().cpu(), model.score(network, examples), [answers.vectors]
        bound = TextModel(network, cast(Any, None), 64)
        pooled = network.head_spec.pool != "none"
        logits, vectors = (bound.logits_and_vectors if pooled else bound.token_logits)(prepared)
        return loss.detach().cpu(), model.score(network, examples), [*logits, vectors]

    here, there = NETWORKS[network_name]()[0], NETWORKS[network_name]()[0]
    wanted = learnt(here)
    with pretend_device():
        found = learnt(moved(there))
    assert float(found[0]) == pytest.approx(float(wanted[0]), rel=1e-9)
    assert found[1] == pytest.approx(wanted[1], rel=1e-6)
    for one, other in zip(found[2], wanted[2], strict=True):
        assert isinstance(one, np.ndarray)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


class Halves(TorchDispatchMode):
    """A record of the ops that compute with a tensor in bf16."""

    MOVES = ("_to_copy", "t", "view", "transpose", "detach", "alias", "expand", "slice", "select")

    def __init__(self) -> None:
        super().__init__()
        self.ops: set[str] = set()

    def __torch_dispatch__(self, op: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        halves = [each for each in tree_leaves((given, named)) if isinstance(each, Tensor)]
        name = op.overloadpacket.__name__
        if any(each.dtype == torch.bfloat16 for each in halves) and name not in self.MOVES:
            self.ops.add(name)
        return op(*given, **(named or {}))


@every
def test_in_bf16_products_alone_are_computed_in_it(name, monkeypatch):
    """Weights, gradients, logits and everything between the products are fp32."""
    network, batch = NETWORKS[name]()
    network.float()
    wanted, gradients = loss_and_gradients(network, batch)
    network.zero_grad()
    network.place(HALF)
    halves = Halves()

    def by_mkl(*operands: torch.Tensor | None) -> torch.Tensor:
        halves.ops.add("mkl")  # is no operation of torch's that the trace would see
        return mkl.multiply(*operands)

    monkeypatch.setattr(bf16, "multiply", by_mkl)
    with halves:
        found, others = loss_and_gradients(network, batch)
    assert halves.ops <= {"mm", "linear", "mkldnn_linear", "mkl"}
    assert halves.ops or name == "elmo"  # whose products are those of torch's cells, but the head's
    assert found.dtype == torch.float32
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert others.keys() == gradients.keys()
    assert all(each.dtype == torch.float32 for each in others.values())
    assert found != wanted
    # Eight bits of each product's operands; a router may choose others where two are close.
    torch.testing.assert_close(found, wanted, rtol=0.1, atol=0.05)
    network.place(Placement())
    torch.testing.assert_close(loss_and_gradients(network, batch)[0], wanted, rtol=0, atol=0)
