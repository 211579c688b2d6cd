"""Summaries, translations and other texts that are written for texts, by both kinds of network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lmwright.assets import asset_file
from lmwright.baselines.lead import Lead
from lmwright.baselines.memory import Memory
from lmwright.baselines.same import Same
from lmwright.core.columns import Unfit
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.predictor import answer_all
from lmwright.core.task import read_task, role_columns, task_to_json
from lmwright.data.corpus import schema_of
from lmwright.models.load import load_predictor
from lmwright.models.text_model import TextModel, TextPredictor
from lmwright.report.sections.learning import sampled
from lmwright.tables import resolve
from lmwright.tasks.summarization import Summarization
from lmwright.tasks.target_text import Decoding, TargetText
from lmwright.tasks.target_text_model import TextWriter
from lmwright.tasks.text2text_generation import Text2TextGeneration
from lmwright.tasks.translation import Translation
from lmwright.train.batches import UNLEARNT
from lmwright.train.finetune import Train
from lmwright.train.new import New
from tests.models.test_text_model import BART
from tests.tasks.test_text_generation import LLAMA
from tests.train.conftest import FakeWork, write_rows, write_task

SHORT = Decoding(max_new_tokens=12)
SUMMARIES = Summarization(decoding=SHORT)
TRANSLATIONS = Translation(decoding=SHORT)
FAMILIES = {"bart": BART, "llama": LLAMA}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Real descriptions and their synopses."""
    table = pq.read_table(asset_file("asset:debian-summaries/debian-summaries.parquet"))
    return [
        {"text": row["description"], "summary": row["synopsis"], "source": "debian"}
        for row in table.to_pylist()[:160]
    ]


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Any]]:
    """Real translations into three languages."""
    table = pq.read_table(asset_file("asset:debian-translations/debian-translations.parquet"))
    return [
        {
            "text": row["english"],
            "translation": row["other"],
            "source_language": "en",
            "target_language": row["language"],
        }
        for row in table.to_pylist()[::250]
    ]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, rows: list[dict[str, Any]]) -> TextModel:
    """A model drawn anew: a decoder with an encoder, or one without."""
    new = New(family=request.param, config=FAMILIES[request.param], vocabulary=400)
    return new.model([row["text"] for row in rows], "lm", 64, seed=3)


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{**row, "id": f"{n:032x}"} for n, row in enumerate(rows)])


def test_only_the_target_is_learnt_and_it_follows_the_prompt_as_in_service(
    model: TextModel, rows: list[dict[str, Any]]
) -> None:
    writer = TextWriter(SUMMARIES)
    short = [{**row, "text": row["text"][:30].strip()} for row in rows[:8]]
    examples = writer.examples(model, table_of(short))
    asked = writer.prepare(model, [{"text": row["text"]} for row in short])
    for row, example, item in zip(short, examples, asked, strict=True):
        target = np.asarray(example.target)
        learnt = example.tokens[1:][target[:-1] != UNLEARNT]
        wanted = [*model.tokenizer.ids(row["summary"]), *model.end_ids[:1]]
        assert learnt.tolist() == wanted[: SHORT.max_new_tokens]
        read = example.beside[0].tokens if model.has_encoder else example.tokens[: len(item.prompt)]
        assert read.tolist() == item.prompt.tolist()
        assert item.size == 0


def test_the_loss_is_the_plain_cross_entropy_of_the_target(
    model: TextModel, rows: list[dict[str, Any]]
) -> None:
    """Against the network's own next-token logits, one row and one token at a time."""
    writer = TextWriter(SUMMARIES)
    items = writer.prepare(model, rows[:3])
    found = writer.loss(model.network, writer.examples(model, table_of(rows[:3])), None)
    from lmwright.models.decode import DecodingState

    total, count = 0.0, 0
    for item in items:
        sources = None if item.source is None else [item.source]
        state = DecodingState(model.network, 1, sources)
        logits = state.append([item.tokens[: item.first]])
        for token in item.tokens[item.first :]:
            total -= float(torch.log_softmax(logits[0].double(), -1)[token])
            count += 1
            if count:
                logits = state.append([np.array([token])])
    assert found.count == count
    assert found.mean.item() == pytest.approx(total / count, rel=1e-5)


