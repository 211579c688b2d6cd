"""Language models of families that are not of our core: their networks are run by transformers.

Of the folder transformers sees nothing: config, weights and tokenizer are read and checked here,
and handed over as values, so neither code nor a pickle nor another address can come from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmwright.core.errors import BadInput, Corrupt, MissingPart, nearest
from lmwright.core.reading import FETCH_AGAIN
from lmwright.models.blocks.context import Cache
from lmwright.models.blocks.pages import Pool
from lmwright.models.core.device import PACKED, Placement
from lmwright.models.core.ragged import Ragged
from lmwright.models.files.folder import (
    check_rows,
    generation_of,
    ids_of,
    read_banned_ids,
    read_config,
    read_shards,
    said_in,
    template_of,
    unsupported,
)
from lmwright.models.files.weights import some
from lmwright.models.generation import Generation, read_generation_config
from lmwright.models.network.network import Batch
from lmwright.models.text_model import LONGEST, TextModel
from lmwright.tables import entries
from lmwright.text.tokenizer import read_tokenizer

KEPT = "transformers"
PROBE = 5
"""Tokens of the probe of incremental decoding."""
CLOSE = 1e-3


def is_foreign(folder: Path) -> bool:
    """Whether a folder's config names a family that is not ours."""
    kind = read_config(folder).get("model_type")
    return isinstance(kind, str) and kind not in entries("families")


def foreign_model(folder: Path, report: Callable[[str], None]) -> TextModel[Foreign]:
    """The language model in a folder of such a family, in fp32 on the CPU; told to ``report``.

    MissingPart without transformers. BadInput: what transformers has no causal language model for
    or cannot build, quantised weights, one whose answers depend on how its text is cut, a tokenizer
    with more tokens than the embedding. Corrupt: weights that are not those of the config.
    """
    config = read_config(folder)
    kind, where = str(config["model_type"]), str(folder / "config.json")
    model = loaded(kind, config, read_shards(folder), where)
    report(f"{kind} is not of lmwright's core; it runs through transformers")
    network = Foreign(model)
    check_reading(network, where)
    tokenizer = read_tokenizer(folder)
    check_rows(tokenizer, model.get_input_embeddings().weight.shape[0], folder)
    said = said_in(folder, config)
    settings = generation_of(folder, config)
    for each in unsupported(settings):
        report(f"{each} is left unread")
    generation = Generation(
        stop_ids=ids_of(said.get("eos_token_id")),
        banned_ids=read_banned_ids(said, folder),
        config=read_generation_config(settings),
        template=template_of(folder),
    )
    return TextModel(network, tokenizer, network.longest or LONGEST, generation)


class Foreign:
    """A causal language model of transformers as a ``CausalLM``.

    Each document is a forward pass of its own, with its own cache.
    """

    streams: tuple[str, ...] = ("decoder",)
    two_streams = False
    is_causal_lm = True
    batch_invariant = False

    def __init__(self, model: Any) -> None:
        self.model = model
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.longest = longest if isinstance(longest, int) and longest > 0 else None
        takes = inspect.signature(model.forward).parameters
        self.how = {
            "use_cache": True,
            **({"logits_to_keep": 1} if "logits_to_keep" in takes else {}),
        }

    def place(self, placement: Placement) -> None:
        """Move the model to a device; under bf16 its weights are rounded, as nobody trains it.

        BadInput for int8 and int4 and for a precision of keys and values, which only our networks
        have, and to go back to fp32, whose
        bits are gone by then.
        """
        if placement.precision in PACKED:
            raise BadInput(
                f"precision is {placement.precision}, and transformers runs this network",
                "auto, fp32 or bf16",
            )
        if placement.kv != "fp32":
            raise BadInput(f"kv is {placement.kv}, and transformers runs this network", "fp32")
        if self.model.dtype != torch.float32 and placement.precision == "fp32":
            raise BadInput("fp32 of weights that were rounded to bf16", "the model, loaded again")
        self.model.to(device=placement.torch_device, dtype=placement.dtype)

    def new_pool(self, most: int | None = None) -> Pool:
        """Memory for nothing: transformers has caches of its own."""
        return Pool()

    def next(self, batch: Batch, cache: Cache | None) -> Tensor:
        """Next-token logits (documents, vocabulary) of each document."""
        rows_nv, own = self.rows(batch, cache, self.how)
        return own.as_packed(torch.stack([each[-1] for each in rows_nv]))

    def every(self, batch: Batch, cache: Cache | None) -> Tensor:
        """Next-token logits (n, vocabulary) after every token."""
        return torch.cat(self.rows(batch, cache, {"use_cache": True})[0])

    def rows(
        self, batch: Batch, cache: Cache | None, how: dict[str, Any]
    ) -> tuple[list[Tensor], Ragged]:
        """The logits that each document's pass gives, and the batch where the model is."""
        if not isinstance(batch, Ragged):
            raise TypeError("this network reads one stream")
        batch = batch.to(self.model.device)
        past = None if cache is None else cache.entries.get(KEPT)
        rows, kept = [], []
        for place, (first, end) in enumerate(batch.spans()):
            own = None if past is None else past.caches[place]
            stream = self.stream(batch, first, end)
            found = self.model(**stream, past_key_values=own, **how)
            rows.append(found.logits[0].float())
            kept.append(found.past_key_values)
        if cache is not None:
            cache.entries[KEPT] = Caches(tuple(kept))
            cache.advance(batch)
        return rows, batch

    def hidden(self, batch: Batch) -> Tensor:
        """The last hidden states (n, d) of a stream's tokens."""
        if not isinstance(batch, Ragged):
            raise TypeError("this network reads one stream")
        batch = batch.to(self.model.device)
        rows = []
        for first, end in batch.spans():
            found = self.model(**self.stream(batch, first, end), output_hidden_states=True)
            rows.append(found.hidden_states[-1][0].float())
        return torch.cat(rows)

    def stream(self, batch: Ragged, first: int, end: int) -> dict[str, Tensor]:
        """Rows of a stream as transformers takes them: ids, or vectors if the batch has any."""
        if not batch.vectors:
            return {"input_ids": batch.tokens_n[None, first:end]}
        x_nd = batch.with_vectors(self.model.get_input_embeddings()(batch.tokens_n))
        return {"inputs_embeds": x_nd[None, first:end]}


