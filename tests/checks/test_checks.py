"""Planted faults of trainings: each is found, and a training without one raises no alarm."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from lmwright.core.columns import Row
from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.core.task import Task, role_columns, task_to_json
from lmwright.data.corpus import schema_of
from lmwright.models.core.device import resolve_placement
from lmwright.models.files.published import read_published
from lmwright.models.network.network import Network
from lmwright.models.text_model import TextModel, from_published
from lmwright.models.tunes.full import Full
from lmwright.models.tunes.head import HeadOnly
from lmwright.models.tunes.lora import LoRA
from lmwright.tasks.chat import Chat
from lmwright.tasks.sentence_similarity import SentenceSimilarity
from lmwright.tasks.summarization import Summarization
from lmwright.tasks.target_text import Decoding
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.token_classification import TokenClassification
from lmwright.text.templates import TEMPLATES
from lmwright.train.check import Trial, look, refuse
from lmwright.train.loop import OptimizerConfig
from lmwright.train.loss import BatchLoss
from lmwright.train.new import New
from lmwright.train.optimizers import AdamW
from lmwright.train.schedules import Constant
from lmwright.train.task_model import trained_task_model
from tests.guides import GUIDES
from tests.models.speaking import speaking_folder
from tests.models.test_text_model import BART
from tests.tasks.test_text_generation import LLAMA
from tests.text.lines import reviews
from tests.train.conftest import SMALL
from tests.whole.commands import lmwright

CHAT = Chat(decoding=Decoding(max_new_tokens=24), template="plain")
LABELLED = TextClassification(labels=("negative", "positive"))
PLAIN = TEMPLATES["plain"]


@cache
def lines() -> tuple[str, ...]:
    """Short lines of real reviews, none twice."""
    return tuple(dict.fromkeys(each for each in reviews() if 5 <= len(each.split()) <= 9))[:200]


def asked(count: int = 40, **changed: Any) -> list[Row]:
    """Conversations: a line of a review, and the next one as the answer."""
    texts = lines()
    return [
        {
            "messages": [{"role": "user", "content": texts[2 * n]}],
            "response": " ".join(texts[2 * n + 1].split()[:3]),
            **changed,
        }
        for n in range(count)
    ]


def labelled(count: int = 40) -> list[Row]:
    """Lines with a label each: whether they have the letter w."""
    return [
        {"text": each, "label": LABELLED.labels[int("w" in each.lower())]}
        for each in lines()[:count]
    ]


def table_of(task: Task, rows: Sequence[Row]) -> pa.Table:
    """Rows as a split has them."""
    schema = schema_of(role_columns(task, "input", "target"))
    frame = {"source": "reviews", "licence": "research", "origin": "reviews:1"}
    table = [{**row, **frame, "id": f"{n:032x}"} for n, row in enumerate(rows)]
    return pa.Table.from_pylist(table, schema)


@cache
def drawn(kind: str) -> TextModel:
    """A small model that nobody has trained: a decoder, an encoder–decoder or an encoder."""
    if kind == "encoder":
        head = trained_task_model(LABELLED).head(0.0)
        return New(family="bert", config=SMALL, vocabulary=400).model(lines(), head, 64, 1)
    family, config = ("llama", LLAMA) if kind == "decoder" else ("bart", BART)
    return New(family=family, config=config, vocabulary=500).model(lines(), "lm", 64, seed=3)


def trial(task: Task, rows: Sequence[Row], model: TextModel, folder: Path, **changed: Any) -> Trial:
    """A training on some rows, which are its validation and test rows, too, unless they change."""
    table = table_of(task, rows)
    pq.write_table(table, folder / "train.parquet")
    settings = {
        "task_model": trained_task_model(task),
        "model": model,
        "known_head": False,
        "rows": table,
        "validation": table,
        "data": folder,
        "batch": 8,
        "micro_batch": 0,
        "steps": 20,
        "seed": 0,
        "optimizer": AdamW(),
        "descent": OptimizerConfig(1e-2, Constant(), 1.0),
        "placement": resolve_placement("cpu", "fp32"),
    }
    tune = changed.pop("tune", Full())
    made = Trial(**{**settings, **changed})
    network = made.copy()
    tune.apply(network, 0)
    return replace(made, model=made.model.with_network(network, made.model.max_tokens))


def talk(folder: Path, rows: Sequence[Row] | None = None, **changed: Any) -> Trial:
    """A training on conversations."""
    task = changed.pop("task", CHAT)
    template = changed.pop("template", PLAIN)
    model = changed.pop("model", drawn("decoder").with_template(template))
    return trial(task, asked() if rows is None else rows, model, folder, **changed)


def classify(folder: Path, rows: Sequence[Row] | None = None, **changed: Any) -> Trial:
    """A training of a classifier."""
    rows = labelled() if rows is None else rows
    return trial(LABELLED, rows, changed.pop("model", drawn("encoder")), folder, **changed)


# Faults, each planted into a training that has no other


def long_prompts(folder: Path) -> Trial:
    """Prompts that fill the context, so that answers are cut."""
    rows = asked()
    for row in rows:
        row["response"] = " ".join(lines()[:6])
    return talk(folder, rows)


def other_stop(folder: Path) -> Trial:
    """Answers that end with a token at which the served model does not stop."""
    made = talk(folder)
    writer = made.task_model

    @dataclass(frozen=True)
    class Unended(type(writer)):  # type: ignore[misc]
        def answer_ids(self, model: TextModel, text: str) -> np.ndarray:
            return np.append(model.tokenizer.ids(text), 7).astype(np.int64)

    return replace(made, task_model=Unended(CHAT))


def early_stop(folder: Path) -> Trial:
    """A token at which the model stops stands in every answer: the commonest word, say."""
    model = drawn("decoder").with_template(PLAIN)
    inside = int(model.tokenizer.ids("the film")[-1])
    model = model.with_template(PLAIN)
    model.generation = replace(model.generation, stop_ids=(inside,))
    rows = asked()
    for row in rows:
        row["response"] = "the film is not bad"
    return talk(folder, rows[:1] + asked()[1:2] + rows[2:], model=model)


def two_beginnings(folder: Path) -> Trial:
    """A template that writes the start token twice."""
    return talk(folder, template="{{- bos_token }}" + PLAIN)


def no_beginning(folder: Path) -> Trial:
    """A template without the start token that the tokenizer puts before every text."""
    published = read_published(speaking_folder("llama", folder / "start"))
    model = from_published(published, "lm", 64, 0)
    return talk(folder, model=model.with_template(PLAIN.replace("{{- bos_token }}", "")))


def counting_template(folder: Path) -> Trial:
    """A template that says how many messages there are: a prefix is no prefix any more."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": lines()[n]} for n in range(5)]
    rows = [{**row, "messages": [*messages[:4], *row["messages"]]} for row in asked()]
    return talk(
        folder,
        rows,
        template=PLAIN.replace("{%- for", "{{- messages | length }}{%- for", 1),
    )


