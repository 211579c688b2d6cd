"""Rows as a model learnt them: what is read, what is learnt and what is cut off, told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmwright.cli.look import show
from lmwright.core.errors import BadInput
from lmwright.plan.masks import learnt_from
from lmwright.plan.recipe import open_recipe
from lmwright.store.open import open_store
from lmwright.store.run import run_recipe
from lmwright.store.store import Store

RECIPE = """
name: written
task: {kind: text2text-generation, prompt: "say: {text} ", decoding: {max_new_tokens: 12}}
stages:
  data:
    sources: [{name: lines, path: lines.jsonl, licence: research}]
    label_error_rows: 0
  train:
    new:
      family: llama
      config: {hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
               num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 64}
      vocabulary: 300
    epochs: 1
    max_tokens: 64
    lr: 1.0e-2
    check_first: report
"""
LONG = "a long answer that goes on and on until nobody can read it any more"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """A store in which a drawn model learnt from sixty rows, and these rows."""
    folder = tmp_path_factory.mktemp("masks")
    rows = [{"text": f"number {n}", "target": LONG if n % 2 else f"so {n}"} for n in range(60)]
    (folder / "lines.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "written.yaml").write_text(RECIPE)
    store = open_store(folder / "store")
    done = run_recipe(open_recipe(folder / "written.yaml", []), store)
    return store, done.artifacts["rows"]


def test_prompts_are_read_answers_learnt_and_what_is_too_long_is_cut(trained):
    found = learnt_from(*trained, count=20)
    assert len(found) == 20
    whole, cut = 0, 0
    for row in found:
        text = dict.fromkeys(("read", "learnt", "cut"), "")
        for piece in row.pieces:
            text[piece.mask] += piece.text
        assert "say: number" in text["read"]
        answer = (text["learnt"] + text["cut"]).replace("</s>", "").strip()
        if row.cut:
            cut += 1
            assert row.learnt == 12 and answer == LONG and text["cut"]
            assert f"{row.cut} more are cut" in row.lines()[0]
            assert "\x1b[31m" in row.lines()[1]
        else:
            whole += 1
            assert answer.startswith("so ") and text["learnt"].endswith("</s>")
            assert 0 < row.learnt < row.tokens
    assert whole and cut


def test_the_verb_shows_them_in_colours_and_as_json(trained, capsys):
    store, content = trained
    show(content[:12], store.folder, mask=True, rows=2, as_json=False)
    shown = capsys.readouterr().out
    assert shown.count("tokens are learnt") == 2 and "\x1b[32m" in shown
    show(content[:12], store.folder, mask=True, rows=2, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert [sorted(each) for each in told] == [["cut", "id", "learnt", "pieces", "tokens"]] * 2
    assert {piece["mask"] for each in told for piece in each["pieces"]} >= {"read", "learnt"}


def test_what_no_training_learnt_from_is_refused(trained, tmp_path: Path):
    store, content = trained
    model = next(
        result.outputs["model"] for result in store.users(content) if result.kind == "train"
    )
    with pytest.raises(BadInput, match="holds no training rows"):
        learnt_from(store, model, 3)
    (tmp_path / "one.yaml").write_text(RECIPE.split("  train:")[0].replace("written", "apart"))
    (tmp_path / "lines.jsonl").write_text(
        "\n".join(json.dumps({"text": f"a {n}", "target": f"b {n}"}) for n in range(40))
    )
    other = run_recipe(open_recipe(tmp_path / "one.yaml", []), store).artifacts["rows"]
    with pytest.raises(BadInput, match="no training here learnt from"):
        learnt_from(store, other, 3)
