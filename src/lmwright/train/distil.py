"""Distillation of a training: a teacher's part in its rows, its batches and its loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings, Work
from lmwright.models.text_model import TextModel
from lmwright.train.batches import Example
from lmwright.train.documents import MOST_LOGITS
from lmwright.train.loss import Learnt
from lmwright.train.method import Method
from lmwright.train.task_model import ClassifyingTaskModel, TrainedTaskModel, WritingTaskModel
from lmwright.train.teacher import (
    Teacher,
    check_teacher,
    is_address,
    refuse_other_tokens,
    refuse_shorter,
)

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""Of the logits (n, k) of a student and of its teacher the loss (n,) of each row."""


@dataclass(frozen=True)
class Lesson:
    """What a distillation is made of: how the task is learnt, student, teacher, seed, the longest
    text to be learnt from in tokens, and the training's surroundings."""

    task_model: TrainedTaskModel
    student: TextModel
    teacher: Teacher
    seed: int
    max_tokens: int
    work: Work

    @property
    def writes(self) -> bool:
        """Whether the task's targets are texts."""
        return isinstance(self.task_model, WritingTaskModel)

    def classes(self, kind: str) -> ClassifyingTaskModel:
        """The task model, whose targets must be classes; BadInput where they are not."""
        if not isinstance(self.task_model, ClassifyingTaskModel):
            raise BadInput(
                f"distil is {kind}, and the answers of {self.task_model.task.kind} are no "
                "distribution over classes",
                "a task with labels, tags or tokens",
                "set distil to hidden, or leave it out",
            )
        return self.task_model

    def refuse_other_tokens(self, kind: str) -> None:
        """BadInput where the teacher cannot read the student's examples as they are."""
        refuse_other_tokens(self.student.tokenizer, self.teacher, kind, self.writes)
        refuse_shorter(self.max_tokens, self.teacher)

    @torch.no_grad()
    def told(self, examples: Sequence[Example]) -> Learnt:
        """What the teacher says of the tokens or rows that are learnt of a batch."""
        found: Any = self.teacher.task_model
        return found.learnt(self.teacher.model.network, examples, None, []).known()


@dataclass(frozen=True, kw_only=True)
class Distil(Settings):
    """The setting ``distil`` of a training: an entry of ``tables.DISTILLATIONS``.

    ``teacher`` is an artifact of the run, ``NAME@ALIAS`` or a version of the store, or a published
    model's address.
    """

    teacher: str

    def check(self) -> None:
        """BadInput for a teacher that can be none."""
        check_teacher(self.teacher)

    @property
    def artifact(self) -> str:
        """The artifact that the teacher is, "" for a published model."""
        return "" if is_address(self.teacher) else self.teacher

    @property
    def answers(self) -> bool:
        """Whether the teacher must answer the task itself."""
        return True

    def reads(self, rows: float, length: float, epochs: int) -> float:
        """Tokens that the teacher reads of rows of a mean length, one that is written counted as
        several."""
        return rows * length * epochs

    def make(self, lesson: Lesson) -> Method:
        """The distillation of one run; BadInput for a teacher or a task that it does not fit."""
        raise NotImplementedError


def divergence(teacher_nk: Tensor, student_nk: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) in nats (n,) of distributions by their logits at a temperature."""
    own, other = (F.log_softmax(each / temperature, -1) for each in (student_nk, teacher_nk))
    return (other.exp() * (other - own)).sum(-1)


def mean_over_rows(student: Learnt, teacher: Learnt, of: RowLoss) -> Tensor:
    """The mean of a loss over rows, 0 of none; logits that both have are compared.

    Where all logits are more than :data:`MOST_LOGITS`, its gradient is made together with it, some
    rows at a time.
    """
    width = min(student.outputs, teacher.outputs)
    if not len(student.states):
        return 0.0 * student.states.sum()
    size = max(1, MOST_LOGITS // width)

    def total(own: Tensor, other: Tensor) -> Tensor:
        one, two = (
            each.logits(states)[:, :width].float()
            for each, states in ((student, own), (teacher, other))
        )
        return of(one, two).sum()

    if len(student.states) <= size or not torch.is_grad_enabled():
        parts = zip(student.states.split(size), teacher.states.split(size), strict=True)
        return torch.stack([total(*each) for each in parts]).sum() / len(student.states)
    own = () if student.head is None else student.head.parameters()
    weights = [each for each in own if each.requires_grad]
    found: Tensor = MeanInPieces.apply(total, student.states, teacher.states, size, *weights)
    return found


class MeanInPieces(torch.autograd.Function):
    """A mean of losses of rows whose gradient is made together with it, some rows at a time."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        total: Callable[[Tensor, Tensor], Tensor],
        states_nd: Tensor,
        others_nd: Tensor,
        size: int,
        *weights: Tensor,
    ) -> Tensor:
        """States of student (n, d) and teacher -> (); ``weights`` are those of the student's head
        that learn, ``total`` the summed loss of some rows."""
        value, parts = states_nd.new_zeros(()), list[Tensor]()
        sums = [torch.zeros_like(each) for each in weights]
        for own_nd, other_nd in zip(states_nd.split(size), others_nd.split(size), strict=True):
            with torch.enable_grad():
                own_nd = own_nd.detach().requires_grad_()
                loss = total(own_nd, other_nd)
            value += loss.detach()
            gradient_nd, *others = torch.autograd.grad(loss, [own_nd, *weights])
            parts.append(gradient_nd)
            for each, more in zip(sums, others, strict=True):
                each.add_(more)
        ctx.save_for_backward(*(each.div_(len(states_nd)) for each in (torch.cat(parts), *sums)))
        return value / len(states_nd)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of the states and of the weights, made before."""
        (factor,) = gradients
        states, *weights = (each * factor for each in ctx.saved_tensors)
        return None, states, None, None, *weights
