"""Conversations: rows, masks of who speaks, answers that end, the rank of responses."""

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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmwright.baselines.commonest import Commonest
from lmwright.cli.predict import read_rows
from lmwright.core.columns import Column, Unfit, texts_of, with_texts
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.predictor import answer_all
from lmwright.core.task import Answers, read_task, role_columns, task_to_json
from lmwright.data.corpus import schema_of
from lmwright.data.sources import Fault, RawRow, Source, read_source
from lmwright.models.core.ragged import pack
from lmwright.models.load import load_predictor
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import build
from lmwright.models.text_model import TextModel, TextPredictor, head_spec
from lmwright.tables import resolve
from lmwright.tasks.chat import Chat
from lmwright.tasks.chat_model import ChatDocument, ChatWriter, first
from lmwright.tasks.target_text import Decoding
from lmwright.text.templates import TEMPLATES
from lmwright.train.batches import UNLEARNT
from lmwright.train.documents import likelihoods, mean_log_loss, next_token_loss
from lmwright.train.finetune import Train
from lmwright.train.new import New
from tests.models.test_text_model import BART
from tests.tasks.test_text_generation import LLAMA
from tests.train.conftest import FakeWork, write_rows, write_task

TASK = Chat(decoding=Decoding(max_new_tokens=12))
COLUMNS = role_columns(TASK, "input", "target")
CHITCHAT = "asset:chitchat/chitchat_dataset/dataset.json"
FAQ = "asset:chatterbot-corpus/chatterbot_corpus/data/english/"


def said(*texts: str, system: str = "") -> list[dict[str, str]]:
    """Messages of a user and an assistant in turns."""
    turns = [
        {"role": ("user", "assistant")[place % 2], "content": text}
        for place, text in enumerate(texts)
    ]
    return [{"role": "system", "content": system}, *turns] if system else turns


