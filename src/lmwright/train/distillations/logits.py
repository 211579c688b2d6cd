"""Distillation of logits: the student learns the teacher's distribution beside the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.models.core.dropout import DropoutRNG
from lmwright.train.batches import Example
from lmwright.train.distil import Distil, Lesson, divergence, mean_over_rows
from lmwright.train.loss import BatchLoss, Loss
from lmwright.train.method import Method


@dataclass(frozen=True, kw_only=True)
class Logits(Distil):
    """The loss is ``alpha`` T² KL(teacher ‖ student) + (1 - ``alpha``) times that of the labels,
    with both distributions at the ``temperature`` T (Hinton et al. 2015, section 2).

    For tasks whose targets are classes: labels, tags, next tokens. Teacher and student have the
    same vocabulary, and the same labels.
    """

    temperature: float = 2.0
    alpha: float = 0.5

    def check(self) -> None:
        """BadInput for a number out of its range."""
        super().check()
        if not 0 < self.temperature <= 100:
            raise BadInput(f"temperature is {self.temperature}", "more than 0, at most 100")
        if not 0 < self.alpha <= 1:
            raise BadInput(
                f"alpha is {self.alpha}", "more than 0, at most 1", "0 would learn the labels alone"
            )

    def make(self, lesson: Lesson) -> Method:
        """The soft targets of one run."""
        lesson.refuse_other_tokens("logits")
        return SoftTargets(lesson, self.temperature, self.alpha)


class SoftTargets(Method):
    """The teacher's distribution over classes, beside the targets."""

    def __init__(self, lesson: Lesson, temperature: float, alpha: float) -> None:
        self.task_model = lesson.classes("logits")
        self.lesson, self.temperature, self.alpha = lesson, temperature, alpha

    def wrapped(self, loss: Loss) -> Loss:
        """The loss of soft and hard targets, both of one reading."""

        def soft(
            network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
        ) -> BatchLoss:
            aux_losses: list[Tensor] = []
            learnt = self.task_model.learnt(network, examples, dropout_rng, aux_losses)
            known = learnt.known()
            told = mean_over_rows(known, self.lesson.told(examples), self.rows)
            if self.alpha == 1:
                count = float(len(known.targets))
                return BatchLoss(sum(aux_losses, told), count, divisible=not aux_losses)
            hard = self.task_model.loss_of(learnt, [])
            mean = sum(aux_losses, self.alpha * told + (1 - self.alpha) * hard.mean)
            # Under weights of the classes the two are means over different counts.
            whole = hard.divisible and not aux_losses and hard.count == len(known.targets)
            return BatchLoss(mean, hard.count, whole)

        return soft

    def rows(self, student_nk: Tensor, teacher_nk: Tensor) -> Tensor:
        """The loss (n,) of each row; T² keeps the gradient's size whatever the temperature."""
        return self.temperature**2 * divergence(teacher_nk, student_nk, self.temperature)
