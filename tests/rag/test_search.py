"""Indexes: as a stage of a recipe, searched by words, by vectors and by both; and their faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import lmwright as lw
from lmwright.assets import asset_file
from lmwright.cli.main import main
from lmwright.core.bases import bases_of
from lmwright.core.errors import BadInput, Corrupt
from lmwright.index.lexical import BM25
from lmwright.models.load import load_predictor
from lmwright.models.text_model import TextPredictor
from lmwright.rag.build import Index, text_column
from lmwright.rag.searcher import RANK, Searcher
from lmwright.store.store import Store
from lmwright.tasks.regression import Regression
from lmwright.tasks.sentence_similarity import SentenceSimilarity
from lmwright.train.start import START

RECIPE = """
name: packages
task: sentence-similarity
stages:
  data:
    sources:
      - {name: debian, path: ROWS, licence: free, 
         columns: {sentence1: synopsis, sentence2: description}, side: {group: section}}
    label_error_rows: 0
  train: {start: START, epochs: 0, max_tokens: 48}
  index: {model: model, keep: [source, group, score]}
  words: {stage: index, column: sentence1, splits: [train, test], writes: {index: words}}
  eight: {stage: index, model: model, keep: [score], precision: int8, writes: {index: eight}}
"""


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    """Real descriptions, every eighth of a section called games."""
    read = pq.read_table(asset_file("asset:debian-summaries/debian-summaries.parquet"))
    return [
        {**row, "section": "games" if place % 8 == 0 else "other"}
        for place, row in enumerate(read.slice(0, 240).to_pylist())
    ]


@pytest.fixture(scope="module")
def made(rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store in which the recipe ran, and the run."""
    folder = tmp_path_factory.mktemp("packages")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines)
    text = RECIPE.replace("ROWS", str(folder / "rows.jsonl")).replace("START", START)
    (folder / "packages.yaml").write_text(text)
    done = lw.run(folder / "packages.yaml", store=folder / "store")
    return folder / "store", done


def test_the_index_holds_each_different_text_once_and_names_its_encoder(made: Any) -> None:
    place, done = made
    store = Store(place)
    folder = store.artifact(done.artifacts["index"])
    assert bases_of(folder) == [done.artifacts["model"]]
    facts = done.facts
    assert facts["index"]["vectors"] and not facts["words"]["vectors"]
    assert 200 < facts["index"]["texts"] <= 240
    assert facts["words"]["texts"] < facts["index"]["texts"]
    searcher = Searcher.load(folder)
    assert len(set(searcher.words.texts)) == len(searcher) == facts["index"]["texts"]
    assert {tuple(sorted(each)) for each in searcher.words.entries.columns} == {
        ("group", "score", "source")
    }


def test_what_is_found_by_each_way(made: Any) -> None:
    """Words against BM25, vectors against cosines by brute force, both against their ranks."""
    place, done = made
    searcher = lw.open_index("packages", store=place)
    texts = searcher.words.texts
    queries = ["play chess against the computer", "library to read sound files"]
    model = searcher.encoder
    assert isinstance(model, TextPredictor) and searcher.vectors is not None
    own = searcher.embed(texts)
    for query, vector in zip(queries, searcher.embed(queries), strict=True):
        by_words = BM25(texts).scores(query)
        [found] = searcher.search([query], 5, "words")
        order = np.argsort(-by_words, kind="stable")
        assert [each.text for each in found] == [texts[n] for n in order[:5]]
        cosines = own.astype(np.float64) @ vector
        [near] = searcher.search([query], 5, "vectors")
        assert [each.text for each in near] == [texts[n] for n in np.argsort(-cosines)[:5]]
        assert near[0].score == pytest.approx(cosines.max(), abs=1e-5)
        [joined] = searcher.search([query], 3)
        ranks: dict[int, float] = {}
        for scores in (np.where(by_words > 0, by_words, -np.inf), cosines):
            ranking = [
                n for n in np.argsort(-scores, kind="stable")[:100] if np.isfinite(scores[n])
            ]
            for rank, n in enumerate(ranking, 1):
                ranks[int(n)] = ranks.get(int(n), 0) + 1 / (RANK + rank)
        best = sorted(ranks, key=lambda n: (-ranks[n], n))[:3]
        assert [each.text for each in joined] == [texts[n] for n in best]
        assert joined[0].score == pytest.approx(ranks[best[0]])
    assert lw.open_index(done.artifacts["index"][:16], store=place).search(queries, 1)[0]


