"""Recipes that cannot be: refused before any work, in one line with what to do, no traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lmwright.cli.main import main
from lmwright.plan.recipe import open_recipe

ROWS = "text,label\nsuch a good film,good\nsuch a bad film,bad\n"
DATA = "data: {{sources: [{{name: some, path: {rows}}}]}}"
GOOD = "name: mine\nstages:\n  " + DATA + "\n  train: {{epochs: 1}}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a table of one's own."""
    (tmp_path / "rows.csv").write_text(ROWS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(
    capsys: pytest.CaptureFixture[str], *words: str, code: int = 1, verb: str = "run"
) -> str:
    """Run a verb that must fail with one line; returns that line. No stage was begun."""
    assert main([verb, *words]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lmwright: ") and err.count("\n") == 1, err
    assert "Traceback" not in err and "fault of lmwright" not in err, err
    journals = Path("lmwright-store/runs").glob("*/journal.jsonl")
    assert not any("stage began" in journal.read_text() for journal in journals)
    return err


def write(folder: Path, text: str) -> str:
    """A recipe file; ``{rows}`` is the table."""
    path = folder / "mine.yaml"
    path.write_text(text.format(rows=folder / "rows.csv"))
    return str(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: mine\nstagse: {{}}\n", ["'stagse'", "did you mean 'stages'"]),
        (GOOD.replace("epochs", "epohcs"), ["'epohcs'", "did you mean 'epochs'"]),
        (GOOD.replace("path", "paht"), ["'sources.0.paht'", "did you mean 'path'"]),
        (GOOD.replace("  train", "  trian"), ["'trian'", "did you mean 'train'"]),
        (GOOD + "wacth: {{}}\n", ["'wacth'", "did you mean 'watch'"]),
        (GOOD + "watch: {{keep_txt: true}}\n", ["'keep_txt'", "did you mean 'keep_text'"]),
        (
            GOOD.replace("epochs: 1", "epochs: many"),
            ["epochs is 'many'", "wanted: a whole number;"],
        ),
        (GOOD.replace("epochs: 1", "epochs: 1.5"), ["epochs is 1.5", "a whole number"]),
        (GOOD.replace("epochs: 1", "epochs: [1]"), ["epochs is [1]", "a whole number"]),
        (GOOD.replace("epochs: 1", "epochs: null"), ["epochs is None", "a whole number"]),
        (GOOD.replace("epochs: 1", "epochs: -1"), ["epochs is -1", "at least 0"]),
        (GOOD.replace("epochs: 1", "lr: -1"), ["mine.yaml: train: lr is -1.0", "at least 0"]),
        (GOOD.replace("[", "").replace("]", ""), ["data: sources is", "wanted: a list"]),
        (GOOD.replace("}}]", ", labels: {{a: 1}}}}]"), ["values.label.a is 1", "in quotes"]),
        (GOOD + "watch: {{keep_text: maybe}}\n", ["keep_text is 'maybe'", "true or false"]),
        (GOOD + "serve: {{port: -1}}\n", ["mine.yaml: serve.port is -1"]),
        (GOOD.replace("epochs: 1", "lr: .nan"), ["lr is nan", "at least 0"]),
        (GOOD.replace("epochs: 1", "lr: .inf"), ["lr is inf", "at most 1"]),
        (
            "task: text-clasification\n" + GOOD,
            ["'text-clasification'", "did you mean 'text-classification'"],
        ),
        (
            "task: {{kind: text-classification, smooth: 0.1}}\n" + GOOD,
            ["mine.yaml: task has no setting 'smooth'", "did you mean 'smoothing'"],
        ),
        (
            "task: {{kind: text-classification, smoothing: 1.5}}\n" + GOOD,
            ["smoothing is 1.5", "below 1"],
        ),
        (
            "task: {{kind: text-classification, clean: [repair, mail]}}\n" + GOOD,
            ["clean is [repair, mail]", "write clean: [mail, repair]"],
        ),
        (
            "task: {{kind: text-generation, clean: [mail, repair, mail]}}\n" + GOOD,
            ["clean is [mail, repair, mail]", "write clean: [mail, repair]"],
        ),
        ("task: 3\n" + GOOD, ["task is 3", "write task: text-classification"]),
        (GOOD.replace("epochs: 1", "start: /nowhere"), ["there is no /nowhere"]),
        (
            GOOD.replace("epochs: 1", "start: 'asset:movie-review/x'"),
            ["'movie-review'", "did you mean"],
        ),
        (GOOD.replace("train:", "train: 3 #"), ["stages.train is 3", "a mapping"]),
        ("name: mine\n", ["no stages"]),
        ("name: mine\nstages: []\n", ["no stages"]),
        ("stages: {{train: }}\n", ["name is None"]),
        ("name: ../up\nstages: {{train: }}\n", ["name is '../up'"]),
        ("- a\n- b\n", ["holds list", "mapping"]),
        ("", ["holds NoneType"]),
        ("name: mine\nstages:\n  train:\n", ["train needs 'rows'", "no stage gives"]),
        ("name: mine\nstages:\n  train:\n  " + DATA, ["data gives later", "move data before"]),
        (GOOD + "  more: {{stage: data, sources: [{{name: b, path: x}}]}}\n", ["both give 'rows'"]),
        (GOOD.replace("epochs: 1", "reads: {{rosw: x}}"), ["'rosw'", "did you mean 'rows'"]),
        (GOOD.replace("epochs: 1", "start_from: model"), ["needs 'model'", "gives later"]),
        (GOOD.replace("path: {rows}", "path: gone.csv"), ["gone.csv"]),
        (GOOD.replace("path: {rows}", "path: {rows}, role: test"), ["no source has the role"]),
        (GOOD.replace("}}]", "}}], fractions: {{train: 0.9}}"), ["fractions", "sum is 1"]),
        ("extends: absent.yaml\n", ["absent.yaml does not exist", "did you mean 'mine.yaml'"]),
        ("extends: mine.yaml\n", ["circle"]),
        ("extends: [mine.yaml]\n", ["mine.yaml"]),
        ("name: mine\nstages: {{train: {{lr: 1, lr: 2}}}}\n", ["'lr' stands twice", "line 2"]),
        ("name: mine\nname: yours\n", ["'name' stands twice"]),
        ("name: &n mine\nstages: {{a: *n}}\n", ["aliases are refused"]),
        ("name: [mine\n", ["at line 2", "valid YAML"]),
        ("name: mine\n\tstages: x\n", ["line 2", "valid YAML"]),
        ("name: !!python/object/apply:os.system [ls]\n", ["python/object", "valid YAML"]),
        ("name: mine\nstages: {{train: {{seed: !!int abc}}}}\n", ["abc", "valid YAML"]),
        ("name: mine\nstages: {{train: {{seed: " + "9" * 5000 + "}}}}\n", ["valid YAML"]),
        ("name: mine\nstages: {{train: {{seed: !!timestamp abc}}}}\n", ["valid YAML"]),
        ("name: mine\nstages: {{1: x}}\n", ["the key 1 is no word: write it in quotes at line 2"]),
        ("name: mine\nstages: {{? [a] : x}}\n", ["is no word"]),
        ("--- {{name: a}}\n--- {{name: b}}\n", ["valid YAML"]),
        (GOOD + "artifacts: {{rows: nothash}}\n", ["both give 'rows'"]),
        (GOOD + "artifacts: [rows]\n", ["artifacts", "a mapping"]),
    ],
)
def test_a_faulty_recipe_is_refused(folder: Path, capsys, text: str, words: list[str]) -> None:
    said = refused(capsys, write(folder, text))
    assert "<unicode string>" not in said
    assert all(word in said for word in words), said
    assert len(said) < 1200


WHOLE = (
    GOOD
    + "  baselines:\n  evaluate:\n  audit:\n  detect:\n  promote:\n"
    + "watch: {{retention_days: 3}}\n"
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("detect.window=5", ["windows of 5", "at least 10"]),
        ("detect.windows=100", ["from 100 windows", "at least 2000"]),
        ("detect.run_length=-3", ["run length -3"]),
        ("detect.run_length=.nan", ["run length nan"]),
        ("detect.reference=[rows/gaet]", ["rows/gaet", "did you mean 'gate'"]),
        ("detect.model=tfidf", ["detectors/model", "detect does not give", "detectors/tfidf"]),
        ("evaluate.splits=[tset]", ["rows/tset", "did you mean 'test'"]),
        ("evaluate.splits=[test-x]", ["rows/test-x", "data does not give"]),
        ("evaluate.models=[tfidf]", ["scores/model", "evaluate does not give"]),
        ("audit.split=tset", ["scores/tset", "did you mean 'test'"]),
        ("audit.split=gate", ["scores/gate", "evaluate does not give"]),
        ("promote.gate.fresh=rows/gaet", ["rows/gaet", "did you mean 'gate'"]),
        ("promote.gate.kept=[rows/test-x]", ["rows/test-x"]),
        ("promote.gate.margin=.nan", ["promote.gate.margin is nan", "finite"]),
        ("promote.gate.margin=.inf", ["promote.gate.margin is inf", "finite"]),
        (
            "evaluate.primary=macrof1",
            ["mine.yaml: evaluate.primary is 'macrof1'", "did you mean 'macro_f1'"],
        ),
        ("evaluate.primary=calibration_error", ["evaluate.primary is 'calibration_error'"]),
        ("evaluate.primary=recal.good", ["did you mean 'recall.good'"]),
        ("evaluate.primary=recall.", ["evaluate.primary is 'recall.'"]),
        (
            "promote.gate.metric=breir",
            ["mine.yaml: promote.gate.metric is 'breir'", "did you mean 'brier'"],
        ),
        ("promote.gate.slices.metric=eror", ["slices.metric is 'eror'", "did you mean 'error'"]),
        ("promote.gate.slices.metric=macro_f1", ["slices.metric is 'macro_f1'", "a loss"]),
        (
            "audit.limits.slices.loss=breir",
            ["mine.yaml: audit.limits.slices.loss is 'breir'", "did you mean 'brier'"],
        ),
        ("promote.gate.slices.margin=-1", ["slices.margin -1", "from 0"]),
        ("promote.gate.slices.rows=-1", ["rows -1", "at least 1"]),
        ("promote.alias=Prod", ["promote.alias is 'Prod'"]),
        ("promote.alias=../x", ["promote.alias is '../x'"]),
        ("watch.retention_days=.nan", ["watch.retention_days is nan", "finite"]),
        ("train.max_tokens=1000000", ["max_tokens is 1000000", "at most"]),
        ("train.max_tokens=513", ["max_tokens is 513", "reads 512 tokens", "at most 512"]),
        ("train.max_tokens=0", ["max_tokens is 0", "at least"]),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    folder: Path, capsys, change: str, words: list[str]
) -> None:
    path = write(folder, WHOLE)
    open_recipe(Path(path), [])
    said = refused(capsys, path, "--set", change)
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    "change",
    ["evaluate.primary=recall.good", "evaluate.primary=coverage", "promote.gate.metric=macro_f1"],
)
def test_any_measure_of_the_task_is_taken(folder: Path, change: str) -> None:
    open_recipe(Path(write(folder, WHOLE)), [change])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train", ["STAGE.FIELD=VALUE", "train.lr=1e-4"]),
        ("train.lr", ["STAGE.FIELD=VALUE"]),
        ("=1", ["STAGE.FIELD=VALUE"]),
        ("train..lr=1", ["STAGE.FIELD=VALUE"]),
        ("trian.lr=1", ["'trian'", "did you mean 'train'"]),
        ("train.lrr=1", ["'lrr'", "did you mean 'lr'"]),
        ("train.lr=fast", ["lr is 'fast'"]),
        ("train.lr=", ["lr is None"]),
        ("train.lr=[1", ["--set train.lr", "valid YAML"]),
        ("train.lr={a: 1, a: 2}", ["stands twice"]),
        ("train.lr=" + "[" * 100_000, ["nested too deeply"]),
        ("train.seed=" + "7" * 10_000, ["valid YAML"]),
        ("name.x=1", ["name is"]),
        ("stages.train.lr=2", ["lr is 2", "at most 1"]),
    ],
)
def test_a_faulty_override_is_refused(folder: Path, capsys, change: str, words: list[str]) -> None:
    said = refused(capsys, write(folder, GOOD), "--set", change)
    assert all(word in said for word in words), said
    assert len(said) < 1200


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"name: a\nstages: " + b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b"name: a\nstages: " + b"{a: " * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b"name: a\nstages:\n" + b"".join(b" " * i + b"a:\n" for i in range(1, 1000)), "deeply"),
        (b"name: a\n" + b"# a long word\n" * 4_000_000, "MB"),
        (bytes(range(256)), "UTF-8"),
        (b"\xff\xfen\0a\0m\0e\0", "UTF-8"),
        (b"name: a\0b\n", "valid YAML"),
    ],
    ids=["lists", "mappings", "indented", "huge", "binary", "utf-16", "nul"],
)
def test_a_monstrous_file_is_refused(folder: Path, capsys, body: bytes, word: str) -> None:
    path = folder / "mine.yaml"
    path.write_bytes(body)
    assert word in refused(capsys, str(path))


