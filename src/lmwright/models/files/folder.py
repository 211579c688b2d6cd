"""A published model's folder (config.json, safetensors, a tokenizer), read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lmwright.core.durable import write_bytes, write_json
from lmwright.core.errors import BadInput, Corrupt, nearest
from lmwright.core.reading import FETCH_AGAIN, read_json_object
from lmwright.models.core.int4 import Held
from lmwright.models.core.spec import Head, ModelSpec, read_spec
from lmwright.models.family.family import Family, Weight, to_ours, to_theirs
from lmwright.models.files.weights import (
    PICKLED,
    check_fit,
    check_floating,
    read_tensors,
    refuse_pickle,
    write_tensors,
)
from lmwright.models.network.network import Network, build
from lmwright.tables import entries, resolve
from lmwright.text.tokenizer import Tokenizer, read_tokenizer

WEIGHTS = "model.safetensors"
ADAPTER = "adapter_config.json"
"""PEFT's file beside a model; transformers then reads both together."""
UNSUPPORTED = {
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "exponential_decay_length_penalty": None,
    "forced_decoder_ids": None,
    "guidance_scale": 1,
    "min_new_tokens": 0,
    "sequence_bias": None,
    "stop_strings": None,
}
"""Fields of a generation config that are not supported, with their neutral values."""


@dataclass(frozen=True)
class Described:
    """The description of a published model, without its weights.

    ``heads`` are those that its family knows. ``stop_ids`` end an answer, ``decoder_start_id`` is
    the first input of a decoder with an encoder; ``template`` is the chat template, if there is
    one. An answer's first token is ``forced_bos_id``, if that is given, and none is among
    ``banned_ids``; further settings of answers are in ``generation``.
    """

    family: Family
    config: dict[str, Any]
    spec: ModelSpec
    heads: dict[str, Head]
    stop_ids: tuple[int, ...]
    decoder_start_id: int | None
    template: str
    forced_bos_id: int | None = None
    banned_ids: tuple[int, ...] = ()
    generation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def quantised(self) -> str:
        """How the weights of the folder are quantised, in words; empty if they are whole."""
        asked = self.config.get("quantization_config")
        method = asked.get("quant_method") if isinstance(asked, dict) else None
        return "" if asked is None else f"quantised by {method or 'a method without a name'}"

    @property
    def left(self) -> str:
        """The parts and settings of the model that are not read, in words."""
        parts = [self.family.text_part.left] if self.family.text_part else []
        return ", ".join(part for part in [*parts, *unsupported(self.generation)] if part)


@dataclass(frozen=True)
class Published:
    """A published model: its description, our weights, and its heads by their use.

    Heads come with those of their weights that the folder has. ``more`` are weights that only
    generation needs. ``held`` are those of our weights that a file has quantised, as it has them.
    """

    described: Described
    weights: dict[str, Tensor]
    heads: dict[str, tuple[Head, dict[str, Tensor]]]
    tokenizer: Tokenizer
    more: dict[str, Tensor] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        """The model's family."""
        return self.described.family

    @property
    def spec(self) -> ModelSpec:
        """The model's spec."""
        return self.described.spec


def read_folder(folder: Path) -> Published:
    """Read a published folder without running anything in it.

    Its tokenizer may be in any format that ``text/formats`` reads; tokenizer.json goes first.
    BadInput: no such folder, no config, remote code, a family we do not have, only pickles, no
    tokenizer, or one with more tokens than the embedding. Corrupt: truncated, missing or extra
    tensors, wrong shapes, weights that are not finite.
    """
    described = describe_folder(folder)
    if described.quantised:
        raise BadInput(
            f"{folder / 'config.json'}: the weights are {described.quantised}",
            "weights in fp32, fp16 or bf16",
            "fetch the model that they were made from, or a GGUF file of it",
        )
    family, config, setting = described.family, described.config, described.spec
    others = family.text_part.others if family.text_part else ()
    theirs = renamed(read_shards(folder, others), family, str(folder))
    mapped = family.weights(setting)
    names = {name for weight in mapped for name in weight.theirs}
    body = {
        name: tensor
        for name, tensor in theirs.items()
        if name in names or not name.startswith(family.unread)
    }
    wanted = to_theirs(mapped, dict(build(setting).named_parameters()))
    check_fit(body, {name: tuple(each.shape) for name, each in wanted.items()}, str(folder))
    tokenizer = read_tokenizer(folder)
    check_vocabulary(tokenizer, setting, folder)
    ours = to_ours(mapped, body)
    heads = heads_of(family, config, setting, theirs, str(folder))
    more = more_of(family, setting, theirs, str(folder))
    return Published(described, ours, heads, tokenizer, more)