def other_rendering(folder: Path) -> Trial:
    """Prompts that training renders in another way than the server."""
    made = talk(folder)
    writer = made.task_model

    @dataclass(frozen=True)
    class Lower(type(writer)):  # type: ignore[misc]
        def documents(self, model: TextModel, rows: Sequence[Row]) -> Any:
            lowered = [
                {
                    **row,
                    "messages": [{**m, "content": m["content"].upper()} for m in row["messages"]],
                }
                if "response" in row
                else row
                for row in rows
            ]
            return super().documents(model, lowered)

    return replace(made, task_model=Lower(CHAT))


def unknown_markers(folder: Path) -> Trial:
    """Turn markers that are no tokens of the model."""
    marked = PLAIN.replace("{{- message.role | capitalize", "{{- '<|im_start|>' ~ message.role")
    return talk(folder, template=marked)


def merging_border(folder: Path) -> Trial:
    """Prompts that end within a word of the answer."""
    task = Summarization(prompt="{text} the f", decoding=Decoding(max_new_tokens=12))
    rows = [{"text": each, "summary": "ilm is good"} for each in lines()[:20]]
    rows += [{"text": each, "summary": f"ilm {each.split()[0]}"} for each in lines()[20:60]]
    return trial(task, rows, drawn("decoder"), folder)


def one_answer(folder: Path) -> Trial:
    """The same answer to most prompts."""
    return talk(folder, [*asked(30, response="Please call us."), *asked(40)[30:]])


def rate(lr: float) -> Callable[[Path], Trial]:
    """A rate that is far off."""
    return lambda folder: talk(folder, descent=OptimizerConfig(lr, Constant(), 1.0))


@dataclass(frozen=True, kw_only=True)
class Nothing(Settings):
    """A tune under which nothing learns."""

    freezes: ClassVar[bool] = True

    def apply(self, network: Network, seed: int) -> None:
        network.requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class Idle(Settings):
    """A tune whose own weight reaches no output."""

    freezes: ClassVar[bool] = True

    def apply(self, network: Network, seed: int) -> None:
        network.requires_grad_(False)
        network.idle = nn.Parameter(torch.ones(3))  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Leaking(Settings):
    """A tune that says it freezes the body, and moves it in every pass."""

    freezes: ClassVar[bool] = True

    def apply(self, network: Network, seed: int) -> None:
        HeadOnly().apply(network, seed)

        def drift(module: Any, _: Any) -> None:
            with torch.no_grad():
                next(iter(module.stacks.parameters())).add_(1e-3)

        network.register_forward_pre_hook(drift)


