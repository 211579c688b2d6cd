"""Advice for tables: what is measured, which rule follows, and commands that run as they stand."""

from __future__ import annotations

import csv
import json
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import lmwright as lw
from lmwright.assets import asset_file
from lmwright.cli.main import main
from lmwright.core.errors import BadInput
from lmwright.plan import seen as looking
from lmwright.plan.advice import complexity, compute, data, domain
from lmwright.plan.advise import Advice, Draft, Reason, advise
from lmwright.plan.recipe import open_recipe
from lmwright.plan.seen import Seen, Words, see
from lmwright.tables import ADVICE
from lmwright.train.finetune import Train


@pytest.fixture(scope="module")
def intents() -> list[tuple[str, str]]:
    """Real requests and what they want."""
    rows = json.loads(asset_file("asset:snips-intents/task.json").read_text())["examples"]
    return [(row["input"], max(row["target_scores"], key=row["target_scores"].get)) for row in rows]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, rows: Any, header: tuple[str, ...] = ("text", "label")) -> Path:
    """A table of rows."""
    path = folder / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def said(advice: Advice, factor: str) -> str:
    """All reasons of a factor."""
    return "\n".join(each.said for each in advice.reasons if each.factor == factor)


def test_every_factor_gives_a_reason_and_what_is_said_is_measured(folder, intents):
    path = written(folder, [*intents, *intents[:20]])
    found = advise(path, forecast=False)
    assert {each.factor for each in found.reasons} == set(ADVICE)
    assert (found.task, found.way, found.tune) == ("text-classification", "tune", "full")
    counts = Counter(label for _, label in intents)
    assert f"{len(intents):,} rows with different inputs" in said(found, "data")
    most, least = max(counts.values()), min(counts.values())
    assert f"rarest {least}, of the commonest {most}" in said(found, "data")
    assert all(each.source for each in found.reasons if each.kind == "rule")
    assert not any(each.source for each in found.reasons if each.kind == "measured")
    assert found.train["epochs"] == 10 and found.train["max_tokens"] == 32
    assert "no training" not in said(found, "data") and not found.budget


def test_words_are_tried_on_rows_that_they_have_not_seen(folder, intents):
    seen = see(written(folder, intents), "", "", "", (), "")
    assert seen.learnable is not None
    share = seen.learnable.right / seen.learnable.rows
    assert seen.learnable.rows == len(intents) and 0.9 < share < 1
    assert seen.learnable.low < share < seen.learnable.high
    assert seen.learnable.common == max(Counter(label for _, label in intents).values())
    drawn = np.random.default_rng(0).permutation([label for _, label in intents])
    mixed = see(
        written(folder, zip([text for text, _ in intents], drawn, strict=True)), "", "", "", (), ""
    )
    assert mixed.learnable is not None
    assert mixed.learnable.right / mixed.learnable.rows < 0.3, "labels that nothing tells"


def test_the_commands_are_the_next_ones(folder, intents, capsys):
    path = written(folder, intents)
    found = advise(path, forecast=False)
    verb, *words = shlex.split(found.command)
    assert verb == "lmwright" and main(words) == 0
    _, run, recipe, *sets = shlex.split(found.then)
    assert (run, sets[::2]) == ("run", ["--set"] * len(found.train))
    stage = open_recipe(Path(recipe), sets[1::2]).step("train")
    assert stage is not None and isinstance(stage.stage, Train)
    for name, value in found.train.items():
        assert getattr(stage.stage, name) == value
    capsys.readouterr()


def test_the_budget_is_a_forecast_of_this_machine(folder, intents):
    found = lw.advise(written(folder, intents[:200]))
    assert found.budget["seconds"][0] <= found.budget["seconds"][1] <= found.budget["seconds"][2]
    assert found.budget["memory"][1] > 1e8
    assert any(line.startswith("budget") for line in found.lines())
    assert "forecast by a probe" in said(found, "compute")
    assert json.loads(json.dumps(found.to_json()))["way"] == "tune"


def test_some_dozens_of_rows_are_shown_and_not_learnt(folder, intents):
    found = advise(written(folder, intents[:40]))
    assert found.way == "prompt" and not found.train and not found.budget
    assert "told from chance" in said(found, "data")
    _, verb, address, prompt, *_ = shlex.split(found.command)
    assert verb == "generate" and address.endswith(".gguf")
    assert prompt.count("Answer:") == 9 and prompt.endswith("Answer:")
    assert prompt.count(intents[0][0][:20]) <= 1