def describe_folder(folder: Path) -> Described:
    """Read a folder's description of its model; BadInput as :func:`read_folder`."""
    whole = read_config(folder)
    family = family_of(whole, folder)
    config = text_config(whole, family, folder)
    said = said_in(folder, config)
    start, first = said.get("decoder_start_token_id"), said.get("forced_bos_token_id")
    return Described(
        family,
        config,
        *spec_of(family, config, f"{folder / 'config.json'}"),
        stop_ids=ids_of(said.get("eos_token_id")),
        decoder_start_id=start if isinstance(start, int) else None,
        template=template_of(folder),
        forced_bos_id=first if isinstance(first, int) else None,
        banned_ids=read_banned_ids(said, folder),
        generation=generation_of(folder, config),
    )


def read_banned_ids(said: Mapping[str, Any], folder: Path) -> tuple[int, ...]:
    """Banned token ids; BadInput for banned sequences of several tokens."""
    runs = said.get("bad_words_ids") or []
    words = runs if isinstance(runs, list) else [runs]
    single = [each[0] for each in words if isinstance(each, list) and len(each) == 1]
    if len(single) < len(words):
        raise BadInput(
            f"{folder}: bad_words_ids has what is not one token",
            "single tokens that no answer may have",
            "take bad_words_ids from generation_config.json and config.json",
        )
    return tuple(dict.fromkeys([*ids_of(single), *ids_of(said.get("suppress_tokens"))]))