def tuned(tune: Any) -> Callable[[Path], Trial]:
    """A tune that does not do what it says."""
    return lambda folder: classify(folder, tune=tune)


def summed_loss(folder: Path) -> Trial:
    """A loss that is a mean in name alone, so that micro-batches change the gradient."""
    made = classify(folder)
    writer = made.task_model

    @dataclass(frozen=True)
    class Summed(type(writer)):  # type: ignore[misc]
        def loss(self, network: Any, examples: Any, dropout_rng: Any) -> BatchLoss:
            found = super().loss(network, examples, dropout_rng)
            return BatchLoss(found.mean * found.count, found.count)

    return replace(made, task_model=Summed(LABELLED))


def missing_label(folder: Path) -> Trial:
    """Validation rows of one label alone."""
    rows = labelled()
    only = [row for row in rows if row["label"] == "positive"]
    return classify(folder, rows, validation=table_of(LABELLED, only))


def swapped_head(folder: Path) -> Trial:
    """A trained head whose two outputs are named the wrong way round."""
    model = drawn("encoder")
    network = classify(folder).copy()
    optimizer = AdamW().make(network)
    writer = trained_task_model(LABELLED)
    examples = writer.examples(model, table_of(LABELLED, labelled()))
    for _ in range(60):
        writer.loss(network, examples, None).mean.backward()
        optimizer.step(1e-2)
    swapped = [{**row, "label": LABELLED.labels[row["label"] == "negative"]} for row in labelled()]
    return classify(folder, swapped, model=model.with_network(network, 64), known_head=True)


def spans_within_tokens(folder: Path) -> Trial:
    """Spans that end within a word."""
    task = TokenClassification(labels=("X",))
    rows = []
    for text in lines()[:40]:
        words = sorted(text.split(), key=len)
        start = text.index(words[-1])
        rows.append({"text": text, "spans": [{"start": start + 1, "end": start + 2, "label": "X"}]})
    head = trained_task_model(task).head(0.0)
    model = New(family="bert", config=SMALL, vocabulary=4000).model(lines(), head, 64, 1)
    return trial(task, rows, model, folder)


def pairs(texts: Sequence[tuple[str, str]], negatives: Sequence[Sequence[str]] = ()) -> list[Row]:
    """Questions with their passages."""
    return [
        {
            "sentence1": one,
            "sentence2": other,
            "score": 1.0,
            "negatives": [*negatives[n]] if negatives else [],
        }
        for n, (one, other) in enumerate(texts)
    ]


def alike(folder: Path) -> Trial:
    """Passages that differ by a word, in one batch."""
    same = " ".join(lines()[:3])
    rows = pairs([(each, f"{same} {n}") for n, each in enumerate(lines()[:40])])
    return embed(folder, rows)


def own_negative(folder: Path) -> Trial:
    """Right passages among their own negatives."""
    texts = [*zip(lines()[:40], lines()[40:80], strict=True)]
    return embed(folder, pairs(texts, [[other] for _, other in texts]))


def embed(folder: Path, rows: Sequence[Row]) -> Trial:
    """A training of a bi-encoder."""
    task = SentenceSimilarity()
    head = trained_task_model(task).head(0.0)
    model = New(family="bert", config=SMALL, vocabulary=400).model(lines(), head, 64, 1)
    return trial(task, rows, model, folder)


def known_tests(folder: Path) -> Trial:
    """Test rows that quote rows to learn from."""
    long = [" ".join(lines()[n : n + 4]) for n in range(0, 80, 4)]
    rows = [{"text": each, "label": LABELLED.labels[n % 2]} for n, each in enumerate(long)]
    quoted = [{**row, "text": f"{row['text']} indeed"} for row in rows]
    pq.write_table(table_of(LABELLED, quoted), folder / "test-foreign.parquet")
    (folder / "task.json").write_text(json.dumps(task_to_json(LABELLED)))
    return classify(folder, rows)


def unlearnable(folder: Path) -> Trial:
    """Equal prompts with answers that contradict each other."""
    rows = asked(8)
    for row in rows:
        row["messages"] = asked(1)[0]["messages"]
    return talk(folder, rows)