def test_many_labels_of_few_rows_are_looked_up(folder, intents, capsys):
    rows = [(text, f"agent {n % 60}") for n, (text, _) in enumerate(intents[:150])]
    path = written(folder, rows)
    found = advise(path)
    assert found.way == "retrieve" and not found.train
    lines = found.lines()
    first, last = lines.index("write rows.yaml:") + 1, lines.index(f"next: {found.command}")
    Path("rows.yaml").write_text("\n".join(line[2:] for line in lines[first:last]))
    for command in (found.command, found.then):
        _, *words = shlex.split(command)
        capsys.readouterr()
        assert main(words) == 0
    assert "agent" in capsys.readouterr().out, "the nearest text stands with its label"


def test_a_task_is_told_by_its_columns(folder):
    table = pq.read_table(asset_file("asset:debian-summaries/debian-summaries.parquet"))
    rows = [(r["description"], r["synopsis"]) for r in table.to_pylist()[:300]]
    found = advise(written(folder, rows, ("text", "summary")), forecast=False)
    assert (found.task, found.tune) == ("summarization", "lora")
    assert found.start.endswith(".gguf") and "max_tokens" not in found.train
    assert found.command == f"lmwright init {folder / 'rows.csv'} --task summarization"
    assert "low-rank adapters" in said(found, "output")


def test_bad_tables_are_refused_as_by_init(folder, capsys):
    for body in ("", "a,b\n1,2\n", "x\nonly one column\n"):
        path = folder / "bad.csv"
        path.write_text(body)
        with pytest.raises(BadInput):
            advise(path, forecast=False)
        assert main(["advise", str(path)]) == main(["init", str(path)]) == 1
    assert main(["advise", str(folder / "none.csv")]) == 1
    config = folder / "sft.yaml"
    config.write_text("model_name_or_path: a/b\ndataset_name: c/d\nlearning_rate: 1e-4\n")
    assert main(["advise", str(config)]) == 1
    assert "is a configuration" in capsys.readouterr().err


# Rules alone


@pytest.fixture
def seen(folder, intents) -> Seen:
    """What is seen of the intents."""
    return see(written(folder, intents), "", "", "", (), "")


def asked(rule: Any, seen: Seen, draft: Draft | None = None) -> tuple[list[Reason], Draft]:
    """What a rule says and does."""
    draft = draft or Draft()
    return list(rule.rule(seen, draft)), draft


def test_uneven_labels_and_near_repeats(seen):
    guess = replace(seen.guess, labels={"a": 2000, "b": 100})
    found, draft = asked(data, replace(seen, guess=guess, alike=0.2))
    assert draft.train == {"epochs": 4, "resample": "over"}
    assert any("20% of the sampled rows" in each.said for each in found)
    guess = replace(seen.guess, labels={"a": 9000, "b": 8000})
    assert not asked(data, replace(seen, guess=guess))[1].train


def test_texts_alike_are_counted(folder, intents):
    longer = [
        (f"{text} and then tell me all about it again please", label) for text, label in intents
    ]
    twice = [*longer, *((f"{text} now", label) for text, label in longer)]
    assert see(written(folder, twice), "", "", "", (), "").alike > 0.3
    assert see(written(folder, longer), "", "", "", (), "").alike < 0.2


def test_what_words_tell_leads_to_a_word(seen):
    for words, wanted in (
        (Words(900, 890, 300, 0.98, 0.995), "promote the baseline"),
        (Words(900, 310, 300, 0.31, 0.37), "no more than the commonest"),
        (Words(900, 700, 300, 0.75, 0.80), ""),
    ):
        rules = [
            r for r in asked(complexity, replace(seen, learnable=words))[0] if r.kind == "rule"
        ]
        assert [wanted in each.said for each in rules] == [True] * bool(wanted)


def test_another_language_and_unknown_words(seen):
    rule = asked(domain, replace(seen, languages={"de": 90, "en": 4}))[0][-1]
    assert "not in the language" in rule.said and rule.source
    rule = asked(domain, replace(seen, lengths=seen.lengths * 2))[0][-1]
    assert "fall apart" in rule.said
    assert all(each.kind == "measured" for each in asked(domain, seen)[0])


def test_short_memory_and_long_trainings(seen, monkeypatch):
    told = {"seconds": [100.0, 7200.0, 9000.0], "memory": [1e9, 2e9, 3e9]}
    monkeypatch.setattr(looking.Seen, "forecast", lambda self, train: told)
    found, draft = asked(compute, replace(seen, memory=10**9))
    assert draft.train["micro_batch"] == Train().batch // 8
    guess = replace(seen.guess, labels={"a": 9000, "b": 9000})
    _, draft = asked(compute, replace(seen, guess=guess, memory=10**11))
    assert draft.train == {"rows": 9000} and draft.budget == told
    assert not asked(compute, seen, Draft(forecasts=False))[1].budget
    assert all(each.factor == "compute" for each in found)
