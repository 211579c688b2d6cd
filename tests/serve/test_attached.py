"""An engine on weights that learn: it answers with those of the moment, which are told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmwright.core.random import stream
from lmwright.kernels.library import available
from lmwright.models.core.device import Placement
from lmwright.models.text_model import TextModel
from lmwright.serve.attached import Attached, Sample, distances
from lmwright.text.generation import SamplingParams
from tests.serve.test_paging import drawn, eight  # noqa: F401 - a fixture

TOKENS = 30


def answered(model: TextModel, engine: Attached, version: int) -> tuple[list, list[Sample]]:
    prompts = [np.array(drawn(model, 70 + 3 * n, 1)) for n in range(4)]
    params = [SamplingParams(TOKENS, temperature=0.8, top_k=20, stop_ids=(5, 7, 11))] * 4
    return prompts, engine.answers(prompts, params, [1, 2, 3, 4], version)


def reference(model: TextModel, prompt: np.ndarray, params: SamplingParams, seed: int) -> list:
    return list(model.generate(prompt, params, stream(seed, "answer", 0)))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_weights_that_learn_answer(eight: TextModel, precision: str) -> None:  # noqa: F811
    if precision == "int8" and not available():
        pytest.skip("this machine lacks a C compiler, by which the kernels are built")
    model = eight
    model.network.place(Placement("cpu", precision))  # type: ignore[arg-type]
    before = {name: each.clone() for name, each in model.network.named_parameters()}
    try:
        with Attached(model) as engine:
            prompts, first = answered(model, engine, 0)
            again = answered(model, engine, 0)[1]
            with torch.no_grad():
                for each in model.network.parameters():
                    each.mul_(1.03)
            second = answered(model, engine, 1)[1]
            assert [each.version for each in (*first, *second)] == [0] * 4 + [1] * 4
            assert [each.text for each in first] == [each.text for each in again]
            assert [each.text for each in first] != [each.text for each in second]
            apart = distances(model, prompts, second)
            stale = distances(model, prompts, first)
        params = SamplingParams(TOKENS, temperature=0.8, top_k=20, stop_ids=(5, 7, 11))
        for seed, (prompt, each) in enumerate(zip(prompts, second, strict=True), start=1):
            wanted = reference(model, prompt, params, seed)
            sampled = [token.sampled for token in wanted if token.sampled is not None]
            assert each.ids.tolist() == [one.id for one in sampled][: len(each.ids)]
            assert np.allclose(
                each.drawn_logprobs,
                [one.drawn_logprob for one in sampled][: len(each.ids)],
                atol=1e-4,
            )
            assert each.ended == (each.ids[-1] in params.stop_ids)
            assert len(each.logprobs) == len(each.ids) <= TOKENS
        assert len(apart) == sum(len(each.ids) for each in second)
        # Passes of the kernels have the same bits whole and a token at a time.
        assert apart.max() == 0 if precision == "int8" else apart.max() < 1e-4
        assert stale.max() > 1e-3, "answers of other weights are told apart"
    finally:
        with torch.no_grad():
            for name, each in model.network.named_parameters():
                each.copy_(before[name])
        model.network.place(Placement("cpu", "int8"))


def test_no_prompts_are_no_answers(eight: TextModel) -> None:  # noqa: F811
    with Attached(eight) as engine:
        assert engine.answers([], [], [], 0) == []