def test_a_recipe_that_is_no_file_is_refused(folder: Path, capsys) -> None:
    write(folder, GOOD)
    assert "did you mean 'mine.yaml'" in refused(capsys, "mien.yaml")
    assert "directory" in refused(capsys, str(folder))
    assert "does not exist" in refused(capsys, "no/such/folder/mine.yaml")
    assert "for a table: lmwright init rows.csv" in refused(capsys, "rows.csv", verb="plan")


def test_a_verb_or_option_that_is_unknown_is_wrong_usage(folder: Path, capsys) -> None:
    assert "did you mean 'plan'" in refused(capsys, verb="pln", code=2)
    for words in (["run"], ["run", "a.yaml", "--stroe", "x"], ["gc", "--keep-runs", "many"]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said and re.search(r"Missing|No such|Invalid", said)


def test_names_that_are_not_there_are_told(folder: Path, capsys) -> None:
    for words in (
        ["show", "nothing@here"],
        ["show", "abcdef"],
        ["show", "no-run"],
        ["rollback", "mine@production"],
        ["promote", "mine@production", "abcd1234", "--reason", "x"],
        ["withdraw", "nothing"],
        ["gc", "--keep-runs", "-1"],
    ):
        said = refused(capsys, *words[1:], verb=words[0])
        assert "wanted: " in said, said


def test_a_good_recipe_is_planned_and_a_good_override_is_taken(folder: Path, capsys) -> None:
    path = write(folder, GOOD)
    lines = [f"{n} is one{n} of{n} those{n} films,{'good' if n % 2 else 'bad'}" for n in range(200)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *lines]))
    assert main(["plan", path, "--set", "train.lr=1e-4", "--set", "data.near=0.5"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"data +to do", out) and re.search(r"train +waits", out)