def test_answers_in_a_batch_are_those_alone(model: TextModel, rows: list[dict[str, Any]]) -> None:
    for task in (
        SUMMARIES,
        replace(SUMMARIES, decoding=replace(SHORT, temperature=0.9, top_k=20)),
        replace(SUMMARIES, decoding=replace(SHORT, min_new_tokens=6, no_repeat_ngram_size=2)),
    ):
        predictor = TextPredictor(task, model)
        asked = [{"text": row["text"]} for row in rows[:7]]
        together = answer_all(predictor, asked)
        alone = [answer_all(predictor, [row]) for row in asked]
        assert together["summary_text"] == [one["summary_text"][0] for one in alone]
        assert together["nats"] == pytest.approx([one["nats"][0] for one in alone], rel=1e-5)
        if model.has_encoder is False:
            item = predictor.prepare(asked[:1])[0]
            ids = model.tokenizer.ids(together["summary_text"][0])
            assert len(item.prompt) and len(ids) <= 2 * SHORT.max_new_tokens


def test_beams_are_those_of_the_reference_decoder(
    model: TextModel, rows: list[dict[str, Any]]
) -> None:
    task = replace(SUMMARIES, decoding=replace(SHORT, num_beams=3))
    predictor = TextPredictor(task, model)
    found = answer_all(predictor, [{"text": rows[0]["text"]}])["summary_text"][0]
    (item,) = predictor.prepare([{"text": rows[0]["text"]}])
    params = replace(
        task.decoding.params(1, model.token_budget(item.prompt)), stop_ids=model.stop_ids
    )
    tokens = model.generate(item.prompt, params, np.random.default_rng(0))
    assert found == "".join(token.text for token in tokens).strip()


def test_a_text_too_long_is_cut_from_its_end_and_the_answer_says_so(
    model: TextModel, rows: list[dict[str, Any]]
) -> None:
    predictor = TextPredictor(SUMMARIES, model)
    text = " ".join(row["text"] for row in rows[:5])
    answers = answer_all(predictor, [{"text": text}, {"text": "a short one"}])
    assert answers["cut"] == ["true", "false"]
    assert [predictor.task.told(answers, place)["cut"] for place in (0, 1)] == [True, False]
    long, short = predictor.prepare([{"text": text}, {"text": "a short one"}])
    assert len(long.prompt) <= model.max_tokens
    whole = model.tokenizer.decode(long.prompt.tolist())
    assert text[:20].split()[0] in whole and "Summary:" in whole
    assert len(short.prompt) < len(long.prompt)