def said_in(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config, overridden by ``generation_config.json``."""
    generation = optional_json(folder / "generation_config.json")
    return {**config, **{name: value for name, value in generation.items() if value is not None}}


def generation_of(folder: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Generation settings: ``generation_config.json``, or the config where there is none."""
    return optional_json(folder / "generation_config.json") or config


def unsupported(generation: Mapping[str, Any]) -> list[str]:
    """Unsupported settings of a generation config, in words."""
    return [
        f"{name} {str(value)[:40]} of its generation config"
        for name, neutral in UNSUPPORTED.items()
        if (value := generation.get(name)) not in (None, neutral, [], {})
    ]


def spec_of(
    family: Family, config: Mapping[str, Any], where: str
) -> tuple[ModelSpec, dict[str, Head]]:
    """Make the spec of a config and its family's heads; BadInput for an invalid config."""
    try:
        # Through the schema, for a config may hold anything in place of a number.
        made = family.spec(config).to_json()
        try:
            setting = read_spec(made, where)
        except BadInput as error:
            raise BadInput(error.found, f"a {family.name} config", FETCH_AGAIN) from None
        return setting, {name: make(config, setting)[0] for name, make in family.heads.items()}
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise BadInput(
            f"{where}: {type(error).__name__}: {error}", f"a {family.name} config", FETCH_AGAIN
        ) from None


def text_config(whole: dict[str, Any], family: Family, folder: Path) -> dict[str, Any]:
    """The config of a text model; of a multimodal one the text's fields with its own."""
    if family.text_part is None:
        return whole
    inner = whole.get(family.text_part.config)
    if not isinstance(inner, dict):
        raise BadInput(
            f"{folder / 'config.json'} has no {family.text_part.config}",
            f"a {family.name} config",
            FETCH_AGAIN,
        )
    return {**inner, **whole}


def ids_of(value: Any) -> tuple[int, ...]:
    """Token ids of a config's field, which has one or a list."""
    values = value if isinstance(value, list) else [value]
    return tuple(each for each in values if isinstance(each, int))


def optional_json(path: Path) -> dict[str, Any]:
    """A JSON object that may be absent."""
    return read_json_object(path) if path.is_file() else {}


def template_of(folder: Path) -> str:
    """Read a folder's chat template; empty without one."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text("utf-8")
    found = optional_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):
        named = {e["name"]: e["template"] for e in found if isinstance(e, dict) and "name" in e}
        found = named.get("default")
    return found if isinstance(found, str) else ""


def write_folder(
    folder: Path,
    family: Family,
    network: Network,
    head: str = "",
    tokenizer: Tokenizer | None = None,
    said: Mapping[str, Any] | None = None,
) -> None:
    """Write config and weights under the family's published names, which others read.

    ``head`` is the use of the network's head (``lm``), as the family names it; ``said`` are fields
    of the config beside the network (``eos_token_id``, ``id2label``). BadInput for a head that
    the family does not have, that is not the network's, or that shares otherwise than it can say.
    """
    setting, weights = network.spec, dict(network.named_parameters())
    config = {**family.config(setting), **(said or {})}
    if head in family.classes:
        config["architectures"] = [family.classes[head]]
    tensors = to_theirs(family.weights(setting), weights)
    if head:
        if head not in family.heads:
            raise BadInput(
                f"a {family.name} model with the head {head!r}",
                "one of its heads",
                nearest(head, family.heads),
            )
        config["tie_word_embeddings"] = bool(network.head_spec and network.head_spec.share)
        if tables(family.spec(config)) != tables(setting):
            raise BadInput(
                f"a head {head!r} that does not go with how many tables of tokens there are",
                f"both as a {family.name} config can say it",
            )
        own, names = family.heads[head](config, setting)
        if network.head_spec is None or alike(own) != alike(network.head_spec):
            raise BadInput(f"another head than {head!r} of {family.name}", "that one")
        tensors = {f"{family.prefix}{name}": tensor for name, tensor in tensors.items()}
        tensors |= to_theirs(names, weights)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    write_tensors(folder / WEIGHTS, {name: tensor.clone() for name, tensor in tensors.items()})
    if tokenizer is not None:
        write_bytes(folder / "tokenizer.json", tokenizer.data)


def tables(setting: ModelSpec) -> set[str]:
    """Share keys of a network's token tables."""
    return {s.embedding.share for s in setting.stacks if s.embedding.vocabulary}


def alike(head: Head) -> Head:
    """A head without its dropout."""
    return replace(head, dropout=0.0)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the folder's ``config.json``.

    BadInput if it asks for remote code, and where an adapter lies beside it, with which other
    software would read another model.
    """
    refuse_pickle(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise BadInput(
            f"no config.json in {folder}", "a model's folder", "check the path, or fetch it again"
        )
    config = read_json_object(path)
    if "auto_map" in config:
        raise BadInput(
            f"{path} asks to run code that comes with the model (auto_map)",
            "a model that our own code can run",
            "use a model without auto_map",
        )
    if (folder / ADAPTER).is_file():
        raise BadInput(
            f"{folder} has an adapter ({ADAPTER}), which is not read",
            "weights that the adapter is merged into",
            f"merge it with the software that made it, or take {ADAPTER} away to read the model "
            "without it",
        )
    return config


def family_of(config: Mapping[str, Any], folder: Path) -> Family:
    """Look up the config's family."""
    name = config.get("model_type")
    known = entries("families")
    if name not in known:
        # A name that is merely near is another family's, and its model would not work.
        swapped = [each for each in known if sorted(each) == sorted(str(name))]
        raise BadInput(
            f"{folder / 'config.json'}: no family is called {name!r}",
            "a family that lmwright has: " + ", ".join(sorted(known)),
            f"did you mean {swapped[0]!r}?" if swapped else "take a model of one of these",
        )
    return resolve("families", str(name))


def read_shards(folder: Path, others: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Read all tensors of the folder, from one file or from the shards that an index names, but for
    those whose names begin as one of ``others`` does. Corrupt for a shard that holds others than
    the index says, so that none is there twice."""
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        places = read_json_object(index).get("weight_map", {})
        if any(Path(str(name)).name != name for name in places.values()):
            raise BadInput(f"{index} names a file outside its folder", "names of files beside it")
        found: dict[str, Tensor] = {}
        for shard in sorted(set(places.values())):
            tensors = read_tensors(folder / shard, others)
            told = {n for n, at in places.items() if at == shard and not n.startswith(others)}
            if odd := sorted(told ^ tensors.keys()):
                raise Corrupt(
                    f"{folder / shard} {'lacks' if odd[0] in told else 'holds'} {odd[0]}",
                    f"what {index.name} says that it holds",
                    FETCH_AGAIN,
                )
            found |= tensors
        return found
    if not (folder / WEIGHTS).is_file():
        for path in sorted(folder.iterdir()):
            if path.suffix in PICKLED:
                refuse_pickle(path)
    return read_tensors(folder / WEIGHTS, others)


def renamed(theirs: Mapping[str, Tensor], family: Family, where: str) -> dict[str, Tensor]:
    """Rename tensors as in today's checkpoints without a head; Corrupt for two of one name."""
    found: dict[str, Tensor] = {}
    outer = family.text_part.prefixes if family.text_part else ()
    for written, tensor in theirs.items():
        name = written
        for prefix in outer:
            name = name.removeprefix(prefix)
        for old, new in family.former.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        name = name.removeprefix(family.prefix)
        if name in found:
            raise Corrupt(
                f"{where}: {name} is there twice, also as {written}", "one of them", FETCH_AGAIN
            )
        found[name] = tensor
    return found


def heads_of(
    family: Family,
    config: Mapping[str, Any],
    setting: ModelSpec,
    theirs: Mapping[str, Tensor],
    where: str,
) -> dict[str, tuple[Head, dict[str, Tensor]]]:
    """The family's heads of which the folder has weights, or that have none of their own."""
    found = {}
    for name, make in family.heads.items():
        head, weights = make(config, setting)
        own = [
            replace(w, theirs=tuple(t.removeprefix(family.prefix) for t in w.theirs))
            for w in weights
        ]
        here = [weight for weight in own if all(each in theirs for each in weight.theirs)]
        if here or not own:
            found[name] = head, made_of(here, theirs, where)
    return found


def more_of(
    family: Family, setting: ModelSpec, theirs: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Weights of the generation spec alone, as far as the folder has them."""
    names = {weight.ours for weight in family.weights(setting)}
    more = [
        weight
        for weight in family.weights(family.generation_spec(setting))
        if weight.ours not in names
    ]
    return made_of([w for w in more if all(each in theirs for each in w.theirs)], theirs, where)


def made_of(weights: list[Weight], theirs: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Make our weights of a checkpoint's tensors; Corrupt for one that is not floating point."""
    check_floating(theirs, (name for weight in weights for name in weight.theirs), where)
    return to_ours(weights, theirs)


def check_vocabulary(tokenizer: Tokenizer, setting: ModelSpec, where: Path) -> None:
    """Raise BadInput if the tokenizer has an id that the embedding does not have."""
    rows = min(s.embedding.vocabulary for s in setting.stacks if s.embedding.vocabulary)
    check_rows(tokenizer, rows, where)


def check_rows(tokenizer: Tokenizer, rows: int, where: Path) -> None:
    """Raise BadInput if the tokenizer has an id beyond ``rows``."""
    if tokenizer.highest() >= rows:
        raise BadInput(
            f"{where}: the tokenizer's ids go up to {tokenizer.highest()}",
            f"at most {rows - 1}, as the embedding has {rows} rows",
            "take tokenizer and weights from the same model",
        )
