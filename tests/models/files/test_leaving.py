"""Text models leave, and the reference's own classes load them with equal logits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from lmwright.baselines.tfidf import Tfidf
from lmwright.cli.main import main
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput
from lmwright.core.predictor import Predictor
from lmwright.metrics.calibration import Calibration
from lmwright.models.core.ragged import pack
from lmwright.models.core.spec import Head
from lmwright.models.files.export import export_predictor
from lmwright.models.files.folder import read_folder
from lmwright.models.files.published import read_published
from lmwright.models.text_model import TextModel, TextPredictor, from_published, language_model
from lmwright.store.store import Store
from lmwright.store.versions import move
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.text_generation import TextGeneration
from lmwright.tasks.token_classification import TokenClassification
from lmwright.train.new import New
from tests.tasks.test_text_generation import LLAMA
from tests.train.conftest import sentences as sentences  # the fixtures
from tests.train.conftest import small as small

transformers = pytest.importorskip("transformers")

LABELS = TextClassification(labels=("dull", "fine", "odd"))
SPANS = TokenClassification(labels=("ORG", "PER"))
SURE = Calibration(temperature=1.5, smoothing=0.01, threshold=0.7)
BART = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 128,
}


@pytest.fixture
def texts(sentences) -> list[str]:
    return [each["text"] for each in sentences[:6]]


def leave(predictor: TextPredictor, out: Path) -> Path:
    export_predictor(predictor, SURE, "it@production", out, "folder")
    return out


def of_encoder(small: Path, task: Any, head: Head | None = None) -> TextPredictor:
    """A model on the small encoder, its head drawn wide."""
    by_model = TextPredictor(task, None).task_model  # type: ignore[arg-type]
    model = from_published(read_folder(small), head or by_model.head(0.1), 48, 1)
    with torch.no_grad():
        model.network.head.out.weight.mul_(40)
    return TextPredictor(task, model)


def inputs(folder: Path, texts: list[str]) -> Any:
    """What the exported tokenizer makes of texts, as one padded batch."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return tokenizer(texts, return_tensors="pt", padding=True, truncation=True)


@torch.no_grad()
def test_token_classifiers_are_loaded_with_equal_logits_and_their_tags(small, texts, tmp_path):
    ours = of_encoder(small, SPANS)
    texts = [text[:120] for text in texts]  # of one window: theirs cuts what is longer
    out = leave(ours, tmp_path / "out")
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(out).eval()
    assert theirs.config.architectures == ["BertForTokenClassification"]
    assert tuple(theirs.config.id2label[n] for n in range(5)) == SPANS.tags
    wanted = ours.answers(ours.prepare([{"text": text} for text in texts]))["logits"]
    batch = inputs(out, texts)
    for rows, mask, own in zip(
        theirs(**batch).logits, batch["attention_mask"], wanted, strict=True
    ):
        np.testing.assert_allclose(rows[mask.bool()].numpy(), own, atol=1e-5)
    assert np.ptp(wanted[0]) > 0.5
    assert "AutoModelForTokenClassification" in (out / "README.md").read_text()


