"""Conversations as published data sets have them, and the tasks of BIG-bench."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput
from lmwright.data.formats.choose import read_table
from lmwright.data.formats.record import Fault, Table


def read(path: Path, *columns: str) -> list[Any]:
    """Records and faults of a file."""
    return list(read_table(Table("source 's'", path.name, path), list(columns)))


def line(text: str, sender: str) -> dict[str, str]:
    return {"text": text, "sender": sender, "timestamp": "2018-05-02T19:38:15Z"}


def test_utterances_become_messages_of_two_people(tmp_path: Path) -> None:
    talk = [[line("Hi", "p"), line(" ", "p"), line("you", "p")], [line("Ho", "q")]]
    talks = {
        "one": {"messages": [*talk, [line("So?", "p")], [line("Yes", "p")]], "prompt": "Talk"},
        "three people": {"messages": [*talk, [line("Me too", "r")]]},
        "no turns": {"messages": ["Hi"]},
    }
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(talks))
    (origin, one), *others = read(path, "messages", "conversation_id")
    assert origin == "talk.json:1" and one["conversation_id"] == "one"
    assert one["messages"] == [
        {"role": "user", "content": "Hi\nyou"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "So?\nYes"},
    ]
    assert [each.reason for each in others] == ["missing key"] * 2
    assert read(path)[0][1]["prompt"] == "Talk"


def test_chatterbot_s_conversations(tmp_path: Path) -> None:
    path = tmp_path / "talk.yml"
    path.write_text(
        "categories:\n- small talk\nconversations:\n- - Hi\n  - Ho\n- Oh\n- - Hi\n  - 3\n"
    )
    one, *others = read(path, "messages", "category")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert one == ("talk.yml:1", {"messages": messages, "category": "small talk"})
    assert [each.reason for each in others if isinstance(each, Fault)] == ["wrong type"] * 2
    path.write_text("categories: []\n")
    with pytest.raises(BadInput, match="without conversations"):
        read(path, "messages")


def test_a_task_of_big_bench_has_its_best_target(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    tied = {"input": "b", "target_scores": {"x": 1, "y": 1}}
    best = {"input": "a", "target_scores": {"x": 0, "y": 1}}
    path.write_text(json.dumps({"name": "t", "examples": [best, tied, {"input": "c"}]}))
    one, *others = read(path, "input", "target")
    assert one == ("task.json:1", {"input": "a", "target": "y"})
    assert [each.reason for each in others] == ["missing key"] * 2


def test_the_published_files() -> None:
    intents = read(asset_file("asset:snips-intents/task.json"), "input", "target")
    assert len(intents) == 693
    assert len({row["target"] for _, row in intents}) == 7
    coding = asset_file("asset:chatterbot-corpus/chatterbot_corpus/data/english/coding.yml")
    assert len(read(coding, "messages")) == 184
    path = asset_file("asset:chitchat/chitchat_dataset/dataset.json")
    talks = read(path, "messages")
    assert len(talks) == 7168
    lines = (
        [line["sender"] for turn in talk["messages"] for line in turn if line["text"].strip()]
        for talk in json.loads(path.read_bytes()).values()
    )
    runs = sum(len(list(groupby(each))) for each in lines)
    assert sum(len(row["messages"]) for _, row in talks) == runs
