"""Forecasts of memory: by the recipe, by the track record, and that it must fit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from lmwright.cli.main import main
from lmwright.core.errors import Refused
from lmwright.core.journal import Journal
from lmwright.core.recipe import Recipe, read_recipe
from lmwright.core.stage import WorkEstimate
from lmwright.evals.ensemble import Combine
from lmwright.evals.prompt import WRITTEN, Prompt
from lmwright.metrics.noninferiority import allowance, rows_needed
from lmwright.models.core.memory import KERNELS
from lmwright.models.network.network import Network
from lmwright.plan import forecast
from lmwright.plan.forecast import (
    OVERHEAD,
    Past,
    Rates,
    Sources,
    beginning,
    forecast_stage,
    kept_bytes,
    step_bytes,
    that_fits,
    track_record,
)
from lmwright.plan.recipe import Plan
from lmwright.store.run import plan_recipe
from lmwright.store.store import Store
from lmwright.tables import SECTIONS, resolve
from lmwright.train.beginning import at_rate
from lmwright.train.finetune import Train

RATES = Rates(
    rows=1e3,
    read_tokens=1e3,
    train_tokens=1e3,
    fitted_rows=1e3,
    gathering=400_000_000,
    reading=700_000_000,
    training=1_200_000_000,
    step_tokens=200_000.0,
    step_pairs=600.0,
)
HEAD = "name: mine\ntask: text-classification\n"
WORDS = 120
ROWS = 300


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "lmwright-store")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A recipe on 300 long rows."""
    lines = [f"film {k} " + "very " * WORDS + "good," + "ab"[k % 2] for k in range(ROWS)]
    (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    path = tmp_path / "mine.yaml"
    source = f"{{name: some, path: {tmp_path / 'rows.csv'}}}"
    path.write_text(f"{HEAD}stages:\n  data: {{sources: [{source}]}}\n  train: {{}}\n")
    return path


def read(path: Path, *changes: str) -> Recipe:
    """A recipe with changes."""
    return read_recipe(path, resolve, SECTIONS, changes)


def test_two_small_batches_tell_what_a_large_one_keeps(table: Path, store: Store) -> None:
    training = Train()
    model = beginning(read(table), store)
    token, pair = step_bytes(model, training)
    network = at_rate(model, training.dropout, model.max_tokens).network
    lengths = [7, 20, 20, 33, 64, 90, 200]
    told = token * sum(lengths) + pair * sum(n * n for n in lengths)
    assert told / OVERHEAD == pytest.approx(kept_bytes(network, lengths), rel=0.1)
    assert step_bytes(model, Train(dropout=0.0))[1] < pair, "masks of attention are kept too"


def test_memory_is_forecast_by_batch_and_length(table: Path, store: Store) -> None:
    known = Sources(read(table), store, plan_recipe(read(table), store))

    def expected(**settings: int) -> float:
        estimate = Train(**settings).estimate(known)
        return forecast_stage("train", estimate, RATES, Past())["memory"][1]

    small, large = expected(batch=16), expected(batch=128)
    tokens = WORDS + 5  # with the film, its number, and the two marks
    a_text = tokens * RATES.step_tokens + tokens**2 * RATES.step_pairs
    assert large - small == pytest.approx(112 * a_text, rel=0.05)
    assert expected(batch=128, max_tokens=32) < 0.6 * large
    assert expected(batch=10**9) == expected(batch=10**8), "a batch has no more than all rows"
    reading = forecast_stage("evaluate", WorkEstimate(read_tokens=1e5), RATES, Past())["memory"]
    assert reading[1] == RATES.reading
    assert (
        forecast_stage("data", WorkEstimate(rows=1e5), RATES, Past())["memory"][1]
        == RATES.gathering
    )


def test_prompts_and_ensembles_are_forecast_by_their_models(table: Path, store: Store) -> None:
    """A prompt of the training's own start costs its texts' tokens, shown ones with each."""
    known = Sources(read(table), store, plan_recipe(read(table), store))
    settings = {"shown": 3, "max_characters": 10_000, "max_new_tokens": 4, "samples": 2}
    made = Prompt(model=Train.start, calibration_rows=10, **settings).estimate(known)
    text = WORDS + 5
    assert made is not None
    assert made.read_tokens == pytest.approx(10 * 2 * (4 * text + 4 * WRITTEN), rel=0.05)
    assert made.further_bytes == pytest.approx(known.model_bytes(), rel=0.01)
    assert made.disk > known.model_bytes()
    entry = forecast_stage("prompt", made, RATES, Past())
    assert entry["memory"][1] == pytest.approx(RATES.reading + made.further_bytes)
    assert entry["seconds"][1] == pytest.approx(1 + made.read_tokens / RATES.read_tokens, rel=0.01)
    assert Prompt(model="hosted:m@http://127.0.0.1:9/v1").estimate(known) is None
    both = Combine(members=("model", "other")).estimate(known)
    assert both.disk == both.further_bytes == 2 * known.model_bytes()


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ({"margin": 0.5}, None),
        ({"margin": 0.02}, "33 rows of rows/gate: once a version is in service"),
        ({"margin": 0.02, "claim": "superior"}, None),
        ({"margin": 0.02, "metric": "log_loss"}, None),
        ({"margin": 0.5, "kept": ["rows/test"], "kept_margin": 0.01}, "24 rows of rows/test: the"),
    ],
    ids=["wide", "narrow", "superior", "of no largest loss", "kept"],
)
def test_what_no_gate_could_pass_is_planned_with_words(
    table: Path, store: Store, gate: dict, told: str | None
) -> None:
    """300 rows, of which 0.11 are the gate's and 0.08 are tested on."""
    text = table.read_text().replace("  train: {}", "  train: {}\n  baselines:\n  evaluate:")
    table.write_text(f"{text}  promote: {{detectors: null, gate: {gate}}}\n")
    shares = "{train: 0.6, validation: 0.1, calibration: 0.11, gate: 0.11, test: 0.08}"
    recipe = read(table, f"data.fractions={shares}")
    known = Sources(recipe, store, plan_recipe(recipe, store))
    doubts = recipe.steps[-1].stage.doubts(known)
    assert (len(doubts) == 1 and doubts[0].startswith(told)) if told else doubts == ()
    if told and told.startswith("33"):
        needed = rows_needed(0.02, 2.0, allowance(0.05, 0))
        assert f"takes {needed} rows" in doubts[0]
        plan = Plan("mine", (), {"promote": {"doubts": list(doubts)}})
        assert plan.lines() == [f"promote: {doubts[0]}"]