@torch.no_grad()
def test_the_mean_over_tokens_leaves_as_a_body_and_modules(small, texts, tmp_path):
    """Read by hand, by the README's words, as sentence-transformers reads the files."""
    ours = of_encoder(small, LABELS)
    out = leave(ours, tmp_path / "out")
    listed = json.loads((out / "modules.json").read_text())
    assert [each["type"].rpartition(".")[2] for each in listed] == [
        "Transformer",
        "Pooling",
        "Dense",
    ]
    pooling, dense = (
        json.loads((out / each["path"] / "config.json").read_text()) for each in listed[1:]
    )
    assert pooling == {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    assert dense["activation_function"].endswith("Identity") and dense["out_features"] == 3
    body, batch = transformers.AutoModel.from_pretrained(out).eval(), inputs(out, texts)
    mask = batch["attention_mask"][..., None]
    mean = (body(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    head = load_file(out / listed[2]["path"] / "model.safetensors")
    found = mean @ head["linear.weight"].T + head["linear.bias"]
    wanted = ours.answers(ours.prepare([{"text": text} for text in texts]))["logits"]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)
    assert np.ptp(wanted) > 0.1
    told = (out / "README.md").read_text()
    assert "would draw another head" in told and "repair" in told and "below 0.7" in told
    assert Calibration.load(out) == SURE
    assert json.loads((out / "task.json").read_text())["labels"] == ["dull", "fine", "odd"]


def test_sentence_transformers_gives_the_logits(small, texts, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    ours = of_encoder(small, LABELS)
    out = leave(ours, tmp_path / "out")
    found = library.SentenceTransformer(str(out), device="cpu").encode(texts)
    wanted = ours.answers(ours.prepare([{"text": text} for text in texts]))["logits"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@torch.no_grad()
def test_a_published_head_leaves_as_its_class(small, texts, tmp_path):
    published = read_folder(small)
    head = published.family.heads["classify"]({"num_labels": 3}, published.spec)[0]
    ours = of_encoder(small, LABELS, head)
    out = leave(ours, tmp_path / "out")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert theirs.config.id2label == {0: "dull", 1: "fine", 2: "odd"}
    wanted = ours.answers(ours.prepare([{"text": text} for text in texts]))["logits"]
    np.testing.assert_allclose(theirs(**inputs(out, texts)).logits.numpy(), wanted, atol=1e-5)
    assert np.ptp(wanted) > 0.1


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "bart"])
def test_language_models_leave_with_their_ends(family, texts, tmp_path):
    config, task = {"llama": LLAMA, "bart": BART}[family], TextGeneration(max_new_tokens=8)
    model = New(family=family, config=config, vocabulary=400).model(texts, "lm", 64, 3)
    ours = TextPredictor(task, model)
    out = leave(ours, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert tokenizer.eos_token_id == 1
    assert tokenizer(texts[0])["input_ids"] == model.tokenizer.ids(texts[0]).tolist()
    name = "AutoModelForSeq2SeqLM" if model.has_encoder else "AutoModelForCausalLM"
    assert name in (out / "README.md").read_text()
    theirs = getattr(transformers, name).from_pretrained(out).eval()
    assert theirs.generation_config.eos_token_id == [1]
    again = language_model(read_folder(out))
    assert again.generation.decoder_start_id == model.generation.decoder_start_id
    prompt = torch.from_numpy(model.prompt_ids(texts[0])).long()[None]
    kept = {"max_new_tokens": 8, "do_sample": False, "output_logits": True, "num_beams": 1}
    written = theirs.generate(prompt, return_dict_in_generate=True, **kept)
    found = torch.cat(written.logits)[0]
    wanted = first_logits(model, prompt[0].numpy())
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def first_logits(model: TextModel, prompt: np.ndarray) -> torch.Tensor:
    """The logits of the answer's first token."""
    if not model.has_encoder:
        return model.network(pack([prompt]))[-1]
    encoder, decoder = model.network.streams
    begin = np.array([model.generation.decoder_start_id])
    return model.network({encoder: pack([prompt]), decoder: pack([begin])})[-1]


def bound(store: Store, predictor: Predictor, alias: str) -> None:
    """A version of a predictor behind an alias."""
    model, version = store.temporary(), store.temporary()
    for folder in (model, version):
        folder.mkdir(parents=True, exist_ok=True)
    predictor.save(model)
    facts = {"model": store.add_artifact(model), "calibration": SURE.to_json(), "artifacts": {}}
    write_json(version / "version.json", facts)
    move(store, alias, store.add_artifact(version), {"by_hand": "a test"})


def test_a_version_of_the_store_leaves_by_its_alias(small, sentences, tmp_path, capsys):
    store = Store(tmp_path / "store")
    bound(store, of_encoder(small, SPANS), "names@production")
    table = pa.table({"text": ["good", "bad"], "label": ["fine", "dull"]})
    bound(store, Tfidf.fit(LABELS, table, 0), "words@production")
    command = ["export", "--store", str(tmp_path / "store")]
    assert main([*command, "names@production", str(tmp_path / "out")]) == 0
    assert read_folder(tmp_path / "out").heads["tokens"][0].outputs == 5
    assert (tmp_path / "out" / "README.md").read_text().startswith("# names@production\n")
    assert main([*command, "words@production", str(tmp_path / "no")]) == 1
    assert "is a tfidf model" in capsys.readouterr().err
    assert main([*command, "names@production", str(tmp_path / "no"), "--as", "Q8_0"]) == 1
    assert "llama" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_language_model_of_ours_leaves_as_a_gguf_file(texts, tmp_path):
    model = New(family="llama", config=LLAMA, vocabulary=400).model(texts, "lm", 64, 3)
    predictor = TextPredictor(TextGeneration(), model)
    export_predictor(predictor, SURE, "it@production", tmp_path / "out.gguf", "F32")
    again = language_model(read_published(str(tmp_path / "out.gguf")))
    ids = model.prompt_ids(texts[0])
    assert again.prompt_ids(texts[0]).tolist() == ids.tolist()
    with torch.no_grad():
        left, right = (each.network(pack([ids])) for each in (model, again))
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_a_model_that_does_not_know_its_family_finds_it(small, tmp_path):
    """As those have it that an older version saved."""
    ours = of_encoder(small, SPANS)
    ours.model.family = ""
    out = leave(ours, tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["model_type"] == "bert"


def test_what_no_published_class_has_is_refused(small, tmp_path):
    ours = of_encoder(small, LABELS, Head(pool="max", outputs=3))
    with pytest.raises(BadInput, match="another head than 'classify' of bert"):
        leave(ours, tmp_path / "out")
    stack = replace(ours.model.network.spec.stacks[0], name="tower")
    ours.model.network.spec = replace(ours.model.network.spec, stacks=(stack,))
    with pytest.raises(BadInput, match="no bert config describes"):
        leave(ours, tmp_path / "out")
    assert not list(tmp_path.iterdir())