def found_in(source: Source, count: int) -> list[RawRow]:
    """The first well read rows of a source."""
    found: list[RawRow] = []
    for row in read_source(source, COLUMNS):
        found += [row] if isinstance(row, RawRow) else []
        if len(found) == count:
            break
    return found


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Real conversations up to an answer, and the answer."""
    source = Source(name="chitchat", path=CHITCHAT, derive={"kind": "turns", "most": 3})
    return [dict(TASK.cleaned(row.values)) for row in found_in(source, 150)]


@pytest.fixture(scope="module")
def model(rows: list[dict[str, Any]]) -> TextModel:
    """A small decoder drawn anew, with the chat template that the task gives it."""
    texts = [f"{TASK.text(row)}\n{row['response']}" for row in rows]
    drawn = New(family="llama", config=LLAMA, vocabulary=500).model(texts, "lm", 64, seed=3)
    found, _ = ChatWriter(TASK).prepared_start(drawn)
    return found


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    schema = pa.schema([(each.name, each.arrow) for each in COLUMNS] + [("id", pa.string())])
    return pa.Table.from_pylist([{**row, "id": f"{n:032x}"} for n, row in enumerate(rows)], schema)


# Rows


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no JSON", "wrong type"),
        ([], "no messages"),
        (said("a", system="s")[:1], "no messages"),
        ([{"role": "user"}], "wrong type"),
        ([{"role": "tool", "content": "a"}], "unknown role"),
        (said("a", "b")[1:], "roles out of order"),
        ([*said("a"), *said("b")], "roles out of order"),
        ([*said("a", "b"), {"role": "system", "content": "s"}], "roles out of order"),
        (said("a", " \n"), "empty message"),
        ([{"role": "user", "content": [{"type": "text"}]}], "wrong type"),
        ([{**said("a")[0], "tool_calls": [1]}], "unknown field of a message"),
    ],
)
def test_messages_that_are_none_are_refused_by_name(value: Any, reason: str) -> None:
    with pytest.raises(Unfit) as refused:
        Column("messages", "messages", "input").read(value)
    assert refused.value.reason == reason


def test_messages_are_kept_as_they_are() -> None:
    column = Column("messages", "messages", "input")
    given = said("Hi\n", " Hello", "More", system="Be kind.")
    assert column.read(given) == column.read(json.dumps(given)) == given
    assert column.read([{**given[1], "name": None}]) == given[1:2]
    kept = pa.array([given], column.arrow).to_pylist()[0]
    assert kept == given
    assert texts_of(column, given) == ["Hi\n", "More"]
    upper = with_texts(column, given, str.upper)
    assert [each["content"] for each in upper] == ["Be kind.", "HI\n", " Hello", "MORE"]


def test_a_whole_conversation_is_split_before_its_last_answer() -> None:
    whole = {"messages": said("Hi &amp; ho", "Hello", "Who?", " Me "), "response": ""}
    row = TASK.cleaned(whole)
    assert row["messages"] == said("Hi & ho", "Hello", "Who?")
    assert row["response"].strip() == "Me"
    assert TASK.cleaned(row) == row
    assert TASK.fault(row) == ""
    assert TASK.fault(TASK.cleaned({"messages": said("Hi"), "response": ""})) == "no response"
    answered = {"messages": said("Hi", "Hello"), "response": "And?"}
    assert TASK.fault(TASK.cleaned(answered)) == "response to no user"
    assert TASK.cleaned({"messages": said("Hi")}) == {"messages": said("Hi")}
    assert TASK.refusal({"messages": said("Hi")}) == ""
    assert "assistant" in TASK.refusal({"messages": said("Hi", "Hello")})


def test_a_conversation_becomes_a_row_for_each_answer_and_stays_together() -> None:
    turns = resolve("derivations", "turns")()
    talk = said("a", "b", "c", "d", "e", system="s")
    given = RawRow({"messages": talk, "response": ""}, "k", "f:1", {"group": "g"})
    alone = RawRow({"messages": said("a"), "response": ""}, "", "f:2", {})
    bad = Fault("f:3", "wrong type")
    found = list(turns.rows(iter([given, alone, bad]), np.random.default_rng(0)))
    assert [(row.values["messages"], row.values["response"]) for row in found[:2]] == [
        (talk[:2], "b"),
        (talk[:4], "d"),
    ]
    assert [row.id for row in found[:2]] == ["k-2", "k-4"]
    assert all(row.side == {"group": "g", "cluster": "f:1"} for row in found[:2])
    assert found[2].reason == "no response" and found[3] is bad
    fewer = resolve("derivations", "turns")(most=1)
    drawn = [list(fewer.rows(iter([given]), np.random.default_rng(7))) for _ in range(2)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 1
    with pytest.raises(BadInput, match="most is -1"):
        resolve("derivations", "turns")(most=-1).check()


def test_real_conversations_are_read(rows: list[dict[str, Any]]) -> None:
    assert len({TASK.text(row) for row in rows}) > 100
    assert not any(TASK.fault(row) for row in rows)
    assert {each["role"] for row in rows for each in row["messages"]} == {"user", "assistant"}
    found = found_in(Source(name="faq", path=f"{FAQ}greetings.yml", derive="turns"), 40)
    assert len(found) == 25
    assert found[0].values == {"messages": said("Hello"), "response": "Hi"}
    support = found_in(Source(name="faq", path=f"{FAQ}tech_support.yml", derive="turns"), 2000)
    assert len(support) == 1050
    assert len({row.values["messages"][0]["content"] for row in support}) == 10


def test_rows_of_a_file_are_asked_or_say_why_not(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    asked = [said("Hi"), said("Hi", "Ho"), said("Hi", "Ho", "So?", system="Be kind."), []]
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in asked))
    found = list(read_rows(path, TASK))
    assert [row.inputs for row in found if not row.fault] == [
        {"messages": asked[0]},
        {"messages": asked[2]},
    ]
    assert "not the user's" in found[1].fault and "no messages" in found[3].fault


# Masks


def learnt_texts(model: TextModel, example: Any) -> list[str]:
    """The texts of the runs of ids that are learnt, each with the token that ends it."""
    target = np.asarray(example.target)
    mask = np.concatenate([[False], target[:-1] != UNLEARNT])
    assert np.array_equal(example.tokens[mask], target[:-1][mask[1:]])
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)
    runs = [example.tokens[start:end] for start, end in edges]
    assert all(run[-1] in model.stop_ids for run in runs)
    return [model.tokenizer.decode(run[:-1].tolist()) for run in runs]


WORDS = st.text(st.sampled_from("abé \n:<>/sUser|"), min_size=1, max_size=6).filter(
    lambda text: bool(text.strip())
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(WORDS, min_size=2, max_size=6), st.booleans())
def test_the_assistant_is_learnt_and_nobody_else(
    model: TextModel, texts: list[str], system: bool
) -> None:
    """Also where texts spell the marks of turns or the token that ends a document."""
    talk = said(*texts[: len(texts) // 2 * 2], system="Be kind." if system else "")
    row = TASK.cleaned({"messages": talk, "response": ""})
    answers = [each["content"].strip() for each in talk if each["role"] == "assistant"]
    roomy = model.with_network(model.network, 512)
    loose = replace(TASK, clean=(), decoding=Decoding(max_new_tokens=64))
    row = {**row, "messages": talk[:-1], "response": talk[-1]["content"]}
    for learn, wanted in (("last", answers[-1:]), ("all", answers)):
        writer = ChatWriter(replace(loose, learn=learn))
        (example,) = writer.examples(roomy, table_of([row]))
        assert learnt_texts(roomy, example) == wanted
        # The ids are those that the server reads, and goes on from.
        whole = roomy.template.ids(roomy.tokenizer, talk)
        assert np.array_equal(example.tokens, whole[: len(example.tokens)])
        prompt = roomy.chat_ids(talk[:-1])
        assert np.array_equal(example.tokens[: len(prompt)], prompt)


def test_the_loss_is_that_of_the_learnt_tokens_alone(
    model: TextModel, rows: list[dict[str, Any]]
) -> None:
    writer = ChatWriter(replace(TASK, learn="all"))
    longest = [row for row in rows if len(row["messages"]) > 2][:6]
    examples = writer.examples(model, table_of(longest))
    found = next_token_loss(model.network, examples, None)
    total, count = 0.0, 0
    for each in examples:
        with torch.no_grad():
            logits, _ = model.network.logits_and_hidden(pack([each.tokens]))
        target = torch.from_numpy(np.asarray(each.target))
        learnt = target != UNLEARNT
        logprobs = torch.log_softmax(logits.double(), -1)[learnt]
        total -= float(logprobs[torch.arange(int(learnt.sum())), target[learnt]].sum())
        count += int(learnt.sum())
    assert found.count == count > sum(len(row["response"]) > 0 for row in longest)
    assert found.mean.item() == pytest.approx(total / count, rel=1e-5)
    assert mean_log_loss(model.network, examples) == pytest.approx(total / count, rel=1e-5)


def test_the_oldest_turns_are_left_out_and_it_is_said(model: TextModel) -> None:
    writer = ChatWriter(TASK)
    talk = said(*(f"word {n} and more" for n in range(9)), system="Be kind.")
    (item,) = writer.prepare(model, [{"messages": talk}])
    assert item.cut and len(item.prompt) <= model.max_tokens - 12
    kept = [ids for cut in range(1, 10, 2) for ids in [model.chat_ids([talk[0], *talk[cut:]])]]
    fitting = [ids for ids in kept if len(ids) <= model.max_tokens - 12]
    assert np.array_equal(item.prompt, fitting[0]), "as many turns as fit, and the system's"
    (short,) = writer.prepare(model, [{"messages": said("Hi")}])
    assert not short.cut
    (long,) = writer.prepare(model, [{"messages": said("word " * 200)}])
    assert long.cut and 40 <= len(long.prompt) <= model.max_tokens - 12
    assert model.tokenizer.decode(long.prompt.tolist()).startswith("User:\nword word")
    with pytest.raises(BadInput, match="ends with the assistant"):
        writer.prepare(model, [{"messages": said("Hi", "Ho")}])


def test_an_encoder_reads_the_conversation_and_the_decoder_answers(
    rows: list[dict[str, Any]],
) -> None:
    texts = [f"{TASK.text(row)}\n{row['response']}" for row in rows]
    drawn = New(family="bart", config=BART, vocabulary=500).model(texts, "lm", 64, seed=3)
    model, _ = ChatWriter(TASK).prepared_start(drawn)
    answers = answer_all(TextPredictor(TASK, model), rows[:4])
    assert np.isfinite(answers["nats"]).all() and len(answers["generated_text"]) == 4
    (example,) = ChatWriter(TASK).examples(model, table_of(rows[:1]))
    assert np.array_equal(example.beside[0].tokens, model.chat_ids(rows[0]["messages"]))
    with pytest.raises(BadInput, match="learn is all"):
        ChatWriter(replace(TASK, learn="all")).examples(model, table_of(rows[:1]))


# Templates


def test_templates_are_chosen_or_refused_by_name(model: TextModel) -> None:
    assert model.generation.template == TEMPLATES["plain"]
    _, found = ChatWriter(TASK).prepared_start(model)
    assert found["template"] == "the start's own"
    bare = model.with_template("")
    assert ChatWriter(TASK).prepared_start(bare)[1]["template"] == "plain"
    zephyr, found = ChatWriter(replace(TASK, template="zephyr")).prepared_start(model)
    assert found == {"template": "zephyr"}
    assert "<|user|>" in zephyr.template.text(said("a"))
    with pytest.raises(BadInput, match="no token at which the model stops"):
        ChatWriter(replace(TASK, template="gemma")).prepared_start(model)
    for wrong in ({"template": "gemmma"}, {"candidates": 1}, {"learn": "none"}):
        with pytest.raises(BadInput):
            read_task({"kind": "chat", **wrong}, "here", resolve)
    assert read_task(task_to_json(TASK), "here", resolve) == TASK


# Scores


def test_the_right_response_is_ranked_by_likelihood_as_one_by_one(
    model: TextModel, rows: list[dict[str, Any]]
) -> None:
    writer = ChatWriter(TASK)
    items = writer.prepare(model, rows[:40])
    answers = writer.answers(model, items[:8])
    for place, item in enumerate(items[:8]):
        assert isinstance(item, ChatDocument) and len(item.others) == 9
        own = item.tokens[item.first :]
        every = [own, *item.others]
        begun = item.tokens[: item.first]
        alone = [replace(item, tokens=np.concatenate([begun, each])) for each in every]
        nats = likelihoods(model.network, alone)[0] / [len(each) for each in every]
        assert answers["ranked_first"][place] == float(nats.argmin() == 0)
    # Drawn by the row, whatever stands beside it; never the right one.
    again = writer.prepare(model, rows[:40][::-1])[::-1]
    for one, other in zip(items, again, strict=True):
        assert [ids.tolist() for ids in one.others] == [ids.tolist() for ids in other.others]
        assert (one.tokens[one.first :].tolist()) not in [ids.tolist() for ids in one.others]
    assert not writer.prepare(model, rows[:3])[0].others, "too few to draw from"
    assert not writer.prepare(model, [{"messages": said("Hi")}])[0].others


def test_of_equally_likely_responses_a_share_counts(
    model: TextModel, rows: list[dict[str, Any]]
) -> None:
    (item,) = ChatWriter(TASK).prepare(model, rows[:1])
    own = item.tokens[item.first :]
    nats = likelihoods(model.network, [item])[0][0] / len(own)
    assert first(model, ChatDocument(**{**vars(item), "others": (own, own)}), nats) == 1 / 3
    assert first(model, ChatDocument(**{**vars(item), "others": (own,)}), nats + 1) == 0
    assert first(model, ChatDocument(**{**vars(item), "others": (own,)}), nats - 1) == 1


def test_scores_are_what_they_say() -> None:
    answers = Answers(
        {
            "generated_text": ["yes yes yes", "", "no"],
            "cut": ["false"] * 3,
            "ended": ["true", "true", "false"],
            "nats": np.array([2.0, 4.0, 6.0]),
            "tokens": np.array([1.0, 2.0, 3.0]),
            "bytes": np.array([3.0, 3.0, 2.0]),
            "ranked_first": np.array([1.0, 0.5, 0.0]),
        }
    )
    found = TASK.measures(pa.table({"response": ["yes", "no", "no"]}), answers)
    scores = {name: values[0] for name, values in found.scores(np.ones((1, 3))).items()}
    assert scores["ends"] == pytest.approx(2 / 3)
    assert scores["empty"] == pytest.approx(1 / 3)
    assert scores["retrieval_r1"] == pytest.approx(1 / 2)
    assert scores["repetition"] == pytest.approx(1 / 2)
    assert scores["corpus_bits_per_byte"] == pytest.approx(12 / np.log(2) / 8)
    assert found.details["perplexity"] == pytest.approx(np.exp(2))
    distinct = found.special["distinct_1"](1, np.random.default_rng(0), 0.95)
    assert distinct.value == 2 / 4 and distinct.low <= 2 / 4 <= distinct.high
    told = [TASK.told(answers, place) for place in range(3)]
    heard = TASK.heard(json.loads(json.dumps(told)))
    assert [TASK.category(each) for each in told] == ["ended", "empty", "unended"]
    assert heard["ended"] == answers["ended"]
    assert TASK.corrected({"response": "Yes"}) == {"response": "Yes"}
    with pytest.raises(BadInput):
        TASK.corrected({"response": " "})


def test_the_commonest_response(tmp_path: Path) -> None:
    table = table_of([{"messages": said("a"), "response": text} for text in ("b", "a ", "a", "b")])
    found = Commonest.fit(TASK, table, 0)
    assert found.facts() == {"target": "a", "rows": 2}
    found.save(tmp_path)
    again = Commonest.load(tmp_path, TASK)
    batch = again.prepare([{"messages": said("a")}] * 2)
    assert again.answers(batch)["generated_text"] == ["a", "a"]
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(Corrupt):
        Commonest.load(tmp_path, TASK)


# Training


def test_a_model_learns_to_answer_and_to_end(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """Real openings of conversations; the answer that all have in common is soon learnt, with its
    end, and the model folder holds the template by which the server renders."""
    folder = tmp_path / "rows"
    folder.mkdir()
    made_equal = {"response": "Sure, go on.", "source": "chitchat"}
    same = [{**row, **made_equal, "text": f"{n}"} for n, row in enumerate(rows)]
    schema = schema_of(COLUMNS)
    write_rows(folder / "train.parquet", same[:80], schema)
    write_rows(folder / "validation.parquet", same[80:90], schema)
    write_task(folder, TASK)
    new = New(family="llama", config=LLAMA, vocabulary=400)
    stage = Train(new=new, epochs=4, batch=10, max_tokens=64, lr=1e-2, evaluate_every=8, seed=1)
    work = FakeWork({"rows": folder}, tmp_path / "work")
    facts = stage.run(work)
    assert facts["template"] == "plain" and facts["turn_tokens"] == {}
    assert work.named("start")[0]["template"] == "plain"
    made = load_predictor(work.folder / "model")
    assert made.model.generation.template == TEMPLATES["plain"]
    held = pq.read_table(folder / "validation.parquet").slice(0, 5)
    answers = answer_all(made, held.select(["messages", "response"]).to_pylist())
    found = made.task.measures(held, answers).scores(np.ones((1, 5)))
    assert answers["generated_text"] == ["Sure, go on."] * 5
    assert found["ends"][0] == 1.0 and found["dissimilarity"][0] == 0.0
    drawn = build(made.model.network.spec, head_spec(made.model.network))
    initialise(drawn, 5)
    untrained = TextPredictor(TASK, made.model.with_network(drawn, 64))
    asked = held.select(["messages"]).to_pylist()
    assert answer_all(untrained, asked)["ended"].count("true") < 5
    batch = [{"messages": row["messages"]} for row in held.to_pylist()]
    together = answer_all(made, batch)["generated_text"]
    assert together == [answer_all(made, [row])["generated_text"][0] for row in batch]
