"""A version from the store, loaded and asked without a server.

loaded = load_version(Store(Path("lmwright-store")), "reviews@production")
for answer in classify(loaded, ["A joy from start to end."]):
    print(answer.label, answer.probabilities)
"""

from __future__ import annotations

from collections.abc import Sequence

from lmwright.models.calibration import Calibration
from lmwright.models.model import load_model
from lmwright.serve.engine import Answer, Loaded, answer
from lmwright.store.store import Store
from lmwright.store.versions import read_version, resolve_version

TEXTS_AT_ONCE = 256


def load_version(store: Store, name: str) -> Loaded:
    """The version that an alias or a hash names. BadInput says what there is instead."""
    content = resolve_version(store, name)
    bound = read_version(store, content)
    model = load_model(store.artifact(bound["model"]))
    return Loaded(content[:16], model, Calibration(**bound["calibration"]))


def classify(loaded: Loaded, texts: Sequence[str]) -> list[Answer]:
    """One answer a text, in their order."""
    answers: list[Answer] = []
    for place in range(0, len(texts), TEXTS_AT_ONCE):
        answers += answer(loaded, loaded.model.prepare(texts[place : place + TEXTS_AT_ONCE]))
    return answers
