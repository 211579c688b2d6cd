"""Encoders with decoders against their originals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmwright.models.core.ragged import pack
from lmwright.models.zoo import bart, blenderbot, m2m100, marian, mbart
from tests.parity.every import (  # noqa: F401
    test_a_folder_that_the_reference_wrote_is_read,
    test_every_wrong_spec_is_noticed,
    test_generated_tokens_equal_the_reference,
    test_gradients_equal_the_reference,
    test_logits_equal_the_reference,
    test_logits_equal_the_reference_in_single_precision,
    test_the_config_written_is_read_back,
    test_the_reference_reads_what_is_written,
)
from tests.parity.harness import Case, documents, in_double, ours, reference

pytest.importorskip("transformers")

SIDES = {
    "vocab_size": 61,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 36,
    "decoder_ffn_dim": 30,
    "max_position_embeddings": 20,
    "decoder_start_token_id": 2,
    "eos_token_id": 3,
}
TABLES = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")


def conditional(family, kind, config, **more):
    """The case of a language model."""
    return Case(family, f"{kind}ForConditionalGeneration", config, "lm", pairs=True, **more)


CASES = {
    "mbart": conditional(
        mbart.FAMILY, "MBart", {**SIDES, "scale_embedding": True, "activation_function": "relu"}
    ),
    "marian": Case(
        marian.FAMILY,
        "MarianMTModel",
        {**SIDES, "scale_embedding": True, "activation_function": "swish", "pad_token_id": 0},
        "lm",
        pairs=True,
        fixed=TABLES,
    ),
    "marian, two vocabularies": Case(
        marian.FAMILY,
        "MarianMTModel",
        {**SIDES, "pad_token_id": 0, "decoder_vocab_size": 67}
        | {"share_encoder_decoder_embeddings": False},
        "lm",
        pairs=True,
        fixed=TABLES,
    ),
    "m2m_100": conditional(m2m100.FAMILY, "M2M100", SIDES),
    "m2m_100, padding": conditional(
        m2m100.FAMILY, "M2M100", {**SIDES, "pad_token_id": 3, "scale_embedding": False}
    ),
    "blenderbot": conditional(
        blenderbot.FAMILY,
        "Blenderbot",
        {**SIDES, "scale_embedding": True},
        generation={"encoder_no_repeat_ngram_size": 0},
    ),
    "blenderbot-small": conditional(blenderbot.SMALL, "BlenderbotSmall", SIDES),
}


@pytest.mark.parametrize(("family", "kind"), [(bart.FAMILY, "Bart"), (mbart.FAMILY, "MBart")])
def test_a_classifier_of_the_last_token_equals_the_reference(family, kind):
    """It reads the document twice, in the decoder one token late."""
    config = {**SIDES, "num_labels": 3}
    case = Case(family, f"{kind}ForSequenceClassification", config, "classify", pairs=True)
    model = reference(case)
    network = ours(case, model)
    texts = [np.append(text, config["eos_token_id"]) for text in documents(case)]
    late = [np.append(config["decoder_start_token_id"], text[:-1]) for text in texts]
    with torch.no_grad():
        found = network({"encoder": pack(texts), "decoder": pack(late)})
        for left, source, target in zip(found, texts, late, strict=True):
            ids, shifted = (torch.from_numpy(each)[None] for each in (source, target))
            with in_double(True):
                right = model(input_ids=ids, decoder_input_ids=shifted).logits[0]
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("module", [bart, mbart, marian, m2m100, blenderbot])
def test_a_config_of_every_size_comes_back(module):
    for size in module.SIZES:
        setting = module.sized(size)
        family = module.SMALL if size == "90m" else module.FAMILY
        assert family.spec(family.config(setting)) == setting
