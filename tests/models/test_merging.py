"""What merging changes is measured in the precision that serves, and judged by the gate."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from lmwright.core.errors import BadInput
from lmwright.loop.gate import Gate, Judged, Merging
from lmwright.loop.gate import merging as condition
from lmwright.metrics.calibration import Calibration
from lmwright.models.core.device import DEFAULT, Placement
from lmwright.models.core.ragged import pack
from lmwright.models.core.spec import Head
from lmwright.models.files.folder import read_folder
from lmwright.models.merging import cost_of_merging
from lmwright.models.network.merge import merged
from lmwright.models.text_model import TextModel, TextPredictor, from_published, language_model
from lmwright.models.tunes.lora import LoRA
from tests.parity.test_lora import trained
from tests.serve.talking import write_model
from tests.train.conftest import TASK
from tests.whole.test_adapters import write_start

TEXTS = ["A joy from start to end.", "Dull.", "Far too long, and then it ends."]


def writer(folder: Path, **tune: object) -> TextModel:
    """A tiny language model with adapters as if they had learnt."""
    model = language_model(read_folder(write_model(folder / "model")))
    LoRA(rank=2, **tune).apply(model.network, seed=1)  # type: ignore[arg-type]
    trained(model.network)
    return model


def classifier(folder: Path, outputs: int = 2, **tune: object) -> TextModel:
    """A tiny classifier with adapters as if they had learnt."""
    published = read_folder(write_start(folder / "start"))
    model = from_published(published, Head(pool="mean", outputs=outputs), 24, seed=1)
    LoRA(rank=2, **tune).apply(model.network, seed=1)  # type: ignore[arg-type]
    trained(model.network)
    return model


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_the_divergence_is_that_of_the_merged_network(precision, tmp_path):
    model = writer(tmp_path)
    found = cost_of_merging(model, TEXTS, precision)
    assert model.network.placement == DEFAULT
    whole, nats = merged(model.network), []
    for each in (model.network, whole):
        each.place(Placement("cpu", precision))
    with torch.inference_mode():
        for text in TEXTS:
            batch = pack([model.document(text, closed=False)])
            p, q = (each(batch).double().log_softmax(-1) for each in (model.network, whole))
            nats.append((p.exp() * (p - q)).sum(-1))
    assert found.count == sum(map(len, nats)) and found.precision == f"merged, in {precision}"
    assert found.kl_mean == pytest.approx(float(torch.cat(nats).mean()), rel=1e-2, abs=1e-7)
    assert "beside the adapters on" in str(found)
    assert found.kl_mean < (1e-6 if precision == "fp32" else 0.1) and found.equal > 0.8


def test_a_base_in_fewer_bits_is_merged_into_what_it_stands_for(tmp_path):
    found = cost_of_merging(writer(tmp_path, base="bf16"), TEXTS, "fp32")
    assert 1e-9 < found.kl_mean < 0.05, "products in bf16 beside those in fp32 of the same weights"


def test_labels_are_distributions_and_numbers_have_states(tmp_path):
    found = cost_of_merging(classifier(tmp_path), TEXTS, "fp32")
    assert found.count == len(TEXTS) and found.kl_mean < 1e-6 and found.equal == 1.0
    number = cost_of_merging(classifier(tmp_path, outputs=1), TEXTS, "bf16")
    assert number.kl_mean is None and 0.99 < number.cosine_least <= 1.0


def test_what_cannot_be_measured(tmp_path):
    model = writer(tmp_path)
    with pytest.raises(BadInput, match="no texts"):
        cost_of_merging(model, [], "fp32")
    assert cost_of_merging(model.with_network(merged(model.network), 24), TEXTS, "fp32") is None


def rows(count: int = 5) -> pa.Table:
    return pa.table({"text": [TEXTS[n % 3] for n in range(count)]})


@pytest.mark.parametrize(
    ("asked", "passed", "words"),
    [
        (Merging(), True, "at most 0.001 nats, at least 99%"),
        (Merging(kl=0.0, precision="bf16"), False, "merged, in bf16 beside the adapters"),
    ],
)
def test_the_gate_asks_for_it(asked, passed, words, tmp_path):
    predictor = TextPredictor(TASK, classifier(tmp_path))
    found = condition(asked, TASK, Judged(predictor, Calibration(1.0), 0, frozenset()), rows())
    assert (found.passed, found.name) == (passed, "merging") and words in found.reason
    assert found.evidence["count"] == 5


def test_the_gate_says_what_was_not_measured(tmp_path):
    model = classifier(tmp_path, outputs=2)
    plain = TextPredictor(TASK, model.with_network(merged(model.network), 24))
    judged = Judged(plain, Calibration(1.0), 0, frozenset())
    found = condition(Merging(), TASK, judged, rows())
    assert found.passed and found.reason == "the model has no adapters"


def test_a_gate_without_it_is_known_as_before():
    assert "merging" not in Gate().to_json()
    assert Gate(merging=Merging()).to_json()["merging"]["precision"] == "fp32"


@pytest.mark.parametrize("bad", [{"kl": -1.0}, {"equal": 1.5}, {"rows": 0}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(BadInput, match=r"gate\.merging has"):
        Gate(merging=Merging(**bad)).check()