@dataclass(frozen=True)
class Caches:
    """The caches of transformers, one a document; a forward pass changes them in place."""

    caches: tuple[Any, ...]
    changes_in_place = True

    def choose(self, places: Sequence[int]) -> Caches:
        """The caches of some documents; one that is repeated is copied."""
        taken = [place in places[:number] for number, place in enumerate(places)]
        pairs = zip(places, taken, strict=True)
        return Caches(
            tuple(deepcopy(self.caches[p]) if again else self.caches[p] for p, again in pairs)
        )

    def join(self, other: Caches) -> Caches:
        """The caches of the documents of both."""
        return Caches((*self.caches, *other.caches))


def loaded(kind: str, config: Mapping[str, Any], weights: dict[str, Tensor], where: str) -> Any:
    """The model that transformers builds from a config and weights."""
    try:
        import transformers
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES,
        )
        from transformers.utils import logging
    except ImportError:
        raise MissingPart(
            f"{where}: {kind!r} is not of lmwright's core, and transformers is not installed",
            "transformers, or a family that lmwright has",
            "pip install -c constraints.txt -e '.[hf]'",
        ) from None
    if kind in CONFIG_MAPPING and kind not in NAMES:
        raise BadInput(
            f"{where}: transformers has {kind!r}, but not as a causal language model",
            "a causal language model, or a family that lmwright has",
            "see docs/families.md for those",
        )
    if kind not in NAMES:
        raise BadInput(
            f"{where}: neither lmwright nor transformers has a family {kind!r}",
            "a family that one of them has",
            nearest(kind, {*entries("families"), *NAMES}),
        )
    if "quantization_config" in config:
        raise BadInput(
            f"{where}: quantised weights ({config['quantization_config']})"[:300],
            "weights in fp32, fp16 or bf16",
            "fetch the model that they were made from",
        )
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = getattr(transformers, NAMES[kind]).from_pretrained(
            None,
            config=CONFIG_MAPPING[kind].from_dict(dict(config)),
            state_dict=weights,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except Exception as error:  # whatever a config can make strange code raise
        line = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInput(
            f"{where}: transformers cannot build it ({line[:300]})", f"a {kind} model", FETCH_AGAIN
        ) from error
    for what in ("missing", "unexpected", "mismatched"):
        if names := sorted(map(str, report[f"{what}_keys"])):
            raise Corrupt(
                f"{where}: {what} weights {some(names)}", f"those of a {kind}", FETCH_AGAIN
            )
    return model.eval()


@torch.inference_mode()
def check_reading(network: Foreign, where: str) -> None:
    """BadInput unless incremental decoding gives the logits of one forward pass."""
    takes = inspect.signature(network.model.forward).parameters
    if "past_key_values" not in takes:
        raise BadInput(f"{where}: a model that keeps no keys and values", "a decoder that does")
    rows = network.model.get_input_embeddings().weight.shape[0]
    tokens_1n = (torch.arange(PROBE) % rows)[None]
    whole_nv = network.model(input_ids=tokens_1n).logits[0]
    own, found = None, []
    for place in range(PROBE):
        said = network.model(
            input_ids=tokens_1n[:, place : place + 1], past_key_values=own, use_cache=True
        )
        own = said.past_key_values
        found.append(said.logits[0, -1])
        if own is None:
            raise BadInput(f"{where}: a model that keeps no keys and values", "a decoder that does")
    apart = float((torch.stack(found) - whole_nv).abs().max())
    if not apart <= CLOSE * max(1.0, float(whole_nv.abs().max())):
        raise BadInput(
            f"{where}: read token by token it says something else than read at once",
            "a decoder that reads forwards",
            "take a causal language model",
        )
