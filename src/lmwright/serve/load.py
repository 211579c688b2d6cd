"""A version from the store, loaded and asked without a server.

loaded = load_version(Store(Path("lmwright-store")), "reviews@production")
for answer in answer_rows(loaded, [{"text": "A joy from start to end."}]):
    print(answer)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lmwright.core.columns import Row
from lmwright.core.predictor import Predictor
from lmwright.metrics.calibration import Calibration
from lmwright.models.core.device import DEFAULT, PACKED, resolve_placement
from lmwright.models.load import load_predictor
from lmwright.models.placement import place_or_refuse
from lmwright.serve.rows import Loaded, answer
from lmwright.store.store import Store
from lmwright.store.versions import read_version, resolve_version

ROWS_AT_ONCE = 256


def load_version(
    store: Store,
    name: str,
    device: str = "cpu",
    precision: str = "fp32",
    kv: str = "fp32",
    beside: Iterable[Predictor] = (),
    report: Callable[[str], None] = lambda line: None,
) -> Loaded:
    """The version that an alias or a hash names, with its networks placed.

    Weights that are equal to those of a predictor ``beside`` it, as those of one base are, are in
    memory once, packed ones too. ``report`` is told what fewer bits cost. BadInput says what there
    is instead, and what of ``device``, ``precision`` and ``kv`` cannot be had.
    """
    content = resolve_version(store, name)
    bound = read_version(store, content)
    predictor = load_predictor(store.artifact(bound["model"]))
    for other in beside:
        from lmwright.models.sharing import share_equal_weights  # which takes torch

        share_equal_weights(predictor, other)
    place_or_refuse(predictor, device, precision, f"{name}, a {predictor.kind} model", kv)
    for other in beside:
        from lmwright.models.sharing import share_packed_weights

        share_packed_weights(predictor, other)
    if precision in PACKED or kv != DEFAULT.kv:
        from lmwright.models.answering import tell_cost  # which takes torch

        tell_cost(predictor, resolve_placement(device, precision, kv), report)
    return Loaded(content[:16], predictor, Calibration(**bound["calibration"]))


def answer_rows(loaded: Loaded, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One answer a row, in their order, as JSON values."""
    answers: list[dict[str, Any]] = []
    for place in range(0, len(rows), ROWS_AT_ONCE):
        prepared = loaded.predictor.prepare(rows[place : place + ROWS_AT_ONCE])
        answers += [each.told for each in answer(loaded, prepared)]
    return answers
