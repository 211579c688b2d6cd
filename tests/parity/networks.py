"""A tiny network of every family, with a batch for it; two more have what no language model has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lmwright.models.core.ragged import pack
from lmwright.models.core.spec import Head, ModelSpec
from lmwright.models.network.initialise import Initialisation, initialise
from lmwright.models.network.network import Batch, Network, build
from lmwright.models.zoo import elmo
from tests.parity import harness

pytest.importorskip("transformers")

from tests.parity import (
    test_decoders,
    test_encoders,
    test_families,
    test_papers,
    test_recurrent,
    test_seq2seq,
    test_xlnet,
)

Made = tuple[Network, Batch]


def drawn(setting: ModelSpec, head: Head) -> Network:
    """A network in fp64 with weights drawn wide."""
    network = build(setting, head)
    initialise(network, 3, Initialisation("normal", harness.STD))
    return network.double()


def of_case(case: harness.Case) -> Made:
    network = drawn(*harness.specs(case))
    return network, harness.batch_of(case, network, harness.documents(case))


def of_paper(paper: test_papers.Paper) -> Made:
    setting = paper.family.spec(paper.config)
    return drawn(setting, paper.family.heads["lm"](paper.config, setting)[0]), pack(
        test_papers.documents()
    )


def of_elmo() -> Made:
    setting = test_recurrent.BOTH
    head, _ = elmo.language_model({}, setting)
    return drawn(setting, head), pack(test_recurrent.texts_of(31))


def of_text_cnn() -> Made:
    setting = test_recurrent.text_cnn(31, 6, (3, 4), 7)
    texts = [np.arange(length) for length in (5, 1, 9)]
    return drawn(setting, Head(pool="max", outputs=3)), pack(texts)


def made() -> dict[str, Callable[[], Made]]:
    """The first case of each family, a head with a dense map, and a convolution."""
    found: dict[str, Callable[[], Made]] = {"elmo": of_elmo, "text cnn": of_text_cnn}
    dense = test_encoders.CASES["bert, classify"]
    found["bert, classify"] = lambda: of_case(dense)
    for module in (test_families, test_decoders, test_encoders, test_seq2seq, test_xlnet):
        for case in module.CASES.values() if hasattr(module, "CASES") else ():
            found.setdefault(case.family.name, lambda case=case: of_case(case))  # type: ignore[misc]
    for name, paper in test_papers.PAPERS.items():
        found[name] = lambda paper=paper: of_paper(paper)  # type: ignore[misc]
    return found


NETWORKS = made()