def check_samples(family: str, rows: list[dict[str, Any]], work: FakeWork) -> None:
    """What the model wrote while it learnt, with the version of its weights, drawn for people."""
    told = work.named("sampled")
    assert [each["step"] for each in told] == [each["step"] for each in work.named("evaluated")]
    for point in told:
        shown = [(each["input"], each["target"]) for each in point["samples"]]
        assert len(shown) == 2 and set(shown) <= {(row["text"], row["summary"]) for row in rows}
        assert {each["version"] for each in point["samples"]} == {point["step"]}
        if family != "bart":  # a decoder's log-probabilities are told by one pass
            assert all(each["distance"] < 1e-4 for each in point["samples"])
    curves = json.loads((work.folder / "model" / "curves.json").read_text())
    first, _ = sampled(curves)
    assert [each["step"] for each in first["written"]] == [each["step"] for each in told]
    assert first["input"] == told[0]["samples"][0]["input"]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_trained_saved_loaded_and_answers(
    family: str, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    schema = schema_of(role_columns(SUMMARIES, "input", "target"))
    write_rows(folder / "train.parquet", rows[:60], schema)
    write_rows(folder / "validation.parquet", rows[60:90], schema)
    write_task(folder, SUMMARIES)
    new = New(family=family, config=FAMILIES[family], vocabulary=400)
    stage = Train(
        new=new,
        epochs=3,
        batch=10,
        max_tokens=64,
        lr=5e-3,
        evaluate_every=6,
        samples=2,
        seed=1,
        check_first="report",  # the answers are cut, so that they take no time
    )
    work = FakeWork({"rows": folder}, tmp_path / "work")
    facts = stage.run(work)
    curve = [each["log_loss"] for each in work.named("evaluated")]
    assert min(curve) == facts["validation_log_loss"] < curve[0] - 0.1
    check_samples(family, rows[60:90], work)
    made = load_predictor(work.folder / "model")
    held = pq.read_table(folder / "validation.parquet").slice(0, 5)
    answers = answer_all(made, held.select(["text", "summary"]).to_pylist())
    found = made.task.measures(held, answers)
    assert set(found.losses) == {"dissimilarity", "bits_per_byte"}
    scores = found.scores(np.ones((1, 5)))
    assert scores["rougeL"][0] == pytest.approx(1 - found.losses["dissimilarity"].values.mean())
    told = [made.task.told(answers, place) for place in range(5)]
    assert json.loads(json.dumps(told)) == told
    heard = made.task.heard(told)
    assert heard["summary_text"] == answers["summary_text"]
    again = made.task.measures(held, heard)
    assert np.allclose(again.losses["bits_per_byte"].values, found.losses["bits_per_byte"].values)
    signals = made.task.signals(made.prepare(held.select(["text"]).to_pylist()), answers)
    assert set(signals) == {"length", "vocabulary", "embedding", "answer_length", "surprise"}


def test_scores_of_translations_are_told_for_each_direction(pairs: list[dict[str, Any]]) -> None:
    from sacrebleu.metrics import CHRF

    table = table_of(pairs)
    written = [
        row["translation"][::2] if n % 3 else row["translation"] for n, row in enumerate(pairs)
    ]
    from lmwright.core.task import Answers

    found = TRANSLATIONS.measures(table, Answers({"translation_text": written}))
    assert found.details["directions"] == ["en-de", "en-es", "en-fr"]
    scores = found.scores(np.ones((1, len(pairs))))
    for way in found.details["directions"]:
        own = [n for n, row in enumerate(pairs) if TRANSLATIONS.stratum(row) == way]
        wanted = CHRF().corpus_score(
            [written[n] for n in own], [[pairs[n]["translation"] for n in own]]
        )
        assert scores[f"chrf.{way}"][0] == pytest.approx(wanted.score)
    assert {"ter", "ter.en-fr"} <= found.lower
    assert not found.losses["dissimilarity"].values[0]


def test_exact_answers_count_by_prefix() -> None:
    from lmwright.core.task import Answers

    task = Text2TextGeneration()
    rows = table_of(
        [
            {"text": "a", "prefix": "copy", "target": "one two"},
            {"text": "b", "prefix": "copy", "target": "three"},
            {"text": "c", "prefix": "turn", "target": "!"},
        ]
    )
    found = task.measures(rows, Answers({"generated_text": ["one two", "four", "!"]}))
    scores = found.scores(np.ones((1, 3)))
    assert scores["exact_match"][0] == pytest.approx(2 / 3)
    assert scores["exact_match.copy"][0] == 0.5
    assert found.losses["dissimilarity"].values.tolist() == [0.0, 1.0, 0.0]


def test_both_directions_of_a_pair_are_one_cluster(pairs: list[dict[str, Any]]) -> None:
    back = {
        "text": pairs[0]["translation"],
        "translation": pairs[0]["text"],
        "source_language": pairs[0]["target_language"],
        "target_language": "en",
    }
    assert TRANSLATIONS.cluster(pairs[0]) == TRANSLATIONS.cluster(back)
    assert TRANSLATIONS.cluster(pairs[0]) != TRANSLATIONS.cluster(pairs[1])


SUMMARY = {"text": "a text", "summary": "another"}
PAIR = {"text": "one", "translation": "un", "source_language": "en", "target_language": "fr"}


@pytest.mark.parametrize(
    ("task", "row", "said"),
    [
        (SUMMARIES, {**SUMMARY, "text": "  "}, "empty text"),
        (SUMMARIES, {**SUMMARY, "summary": " \n"}, "empty summary"),
        (SUMMARIES, {**SUMMARY, "summary": "\u200b"}, "empty summary"),
        (SUMMARIES, {**SUMMARY, "summary": " a text "}, "target equals source"),
        (SUMMARIES, SUMMARY, ""),
        (TRANSLATIONS, {**PAIR, "target_language": "xx"}, "unknown target_language"),
        (TRANSLATIONS, {**PAIR, "source_language": "english"}, "unknown source_language"),
        (TRANSLATIONS, {**PAIR, "target_language": "en"}, "one language alone"),
        (TRANSLATIONS, {**PAIR, "translation": "one"}, "target equals source"),
        (TRANSLATIONS, PAIR, ""),
    ],
)
def test_rows_that_cannot_be_learnt_are_named(task: TargetText, row: dict, said: str) -> None:
    assert task.fault(row) == said


def test_pairs_of_people_are_kept_and_misaligned_ones_are_not(pairs: list[dict[str, Any]]) -> None:
    assert [TRANSLATIONS.fault(row) for row in pairs].count("") == len(pairs)
    swapped = [
        {**row, "text": row["translation"], "translation": row["text"]}
        for row in pairs
        if min(len(row["text"]), len(row["translation"])) > 80
    ]
    said = [TRANSLATIONS.fault(row) for row in swapped]
    assert said.count("not in the source language") == len(said) > 10
    copied = {**PAIR, "text": "A library that reads and writes files of sound."}
    copied["translation"] = "A library that writes and reads files of music."
    assert TRANSLATIONS.fault(copied) == "not in the target language"
    assert replace(TRANSLATIONS, check_languages=False).fault(copied) == ""
    rare = {**copied, "target_language": "yi"}
    assert TRANSLATIONS.fault(rare) == "", "a language that the identifier does not know"


@pytest.mark.parametrize(("words", "said"), [(3, ""), (10, "lengths do not match")])
def test_lengths_must_go_together(words: int, said: str) -> None:
    row = {**PAIR, "text": "a small library", "translation": "une petite " * words}
    assert TRANSLATIONS.fault(row) == said
    assert replace(TRANSLATIONS, max_length_ratio=20.0).fault(row) == ""


def test_a_ratio_below_1_is_refused() -> None:
    with pytest.raises(BadInput, match=r"max_length_ratio is 0\.5"):
        read_task({"kind": "translation", "max_length_ratio": 0.5}, "r.yaml", resolve)


def test_what_an_encoder_reads_is_what_a_request_is_told_apart_by(
    model: TextModel, rows: list[dict[str, Any]]
) -> None:
    items = TextPredictor(SUMMARIES, model).prepare([{"text": row["text"]} for row in rows[:9]])
    assert len({item.ids.tobytes() for item in items}) == 9


@pytest.mark.parametrize("value", [None, 7, True, ["a"], "\ud800", "a\0b"])
def test_a_target_that_is_no_text_is_refused(value: Any) -> None:
    (column,) = role_columns(SUMMARIES, "target")
    with pytest.raises(Unfit):
        column.read(value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt": "no place for it"}, "prompt is 'no place for it'"),
        ({"prompt": "{text} {summary}"}, "of columns only: text"),
        ({"prompt": "{text"}, "prompt: "),
        ({"prompt": "{text:d}"}, "which formats {text}"),
        ({"prompt": "{text!r}"}, "which formats {text}"),
        ({"decoding": {"length_penalty": float("nan")}}, "decoding.length_penalty is nan"),
        ({"decoding": {"max_new_tokens": 0}}, "max_new_tokens 0"),
        ({"decoding": {"min_new_tokens": 70}}, "min_new_tokens is 70"),
        ({"decoding": {"num_beams": 2, "temperature": 1}}, "beams with a temperature"),
        ({"decoding": {"repetition_penalty": 0}}, "repetition_penalty 0"),
        ({"decoding": {"wishes": 1}}, "wishes"),
        ({"clean": ["repair", "mail"]}, "clean is"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said.replace("{", r"\{")):
        read_task({"kind": "summarization", **settings}, "r.yaml", resolve)


def test_a_correction_is_a_text() -> None:
    assert SUMMARIES.corrected({"summary": "right"}) == {"summary": "right"}
    with pytest.raises(BadInput, match="an empty summary"):
        SUMMARIES.corrected({"summary": " "})
    assert read_task(task_to_json(TRANSLATIONS), "x", resolve) == TRANSLATIONS


# Baselines


@pytest.mark.parametrize("kind", [Lead, Same, Memory])
def test_a_baseline_is_saved_and_gives_the_same_answers(
    kind: Any, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    table = table_of(rows[:80])
    made = kind.fit(SUMMARIES, table, 0)
    made.save(tmp_path / "model")
    again = load_predictor(tmp_path / "model")
    asked = [{"text": row["text"]} for row in rows[80:90]]
    assert answer_all(made, asked)["summary_text"] == answer_all(again, asked)["summary_text"]


def test_the_beginning_is_as_long_as_summaries_are(rows: list[dict[str, Any]]) -> None:
    made = Lead.fit(SUMMARIES, table_of(rows), 0)
    assert made.count == int(np.median([len(row["summary"].split()) for row in rows]))
    answers = answer_all(made, [{"text": "one two three four five six seven eight nine ten"}])
    assert (
        answers["summary_text"][0].split()
        == ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"][
            : made.count
        ]
    )


def test_the_memory_finds_a_row_that_it_learnt_in_its_own_direction(
    pairs: list[dict[str, Any]],
) -> None:
    made = Memory.fit(TRANSLATIONS, table_of(pairs), 0)
    asked = [{k: row[k] for k in row if k != "translation"} for row in pairs]
    assert answer_all(made, asked)["translation_text"] == [row["translation"] for row in pairs]
    other = {**asked[0], "target_language": "it"}
    assert answer_all(made, [other])["translation_text"] == [""]


def test_a_damaged_memory_is_named(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    Memory.fit(SUMMARIES, table_of(rows[:5]), 0).save(tmp_path)
    (tmp_path / "memory.json").write_text('{"texts": ["a"], "others": [], "targets": []}')
    with pytest.raises(Corrupt, match="is not whole"):
        load_predictor(tmp_path)
