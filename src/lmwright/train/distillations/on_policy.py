"""On-policy distillation: the student writes, and learns what the teacher says of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.decode import generate_each
from lmwright.models.network.network import Network
from lmwright.text.generation import SamplingParams
from lmwright.train.batches import UNLEARNT, Batches, Example, Share
from lmwright.train.distil import Distil, Lesson, divergence, mean_over_rows
from lmwright.train.documents import WRITTEN_COST
from lmwright.train.loss import BatchLoss, Loss
from lmwright.train.made import MadeBatches
from lmwright.train.method import Method


@dataclass(frozen=True, kw_only=True)
class OnPolicy(Distil):
    """Generalised knowledge distillation (Agarwal et al. 2024, algorithm 1).

    ``share``           of the steps in which the student writes the answers that are learnt from;
                        in the others they are those of the rows.
    ``beta``            of the generalised Jensen-Shannon divergence between the two distributions
                        of each token: 0 is KL(teacher ‖ student), 1 is KL(student ‖ teacher), which
                        forgives what the student leaves out.
    ``temperature``     at which the student writes.
    ``max_new_tokens``  that it writes at most.

    For language models with the same vocabulary.
    """

    share: float = 0.5
    beta: float = 0.5
    temperature: float = 1.0
    max_new_tokens: int = 64

    def check(self) -> None:
        """BadInput for a number out of its range."""
        super().check()
        for name in ("share", "beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} is {getattr(self, name)}", "from 0 to 1")
        if not 0 <= self.temperature <= 100:
            raise BadInput(f"temperature is {self.temperature}", "from 0 to 100")
        if self.max_new_tokens < 1:
            raise BadInput(f"max_new_tokens is {self.max_new_tokens}", "1 or more")

    def reads(self, rows: float, length: float, epochs: int) -> float:
        """The batches, and what the student writes before."""
        return rows * epochs * (length + self.share * WRITTEN_COST * self.max_new_tokens)

    def make(self, lesson: Lesson) -> Method:
        """The answers and divergences of one run."""
        if not lesson.student.network.is_causal_lm:
            raise BadInput(
                f"distil is on-policy, and the student writes nothing for "
                f"{lesson.task_model.task.kind}",
                "a language model and a task that it writes for",
                "set distil to logits",
            )
        lesson.refuse_other_tokens("on-policy")
        return OwnAnswers(lesson, self)


class OwnAnswers(Method):
    """Batches with answers of the student, and the divergence from the teacher on them."""

    def __init__(self, lesson: Lesson, setting: OnPolicy) -> None:
        self.task_model = lesson.classes("on-policy")
        self.lesson, self.setting = lesson, setting

    def batches(self, batches: Batches) -> Batches:
        """The same batches, with the student's own answers in a share of the steps."""
        lesson, setting = self.lesson, self.setting

        def make(step: int, network: Network, share: Share) -> Sequence[Example]:
            examples = batches.at(step, network, share)
            if not examples or stream(lesson.seed, "on-policy", step).random() >= setting.share:
                return examples
            return self.written(network, examples, step)

        path = lesson.work.scratch / "made.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = f"{batches.hash()} {setting}"
        return MadeBatches(make, batches.seed, path, lesson.work.record, settings, batches.steps)

    def written(self, network: Network, examples: Sequence[Example], step: int) -> list[Example]:
        """Examples with answers that the network writes, each drawn by seed, step and document."""
        model, setting = self.lesson.student, self.setting
        begun = [each.tokens[: answer_start(each)] for each in examples]
        rooms = [self.lesson.max_tokens - len(ids) for ids in begun]
        places = [place for place, room in enumerate(rooms) if room > 0]
        found = list(examples)
        if not places:
            return found
        params = [
            SamplingParams(
                max_new_tokens=min(setting.max_new_tokens, rooms[place]),
                temperature=setting.temperature,
                stop_ids=model.stop_ids,
            )
            for place in places
        ]
        rngs = [
            stream(self.lesson.seed, "on-policy", step, examples[place].document)
            for place in places
        ]
        sources = [source.tokens for place in places for source in examples[place].beside]
        answers: list[list[int]] = [[] for _ in places]
        prompts = [begun[place] for place in places]
        for tokens in generate_each(network, prompts, params, rngs, sources or None):
            for number, token in tokens.items():
                answers[number].append(token.id)
        for place, ids in zip(places, answers, strict=True):
            found[place] = answered(examples[place], begun[place], ids)
        return found

    def wrapped(self, loss: Loss) -> Loss:
        """The divergence of the student from its teacher on the tokens that are learnt from."""

        def diverging(
            network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
        ) -> BatchLoss:
            aux_losses: list[Tensor] = []
            learnt = self.task_model.learnt(network, examples, dropout_rng, aux_losses).known()
            told = self.lesson.told(examples)
            mean = mean_over_rows(
                learnt, told, lambda own, other: jensen_shannon(own, other, self.setting.beta)
            )
            count = float(len(learnt.targets))
            return BatchLoss(sum(aux_losses, mean), count, divisible=not aux_losses)

        return diverging


def answer_start(example: Example) -> int:
    """The place of the first token of a document's last answer; 1 where nothing is learnt."""
    learnt = np.flatnonzero(np.asarray(example.target) != UNLEARNT)
    if not len(learnt):
        return max(1, len(example.tokens))
    breaks = np.flatnonzero(np.diff(learnt) > 1)
    return int(learnt[breaks[-1] + 1 if len(breaks) else 0]) + 1


def answered(example: Example, begun: np.ndarray, ids: Sequence[int]) -> Example:
    """An example with another answer behind the same beginning; its tokens alone are learnt."""
    tokens = np.concatenate([begun, ids]).astype(np.int64)
    target = np.full(len(tokens), UNLEARNT, dtype=np.int64)
    target[len(begun) - 1 : -1] = tokens[len(begun) :]
    return replace(example, tokens=tokens, target=target, segments=None)


def jensen_shannon(student_nk: Tensor, teacher_nk: Tensor, beta: float) -> Tensor:
    """The generalised Jensen-Shannon divergence (n,) in nats of distributions by their logits.

    beta KL(teacher ‖ m) + (1 - beta) KL(student ‖ m), with m = beta teacher + (1 - beta) student;
    at its ends the divergence that it becomes there when divided by beta, or by 1 - beta.
    """
    if beta == 0:
        return divergence(teacher_nk, student_nk)
    if beta == 1:
        return divergence(student_nk, teacher_nk)
    own, other = (F.log_softmax(each, -1) for each in (student_nk, teacher_nk))
    shift = own.new_tensor([beta, 1 - beta]).log()
    mixed = torch.logaddexp(other + shift[0], own + shift[1])
    terms = [(each.exp() * (each - mixed)).sum(-1) for each in (other, own)]
    return beta * terms[0] + (1 - beta) * terms[1]
