"""The README.md of an exported model: how others load it, and what is not in its weights."""

from __future__ import annotations

from lmwright.metrics.calibration import NEVER, Calibration
from lmwright.models.family.family import BODY, Family
from lmwright.models.text_model import TextPredictor

LOADERS = {
    BODY: "SentenceTransformer",
    "classify": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "lm": "AutoModelForCausalLM",
}
"""The class that loads a folder, by the use of its head."""
SENTENCE = """\
The head is one linear map of the mean over the tokens (special ones too). No class of transformers
has it: **`AutoModelForSequenceClassification` would draw another head, untrained.** `AutoModel`
loads the body; with sentence-transformers the folder gives the logits:

```python
from sentence_transformers import SentenceTransformer

logits = SentenceTransformer("FOLDER").encode(["A text."])  # (texts, labels)
```

Without it: the mean of `last_hidden_state` over the tokens of a text, times the transposed
`linear.weight` of `2_Dense/model.safetensors`, plus `linear.bias`.
"""
AUTO = """\
```python
from transformers import AutoTokenizer, LOADER

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = LOADER.from_pretrained("FOLDER")
```
"""
ONNX_READER = """\
```python
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
session = onnxruntime.InferenceSession("FOLDER/model.onnx")
inputs = tokenizer(["a text"], return_tensors="np", padding=True)
(logits,) = session.run(None, dict(inputs))
```
"""
ADAPTER = """\
Adapters for PEFT; they stand on the model BASE, by the hash of its artifact (`lmwright lineage` has
the address that it was read from).

```python
from peft import PeftModel
from transformers import LOADER

model = PeftModel.from_pretrained(LOADER.from_pretrained("the base"), "FOLDER")
```
"""
MEAN_MAP = """\
The head is one linear map of the mean over the tokens, `2_Dense/model.safetensors`: the mean of
`last_hidden_state`, times the transposed `linear.weight`, plus `linear.bias`.
"""
NOT_THERE = """\
transformers has no {family} models; lmwright reads the folder.
"""


def readme(
    name: str,
    predictor: TextPredictor,
    family: Family,
    use: str,
    calibration: Calibration,
    as_onnx: bool,
) -> str:
    """The text for a model that was exported as ``name`` with the published head ``use``."""
    model = predictor.model
    loader = "AutoModelForSeq2SeqLM" if use == "lm" and model.has_encoder else LOADERS[use]
    loaded = SENTENCE if use == BODY else AUTO.replace("LOADER", loader)
    loaded = ONNX_READER if as_onnx else loaded
    told = [
        f"# {name}\n",
        f"A {family.name} model for {predictor.task.kind}, written by `lmwright export`.\n",
        loaded if family.classes else NOT_THERE.format(family=family.name),
        beside_weights(predictor, calibration),
    ]
    return "\n".join(told)


def adapter_readme(
    name: str, predictor: TextPredictor, use: str, base: str, calibration: Calibration
) -> str:
    """The text for adapters that were exported as ``name``, with a head of this use."""
    model = predictor.model
    loader = "AutoModelForSeq2SeqLM" if use == "lm" and model.has_encoder else LOADERS.get(use, "")
    loader = "AutoModel" if use == BODY else loader or "AutoModelForQuestionAnswering"
    told = [
        f"# {name}\n",
        f"Adapters for {predictor.task.kind}, written by `lmwright export`.\n",
        ADAPTER.replace("LOADER", loader).replace("BASE", f"`{base}`"),
        *([MEAN_MAP] if use == BODY and model.outputs else []),
        beside_weights(predictor, calibration),
    ]
    return "\n".join(told)


def beside_weights(predictor: TextPredictor, calibration: Calibration) -> str:
    """What others have to be told beside the weights."""
    model, names = predictor.model, predictor.task_model.output_names()
    steps = ", ".join(getattr(predictor.task, "clean", ()))
    told = [
        "## What is not in the weights\n",
        f"- A text is read up to {model.max_tokens:,} tokens.",
    ]
    if steps:
        told.append(f"- Before it is read a text passes lmwright's steps: {steps} (`task.json`).")
    if names:
        told.append("- The outputs, in their order: " + ", ".join(names) + ".")
        told.append(calibrated(calibration))
    return "\n".join(told) + "\n"


def calibrated(calibration: Calibration) -> str:
    """What lmwright does with the logits, in words."""
    said = (
        "- `calibration.json` is for you to apply: probabilities are "
        f"(1 - s) · softmax(logits / {calibration.temperature:.4g}) + s / labels, with "
        f"s = {calibration.smoothing:.4g}"
    )
    if calibration.threshold >= NEVER:
        return said + "; lmwright answers every text with “unsure”."
    if calibration.threshold > 0:
        least = calibration.threshold
        return said + f"; below {least:.4g} for the likeliest, lmwright answers “unsure”."
    return said + "."