def test_own_summaries_find_their_description(made: Any, rows: list[dict[str, str]]) -> None:
    place, _ = made
    searcher = lw.open_index("packages", store=place)
    known = {text: n for n, text in enumerate(searcher.words.texts)}
    pairs = [
        (row["synopsis"], text)
        for row in rows
        if (text := searcher.cleaned(row["description"])) in known
    ]
    asked = [query for query, _ in pairs]
    shares = {}
    for by in ("words", "vectors", "both"):
        found = searcher.search(asked, 5, by)  # type: ignore[arg-type]
        hits = [
            text in {each.text for each in own} for (_, text), own in zip(pairs, found, strict=True)
        ]
        shares[by] = np.mean(hits)
    assert min(shares.values()) > 0.85, shares


def test_filters_and_forgetting(made: Any) -> None:
    place, _ = made
    searcher = lw.open_index("packages", store=place)
    for by in ("words", "vectors", "both"):
        [found] = searcher.search(["a game"], 50, by, {"group": "games"})  # type: ignore[arg-type]
        assert found and {each.columns["group"] for each in found} == {"games"}
    [first, second] = searcher.search(["a game"], 2, "vectors")[0]
    assert searcher.forget([first.id, "nobody"]) == 1
    assert searcher.search(["a game"], 1, "vectors")[0][0].id == second.id
    searcher.add([first.id], [first.text], [first.columns])
    assert searcher.search(["a game"], 1, "vectors")[0][0].id == first.id
    with pytest.raises(BadInput, match="already"):
        searcher.add([first.id], ["another"], [{}])
    assert len(searcher.words) == len(searcher.vectors or ())


def test_the_command_prints_and_refuses(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    place, done = made
    words = ["search", "packages", "play chess", "--store", str(place)]
    assert main([*words, "--most", "2"]) == 0
    assert capsys.readouterr().out.count("source debian") == 2
    assert main([*words, "--where", "score=1", "--most", "1"]) == 0
    assert capsys.readouterr().out.count("source debian") == 1
    filtered = ["--json", "--by", "vectors", "--where", "group=games"]
    assert main([*words, *filtered]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found and all(each["columns"]["group"] == "games" for each in found)
    assert main(["search", done.artifacts["words"], "sound", "--store", str(place)]) == 0
    capsys.readouterr()
    for more, said in (
        (["--by", "touch"], "words, vectors or both"),
        (["--where", "group"], "COLUMN=VALUE"),
        (["--where", "section=games"], "where names 'section'"),
    ):
        assert main([*words, *more]) != 0
        assert said in capsys.readouterr().err
    assert (
        main(["search", done.artifacts["words"], "x", "--by", "both", "--store", str(place)]) != 0
    )
    assert "has no vectors" in capsys.readouterr().err
    assert main(["search", "nothing-of-the-kind", "x", "--store", str(place)]) != 0
    assert "there is no index" in capsys.readouterr().err
    assert main(["search", "packages", "  ", "--store", str(place)]) != 0
    assert "characters that show" in capsys.readouterr().err
    assert main(["search", done.artifacts["model"], "x", "--store", str(place)]) != 0
    assert "an artifact of the stage index" in capsys.readouterr().err


def test_what_stands_on_an_encoder_does_not_do_without(made: Any, tmp_path: Path) -> None:
    place, done = made
    store = Store(place)
    searcher = Searcher.load(store.artifact(done.artifacts["index"]))
    searcher.save(tmp_path / "alone" / "index")
    with pytest.raises(BadInput, match="is not in the store"):
        Searcher.load(tmp_path / "alone" / "index")
    again = tmp_path / "again"
    words = Searcher.load(store.artifact(done.artifacts["words"]))
    words.save(again)
    (again / "words" / "index.json").write_text('{"kind": "words"}')
    with pytest.raises(Corrupt, match="not whole"):
        Searcher.load(again)
    assert load_predictor(store.artifact(done.artifacts["model"])).kind == "text-model"


def test_columns_that_are_no_texts_are_refused() -> None:
    assert text_column(SentenceSimilarity(), "") == "sentence2"
    with pytest.raises(BadInput, match=r"index\.column"):
        text_column(SentenceSimilarity(), "score")
    assert text_column(Regression(), "") == "text"


def test_an_encoder_in_int8_gives_nearly_the_same_vectors(made: Any) -> None:
    store, done = Store(made[0]), made[1]
    exact, eight = (
        Searcher.load(store.artifact(done.artifacts[name])) for name in ("index", "eight")
    )
    assert exact.vectors is not None and eight.vectors is not None
    assert exact.vectors.entries.ids == eight.vectors.entries.ids
    cosines = (exact.vectors.vectors * eight.vectors.vectors).sum(1)
    assert 0.99 < cosines.min() < 1 - 1e-6


def test_words_alone_are_in_no_precision() -> None:
    with pytest.raises(BadInput, match="precision int8 for an index of words"):
        Index(precision="int8").foresee({})
