"""Published shapes of conversations: rows of the Chit-Chat Challenge and of ChatterBot, written
here in each shape, are read back as they were."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmwright.core.errors import BadInput
from lmwright.core.task import role_columns
from lmwright.data.formats.record import Fault
from lmwright.data.sources import RawRow, Source, check_columns, read_source
from lmwright.tables import SHAPES
from lmwright.tasks.chat import Chat
from lmwright.tasks.text_classification import TextClassification

CHITCHAT = "asset:chitchat/chitchat_dataset/dataset.json"
BOT = "asset:chatterbot-corpus/chatterbot_corpus/data/english/ai.yml"
COLUMNS = role_columns(Chat(), "input", "target")

Talk = list[dict[str, str]]


@cache
def talks() -> tuple[Talk, ...]:
    """Real conversations that end with an answer."""
    found: list[Talk] = []
    for source in (Source(name="bot", path=BOT), Source(name="people", path=CHITCHAT, limit=60)):
        for row in read_source(source, COLUMNS):
            if isinstance(row, RawRow) and row.values["messages"][-1]["role"] == "assistant":
                found.append(row.values["messages"])
    return tuple(found)


def chat(talk: Talk) -> dict[str, Any]:
    return {"messages": talk}


def sharegpt(talk: Talk) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt"}
    turns = [{"from": names[each["role"]], "value": each["content"]} for each in talk]
    return {"id": "x", "conversations": turns}


def alpaca(talk: Talk) -> dict[str, Any]:
    texts = [each["content"] for each in talk]
    pairs = [[*pair] for pair in zip(texts[:-2:2], texts[1:-2:2], strict=True)]
    return {"instruction": texts[-2], "input": "", "output": texts[-1], "history": pairs}


def completion(talk: Talk) -> dict[str, Any]:
    return {"prompt": talk[:-1], "completion": talk[-1:]}


WRITTEN: dict[str, Callable[[Talk], dict[str, Any]]] = {
    "chat": chat,
    "sharegpt": sharegpt,
    "alpaca": alpaca,
    "prompt-completion": completion,
}


def write(path: Path, rows: Sequence[Any]) -> str:
    """A file of rows, in the format of its suffix; returns its path."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([*rows]), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps([*rows]))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def read(path: str, **settings: Any) -> list[Any]:
    """Rows and faults of a file."""
    return [*read_source(Source(name="own", path=path, **settings), COLUMNS)]


def messages(rows: Sequence[Any]) -> list[Talk]:
    """Their messages; no row may be a fault."""
    assert not [each for each in rows if isinstance(each, Fault)]
    return [row.values["messages"] for row in rows]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("shape", SHAPES)
def test_real_conversations_are_read_back(shape: str, suffix: str, tmp_path: Path) -> None:
    known = [*talks()]
    assert len(known) > 50
    assert any(len(talk) > 3 for talk in known)
    path = write(tmp_path / f"rows{suffix}", [WRITTEN[shape](talk) for talk in known])
    assert messages(read(path)) == known
    assert messages(read(path, shape=shape)) == known


def test_the_parts_of_an_instruction(tmp_path: Path) -> None:
    row = {"instruction": "Name it", "input": "a cat", "output": "Cat", "system": "Be short"}
    other = {"instruction": "Go", "output": "Went"}
    one, two = messages(read(write(tmp_path / "rows.jsonl", [row, other])))
    assert [each["role"] for each in one] == ["system", "user", "assistant"]
    assert one[1]["content"] == "Name it\na cat"
    assert two == [{"role": "user", "content": "Go"}, {"role": "assistant", "content": "Went"}]


def test_texts_as_prompt_and_completion(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"prompt": "Hi", "completion": "Ho"}])
    assert messages(read(path)) == [
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    ]


def test_instructions_in_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("instruction,input,output\nName it,a cat,Cat\nGo,,Went\n")
    one, two = messages(read(str(path)))
    assert one[0]["content"] == "Name it\na cat"
    assert [each["content"] for each in two] == ["Go", "Went"]