def test_the_track_record_corrects_memory_by_peaks_of_the_stage_alone(store: Store) -> None:
    entry = {"kind": "train", "unadjusted": 10.0, "unadjusted_memory": 1e9}
    for peak, own in ((1.9e9, True), (2.0e9, True), (2.1e9, True), (9e9, False)):
        _, folder = store.new_run("mine")
        (folder / "run.json").write_text('{"recipe": "mine"}')
        with_journal(folder / "journal.jsonl", entry, int(peak), own)
    past = track_record(store)["train"]
    assert past.memory == [(1e9, 1.9e9), (1e9, 2.0e9), (1e9, 2.1e9)]
    assert len(past.seconds) == 4
    plain = forecast_stage("train", WorkEstimate(step_tokens=1.0), RATES, Past())["memory"]
    low, expected, high = forecast_stage("train", WorkEstimate(step_tokens=1.0), RATES, past)[
        "memory"
    ]
    assert expected == pytest.approx(2 * plain[1], rel=1e-3)
    assert low < expected < high


def with_journal(path: Path, entry: dict, peak: int, own: bool) -> None:
    """The journal of a run of one stage with a forecast."""
    journal = Journal(path)
    journal.record("forecast", stages={"train": entry})
    journal.record("stage ended", step="train", seconds=12.0, peak_bytes=peak, peak_of_stage=own)
    journal.close()