PLANTED: dict[str, tuple[Callable[[Path], Trial], str, str]] = {
    "answers are cut": (long_prompts, "learnt tokens", "stop"),
    "an end at which nobody stops": (other_stop, "endings", "stop"),
    "a stop token inside an answer": (early_stop, "endings", "stop"),
    "two start tokens": (two_beginnings, "beginnings", "stop"),
    "no start token": (no_beginning, "beginnings", "stop"),
    "turns that are no prefix": (counting_template, "rendering", "warn"),
    "another rendering in service": (other_rendering, "rendering", "stop"),
    "a prompt that merges with its answer": (merging_border, "rendering", "warn"),
    "turn markers that are no tokens": (unknown_markers, "special tokens", "warn"),
    "one answer to most prompts": (one_answer, "repeats", "warn"),
    "near duplicates as negatives": (alike, "repeats", "warn"),
    "the right passage as a negative": (own_negative, "repeats", "stop"),
    "a rate that is far too high": (rate(1.0), "rate", "warn"),
    "a rate that is far too low": (rate(1e-4), "rate", "warn"),
    "nothing learns": (tuned(Nothing()), "first steps", "stop"),
    "an adapter that reaches no output": (tuned(Idle()), "first steps", "stop"),
    "a base that moves": (tuned(Leaking()), "first steps", "stop"),
    "a loss that is no mean": (summed_loss, "first steps", "stop"),
    "a label that validation lacks": (missing_label, "classes", "warn"),
    "a head with its labels swapped": (swapped_head, "classes", "stop"),
    "spans within tokens": (spans_within_tokens, "tagging", "stop"),
    "test rows among training rows": (known_tests, "leakage", "warn"),
    "answers that contradict each other": (unlearnable, "few rows", "warn"),
}
"""Fault -> how it is planted, the check that finds it, and its word."""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    plant, check, word = PLANTED[name]
    made = plant(tmp_path)
    try:
        found = look(made, probe=check in ("rate", "first steps", "few rows"))
    finally:
        made.model.close()
    named = [each for each in found if (each.check, each.word) == (check, word)]
    assert named, "\n".join(each.line() for each in found)
    if word == "stop":
        with pytest.raises(BadInput):
            refuse(found)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(talk, id="chat"),
        pytest.param(classify, id="classes"),
        pytest.param(lambda folder: classify(folder, tune=LoRA(rank=4)), id="lora"),
    ],
)
def test_a_training_without_faults_raises_no_alarm(
    make: Callable[[Path], Trial], tmp_path: Path
) -> None:
    made = make(tmp_path)
    try:
        found = look(made, probe=True)
    finally:
        made.model.close()
    assert not [each.line() for each in found if each.word != "note"]
    assert {each.check for each in found} >= {"first steps", "rate", "few rows"}
    refuse(found)


def test_the_guide_lists_the_planted_faults() -> None:
    rows = [f"| {name} | {check} | {word} |" for name, (_, check, word) in PLANTED.items()]
    assert "\n".join(rows) in (GUIDES / "checks.md").read_text("utf-8")


def test_a_template_without_an_end_is_refused(tmp_path: Path) -> None:
    endless = drawn("decoder").with_template(PLAIN.replace("eos_token if", "'' if"))
    with pytest.raises(BadInput, match="no token at which the model stops"):
        trained_task_model(CHAT).examples(endless, table_of(CHAT, asked()))
    endless.close()


RECIPE = """
name: talk
task: {kind: chat, template: plain, candidates: 0, decoding: {max_new_tokens: MOST}}
stages:
  data:
    sources: [{name: lines, path: lines.jsonl, licence: research}]
    label_error_rows: 0
  train:
    new:
      family: llama
      config: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2,
               num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 64}
      vocabulary: 500
    epochs: 1
    max_tokens: 64
    lr: 1.0e-2
"""


def recipe(folder: Path, most: int) -> Path:
    """A recipe of a chat model that is drawn anew, whose answers may have ``most`` tokens."""
    lines = [json.dumps(row) for row in asked(80)]
    (folder / "lines.jsonl").write_text("\n".join(lines))
    path = folder / "talk.yaml"
    path.write_text(RECIPE.replace("MOST", str(most)))
    return path


def test_a_recipe_is_checked_before_it_is_run(tmp_path: Path) -> None:
    path, store = str(recipe(tmp_path, 32)), str(tmp_path / "store")
    done = lmwright("check", path, "--store", store)
    assert done.returncode == 0, done.stderr
    assert "0 stop, 0 warn" in done.stdout
    assert done.stdout.count("tokens are learnt") >= 3
    assert "\x1b[32m" in done.stdout
    told = lmwright("check", path, "--store", store, "--json", "--rows", "1")
    (found,) = json.loads(told.stdout)
    assert found["step"] == "train"
    assert len(found["rows"]) == 1


def test_a_training_that_would_not_learn_ends_does_not_start(tmp_path: Path) -> None:
    path, store = str(recipe(tmp_path, 4)), str(tmp_path / "store")
    done = lmwright("check", path, "--store", store)
    assert done.returncode == 1
    assert "stop  learnt tokens" in done.stdout
    run = lmwright("run", path, "--store", store)
    assert run.returncode == 1
    assert "learnt tokens" in run.stderr
    assert "check_first" in run.stderr
    assert "Traceback" not in run.stderr
    anyway = lmwright("run", path, "--store", store, "--set", "train.check_first=report")
    assert anyway.returncode == 0, anyway.stderr
