"""Encoders and their heads against their originals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lmwright.models.decode import generate
from lmwright.models.zoo import bert, distilbert, roberta, xlm
from lmwright.text.generation import SamplingParams
from tests.parity.every import (  # noqa: F401
    test_a_folder_that_the_reference_wrote_is_read,
    test_every_wrong_spec_is_noticed,
    test_gradients_equal_the_reference,
    test_logits_equal_the_reference,
    test_logits_equal_the_reference_in_single_precision,
    test_the_config_written_is_read_back,
    test_the_reference_reads_what_is_written,
)
from tests.parity.harness import Case, compare, in_double, ours, reference

pytest.importorskip("transformers")

BERT = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "layer_norm_eps": 1e-3,
}
DISTILBERT = {
    "vocab_size": 61,
    "dim": 24,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 40,
    "max_position_embeddings": 20,
}
XLM = {
    "vocab_size": 61,
    "emb_dim": 24,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": 20,
    "layer_norm_eps": 1e-3,
}
CLASSES = {
    "lm": "MaskedLM",
    "classify": "SequenceClassification",
    "tokens": "TokenClassification",
    "spans": "QuestionAnswering",
    "choice": "MultipleChoice",
}


def five_heads(family, kind, config, **more):
    """A case for each published head."""
    return {
        f"{family.name}, {head}": Case(
            family,
            f"{kind}For{name}",
            config if head in ("spans", "lm") else {**config, "num_labels": 3},
            head,
            **more,
        )
        for head, name in CLASSES.items()
    }


CASES = {
    **five_heads(bert.FAMILY, "Bert", BERT, segments="token_type_ids"),
    **five_heads(roberta.FAMILY, "Roberta", BERT, segments="token_type_ids"),
    **five_heads(distilbert.FAMILY, "DistilBert", DISTILBERT),
    "xlm-roberta": Case(
        roberta.XLM_R,
        "XLMRobertaForMaskedLM",
        {**BERT, "type_vocab_size": 1, "pad_token_id": 3, "hidden_act": "relu"},
        "lm",
    ),
    "distilbert, sinusoids": Case(
        distilbert.FAMILY,
        "DistilBertForMaskedLM",
        {**DISTILBERT, "sinusoidal_pos_embds": True, "activation": "relu"},
        "lm",
        fixed=("distilbert.embeddings.position_embeddings.weight",),
    ),
    "xlm": Case(xlm.FAMILY, "XLMWithLMHeadModel", XLM, "lm"),
    "xlm, languages": Case(
        xlm.FAMILY,
        "XLMWithLMHeadModel",
        {**XLM, "n_langs": 4, "sinusoidal_embeddings": True, "gelu_activation": False},
        "lm",
        segments="langs",
        fixed=("transformer.position_embeddings.weight",),
    ),
    "xlm, forwards": Case(
        xlm.FAMILY,
        "XLMWithLMHeadModel",
        {**XLM, "causal": True},
        "lm",
        generates=False,
        shifts=False,
    ),
    "xlm, classify": Case(
        xlm.FAMILY, "XLMForSequenceClassification", {**XLM, "num_labels": 3}, "classify"
    ),
    "xlm, tokens": Case(
        xlm.FAMILY, "XLMForTokenClassification", {**XLM, "num_labels": 3}, "tokens"
    ),
    "xlm, spans": Case(xlm.FAMILY, "XLMForQuestionAnsweringSimple", XLM, "spans"),
    "xlm, choice": Case(xlm.FAMILY, "XLMForMultipleChoice", {**XLM, "num_labels": 3}, "choice"),
}


def test_a_causal_xlm_says_what_follows():
    """Against the reference's logits: its own ``generate`` sets a mask after every prompt, as for
    models that see both ways."""
    case = CASES["xlm, forwards"]
    model, known = reference(case), np.array([5, 17, 30])
    found = generate(
        ours(case, model), [known], SamplingParams(max_new_tokens=10), np.random.default_rng(0)
    )
    for step in found:
        with torch.no_grad(), in_double(True):
            logits = model(torch.from_numpy(known)[None]).logits[0, -1]
        assert step[0].id == int(logits.argmax())
        known = np.append(known, step[0].id)
    assert len(known) == 13 and len(set(known[3:].tolist())) > 1


@pytest.mark.parametrize("kind", ["xlm, languages", "bert"])
def test_a_text_whose_segment_nobody_says_is_read_as_in_the_reference(kind):
    """XLM's is of no language; BERT's is of the first segment."""
    case = replace(CASES.get(kind) or Case(bert.FAMILY, "BertForMaskedLM", BERT, "lm"), segments="")
    model = reference(case)
    network = ours(case, model)
    compare(case, model, network)
    stack = network.spec.stacks[0]
    other = {"none": "first", "first": "none"}[stack.embedding.default_segment]
    wrong = replace(stack, embedding=replace(stack.embedding, default_segment=other))
    setting = replace(network.spec, stacks=(wrong,))
    with pytest.raises(AssertionError):
        compare(case, model, ours(case, model, (setting, network.head_spec)))


@pytest.mark.parametrize("module", [bert, roberta, distilbert, xlm])
def test_a_config_of_every_size_comes_back(module):
    for size in module.SIZES:
        setting = module.sized(size)
        assert module.FAMILY.spec(module.FAMILY.config(setting)) == setting