def test_what_cannot_fit_is_refused_before_any_work(
    table: Path, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecast, "machine_memory", lambda: 3_000_000_000)
    # Few texts tell a machine's pace badly, and its memory as well as many.
    monkeypatch.setattr(forecast, "SAMPLE", 32)
    words = [str(table), "--store", str(store.folder), "--set", "train.batch=1000000"]
    assert main(["run", *words]) == 1
    said = capsys.readouterr().err
    assert "train is forecast to need" in said and "the 3.0 GB that this machine" in said
    assert "lower train.batch (now 1000000) or train.max_tokens (now 256)" in said
    assert said.count("\n") == 1 and store.runs() == []
    assert main(["plan", *words]) == 0
    assert "does not fit: train is forecast" in capsys.readouterr().out
    assert main(["run", *words]) == 1, "nor with the forecast that plan has kept"
    assert store.runs() == []


@pytest.mark.parametrize("memory", [1, 10**15])
def test_a_training_that_follows_still_finds_few_kernels(
    table: Path, store: Store, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    """oneDNN reads its setting once, before the first model's first pass, whoever makes it."""
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "1024")  # to be put back after the test
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    monkeypatch.setattr(forecast, "machine_memory", lambda: memory)
    seen: list[str | None] = []
    passes = Network.forward

    def watched(self: Network, *given: object, **named: object) -> object:
        seen.append(os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY"))
        if memory == 1:
            raise StopIteration  # a probe's other passes tell no more
        return passes(self, *given, **named)

    monkeypatch.setattr(Network, "forward", watched)
    if memory == 1:
        with pytest.raises(StopIteration):
            that_fits(read(table), store, None)
    else:
        assert that_fits(read(table), store, None) is None
    assert seen and set(seen) == {KERNELS}


def test_what_surely_fits_is_not_probed_and_what_is_done_is_not_refused(
    table: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read(table)
    assert that_fits(recipe, store, None) is None
    monkeypatch.setattr(forecast, "machine_memory", lambda: 1000)
    told = {"data": {"memory": [2000, 3000, 4000]}}
    with pytest.raises(Refused, match="data is forecast"):
        that_fits(recipe, store, told)
    done = [row.__class__(**{**vars(row), "state": "done"}) for row in plan_recipe(recipe, store)]
    monkeypatch.setattr(forecast, "plan_recipe", lambda recipe, store: done)
    assert that_fits(recipe, store, told) == told


def test_a_language_model_is_probed_without_the_logits_of_its_vocabulary(
    tmp_path: Path, store: Store
) -> None:
    """Its head has outputs a token; a plan reads several texts at once."""
    config = (
        "{hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2, "
        "num_key_value_heads: 2, max_position_embeddings: 64, rms_norm_eps: 1.0e-5, "
        "tie_word_embeddings: true}"
    )
    path = tmp_path / "summaries.yaml"
    source = (
        "{name: debian, path: asset:debian-summaries/debian-summaries.parquet, limit: 300, "
        "columns: {text: description, summary: synopsis}}"
    )
    new = f"{{family: llama, config: {config}, vocabulary: 500}}"
    path.write_text(
        f"name: s\ntask: summarization\nstages:\n  data: {{sources: [{source}]}}\n"
        f"  train: {{new: {new}, max_tokens: 64, batch: 4}}\n"
    )
    recipe = read(path)
    told = forecast.forecast(recipe, store, plan_recipe(recipe, store))
    assert told["train"]["seconds"][1] > 0
    model, training = beginning(recipe, store), forecast.training_of(recipe)
    outputs = model.outputs
    assert forecast.logits_bytes(model, training) == 6 * outputs * 4 * 64
    kept = kept_bytes(model.network, [64])
    other = replace(training.new, vocabulary=265).model(forecast.PROBE_TEXTS, "lm", 64, 0)
    assert other.outputs < outputs and kept == kept_bytes(other.network, [64])
