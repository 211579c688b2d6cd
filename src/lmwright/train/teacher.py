"""Teachers: models that another learns from, of this run, of the store or as published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.models.files.hub import is_hub
from lmwright.models.files.published import check_address, located, read_published
from lmwright.models.load import load_predictor
from lmwright.models.published_head import places_of, with_published_head
from lmwright.models.text_model import (
    LONGEST,
    ReadsMore,
    TextModel,
    TextPredictor,
    from_published,
    language_model,
)
from lmwright.text.generation import is_hosted
from lmwright.text.tokenizer import Tokenizer
from lmwright.train.task_model import StartingTaskModel, TrainedTaskModel, trained_task_model

SEQUENCES = "distil by its texts, kind: sequences, or choose another teacher or start"


@dataclass(frozen=True)
class Teacher:
    """A model that is learnt from, and how it answers the task. Its weights want no gradient."""

    name: str
    model: TextModel
    task_model: TrainedTaskModel


def is_address(teacher: str) -> bool:
    """Whether a teacher is named by a published model's address, and not as an artifact."""
    published = is_hub(teacher) or is_hosted(teacher) or teacher.startswith("asset:")
    return published or "/" in teacher or teacher.lower().endswith(".gguf")


def check_teacher(teacher: str) -> None:
    """BadInput for a name that can be none, and for an address at which there is no model."""
    if not teacher:
        raise BadInput(
            "distil.teacher is empty",
            "an artifact of the run, NAME@ALIAS of the store, or a published model's address",
        )
    if is_hosted(teacher):
        raise BadInput(
            f"the teacher {teacher} is hosted: nobody here sees its logits",
            "a model of this machine",
            "write the targets with it beforehand, as rows of a source",
        )
    if is_address(teacher):
        check_address(teacher)


def open_teacher(
    name: str, inputs: Mapping[str, Path], task_model: TrainedTaskModel, answers: bool
) -> Teacher:
    """The teacher of that name, an artifact among ``inputs`` or a published model.

    ``answers`` says that it must answer the task itself; else its body will do. BadInput where it
    is for another task or has other labels.
    """
    if is_address(name):
        found = Teacher(name, published_teacher(name, task_model, answers), task_model)
    else:
        predictor: Any = load_predictor(inputs[name])
        if not isinstance(predictor, TextPredictor):
            raise BadInput(f"the teacher {name} is a {predictor.kind} model", "a text model")
        if answers and not predictor.task.comparable(task_model.task):
            raise BadInput(
                f"the teacher {name} answers {predictor.task}",
                f"the task of the rows: {task_model.task}",
                "train a teacher on rows with these labels",
            )
        answering = trained_task_model(predictor.task) if answers else task_model
        found = Teacher(name, predictor.model, answering)
    own, other = "" if is_address(name) else read_more(found.task_model), read_more(task_model)
    if own != other:
        raise BadInput(
            f"the teacher {name}, and {own or other}, which one of the two models reads alone",
            "a teacher that was trained for the same settings of the task",
            "train it with the task as it is here",
        )
    found.model.network.requires_grad_(False)
    return found


def read_more(task_model: object) -> str:
    """What a task model reads of a text beside its ids, in words; "" for nothing."""
    return task_model.reads_more if isinstance(task_model, ReadsMore) else ""


def published_teacher(address: str, task_model: TrainedTaskModel, answers: bool) -> TextModel:
    """A published model with the head that answers the task, or with a head that nobody reads."""
    if not located(address).exists():
        raise BadInput(f"distil.teacher: there is no {address}", "a published model")
    published = read_published(address)
    head = task_model.head(0.0)
    most = published.spec.longest or LONGEST
    if isinstance(head, str):
        model = language_model(published)
        if isinstance(task_model, StartingTaskModel):
            model, _ = task_model.prepared_start(model)
        return model
    if not answers:
        return from_published(published, head, most, 0)
    use, names = task_model.published_head, task_model.output_names()
    try:
        places = places_of(published.described.config, use, names)
    except BadInput as error:
        found = error.found.replace("the start", f"the teacher {address}")
        cure = "train a teacher on the rows first, and name its artifact"
        raise BadInput(found, error.wanted, cure) from None
    return with_published_head(published, use, places, most)


def size_of(address: str) -> float:
    """The bytes of a published model's weights in fp32, about: those of its files, at most."""
    path = located(address)
    files = [path] if path.is_file() else [each for each in path.iterdir() if each.is_file()]
    return float(sum(each.stat().st_size for each in files))


def refuse_other_tokens(student: Tokenizer, teacher: Teacher, kind: str, writes: bool) -> None:
    """BadInput where a teacher cuts texts into other tokens than its student.

    ``writes`` says that the task's targets are texts, which any teacher could write.
    """
    own, other = student.vocabulary(), teacher.model.tokenizer.vocabulary()
    if own == other:
        return
    different = sum(other.get(name) != number for name, number in own.items())
    raise BadInput(
        f"distil is {kind}, and of the student's {len(own):,} tokens the teacher {teacher.name} "
        f"numbers {different:,} otherwise or lacks them (it has {len(other):,}): its numbers "
        "would be read as those of other tokens",
        "a teacher with the student's own vocabulary",
        SEQUENCES if writes else "choose a teacher or a start with the other's tokenizer",
    )


def refuse_shorter(most: int, teacher: Teacher) -> None:
    """BadInput where a teacher cannot read texts of ``most`` tokens."""
    longest = teacher.model.network.longest or LONGEST
    if most > longest:
        raise BadInput(
            f"texts of {most} tokens, and the teacher {teacher.name} reads {longest}",
            f"at most {longest}",
            "lower max_tokens",
        )