def test_keys_and_roles_of_another_name(tmp_path: Path) -> None:
    turns = [{"who": "patient", "says": "Ouch"}, {"who": "doctor", "says": "Where?"}]
    path = write(tmp_path / "rows.jsonl", [{"talk": turns, "rules": "Be kind"}] * 2)
    roles = {"patient": "user", "doctor": "assistant"}
    own = {"messages": "talk", "role": "who", "content": "says", "system": "rules", "roles": roles}
    found, _ = messages(read(path, shape={"kind": "chat", **own}))
    assert found == [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": "Ouch"},
        {"role": "assistant", "content": "Where?"},
    ]
    swapped = {"patient": "assistant", "doctor": "user"}
    fault, _ = read(path, shape={"kind": "chat", **own, "roles": swapped})
    assert fault.reason == "roles out of order"


HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}
WEIGHTED = {"conversations": [HUMAN, {**GPT, "weight": 1}]}
SILENT = {"conversations": [HUMAN, {**GPT, "value": None}]}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown role": ({"conversations": [HUMAN, {**GPT, "from": "observation"}]}, "unknown role"),
    "an empty turn": ({"conversations": [HUMAN, {**GPT, "value": " "}]}, "empty message"),
    "the human twice": ({"conversations": [HUMAN, HUMAN, GPT]}, "roles out of order"),
    "no turns": ({"conversations": None}, "no conversations"),
    "turns of text": ({"conversations": ["Hi", "Ho"]}, "wrong type"),
    "a role that is no text": ({"conversations": [{**HUMAN, "from": 3}]}, "unknown role"),
    "a role that is a list": ({"conversations": [{**HUMAN, "from": ["human"]}]}, "unknown role"),
    "a weight of a turn": (WEIGHTED, "unknown field of a message"),
    "tools": ({"conversations": [HUMAN, GPT], "tools": "[{}]"}, "tools"),
    "no text for a turn": (SILENT, "no messages.content"),
}
BAD_INSTRUCTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no output": ({"instruction": "Go", "output": ""}, "no output"),
    "a null for output": ({"instruction": "Go", "output": None}, "no output"),
    "no instruction": ({"instruction": "", "input": None, "output": "Ho"}, "empty message"),
    "an output that is no text": ({"instruction": "Go", "output": 7}, "wrong type"),
    "a history of texts": ({"instruction": "Go", "output": "Ho", "history": ["a"]}, "wrong type"),
    "a history of nulls": (
        {"instruction": "Go", "output": "Ho", "history": [["a", None]]},
        "no messages.content",
    ),
}


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        *(pytest.param({"conversations": [HUMAN, GPT]}, *BAD[name], id=name) for name in BAD),
        *(
            pytest.param({"instruction": "Go", "output": "Ho"}, *BAD_INSTRUCTIONS[name], id=name)
            for name in BAD_INSTRUCTIONS
        ),
        pytest.param(
            {"prompt": "Hi", "completion": "Ho"},
            {"prompt": "Hi", "completion": ""},
            "no completion",
            id="no completion",
        ),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_bad_row_is_named(
    good: dict[str, Any], bad: dict[str, Any], reason: str, first: bool, tmp_path: Path
) -> None:
    rows = [bad, good] if first else [good, bad]
    found = read(write(tmp_path / "rows.jsonl", rows))
    (fault,) = [each for each in found if isinstance(each, Fault)]
    assert fault.reason == reason
    assert len(found) == 2


def test_rows_of_no_shape_are_what_they_were(tmp_path: Path) -> None:
    (fault,) = read(write(tmp_path / "rows.jsonl", [{"question": "Hi", "answer": "Ho"}]))
    assert fault.reason == "missing key"
    with pytest.raises(BadInput, match="no column 'messages'"):
        read(write(tmp_path / "rows.parquet", [{"question": "Hi", "answer": "Ho"}]))


def test_a_shape_is_one_of_the_table_and_for_conversations() -> None:
    source = Source(name="own", path="x.jsonl", shape="sharegpt")
    with pytest.raises(BadInput, match="task of conversations"):
        check_columns(source, role_columns(TextClassification(), "input", "target"))
    with pytest.raises(BadInput, match="did you mean 'sharegpt'"):
        [*read_source(Source(name="own", path=__file__, shape="sharegtp"), COLUMNS)]
