"""Export of a model to a folder that others read, of its adapters, or to a GGUF file."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from lmwright.core.durable import TEMPORARY, commit_folder, write_bytes, write_json
from lmwright.core.errors import BadInput, Corrupt, nearest
from lmwright.core.predictor import Predictor
from lmwright.core.task import task_to_json
from lmwright.metrics.calibration import Calibration
from lmwright.models.adapted import AdaptedPredictor
from lmwright.models.core.spec import ModelSpec
from lmwright.models.family.family import BODY, Family
from lmwright.models.files.folder import UNSUPPORTED, read_folder, write_folder
from lmwright.models.files.gguf import read_gguf
from lmwright.models.files.gguf_model import FORMATS, form_of, write_gguf_model
from lmwright.models.files.gguf_vocabulary import vocabulary_of
from lmwright.models.files.onnx_file import write_onnx
from lmwright.models.files.peft import check_written, head_map, write_adapter
from lmwright.models.files.published import describe, is_gguf, located, read_published
from lmwright.models.files.readme import adapter_readme, readme
from lmwright.models.files.sentence import is_mean_map, read_mean_map, write_mean_map
from lmwright.models.files.weights import some
from lmwright.models.merging import cost_of_merging
from lmwright.models.network.merge import merged
from lmwright.models.parity import Parity
from lmwright.models.text_model import (
    ReadsMore,
    TextModel,
    TextPredictor,
    head_spec,
    language_model,
)
from lmwright.tables import entries, resolve
from lmwright.text.generation import GenerationConfig

FOLDER, ONNX, PEFT = "folder", "onnx", "peft"
GOES_ALONG = re.compile(
    r"tokenizer\..*|general\.(?!architecture$|file_type$|quantization_|alignment$).*"
)
"""Metadata keys of a GGUF file that hold in every form."""
PADS = ("[PAD]", "<pad>", "<|pad|>")
"""Usual names of the token that fills up a batch, where no file says which it is."""
SPEC_FAULTS = (BadInput, KeyError, TypeError, ValueError, AttributeError, LookupError)
"""What a family's maps raise for a spec of another one."""


def export_model(address: str, out: Path, form: str) -> None:
    """Write the model at ``address`` to ``out``, as a folder in fp32 or a GGUF file.

    BadInput: ``out`` is there already, an unknown form, a model that writes nothing, one that the
    form cannot hold, and a tokenizer that GGUF has no words for.
    """
    check_target(out, form)
    if form in (ONNX, PEFT):
        raise BadInput(
            f"{form} of a published model", "a version of the store", "train with epochs: 0 first"
        )
    if form != FOLDER:
        form_of(describe(address).family)
    published = read_published(address)
    model, family, described = language_model(published), published.family, published.described
    if form == FOLDER:
        with new_folder(out) as folder:
            write_language_model(folder, family, model, described.generation)
        return
    source = located(address)
    if is_gguf(source):  # the tokenizer is taken as it is, with what the file says of itself
        metadata = read_gguf(source).metadata
        beside = {key: value for key, value in metadata.items() if GOES_ALONG.fullmatch(key)}
    else:
        beside = gguf_metadata(model, source.resolve().name, source.name)
    write_gguf_model(out, model.network, family, described.config, beside, form)


def export_predictor(
    predictor: Predictor,
    calibration: Calibration,
    name: str,
    out: Path,
    form: str,
    texts: Sequence[str] = (),
) -> Parity | None:
    """Write a model of the store to ``out``, with its task and calibration beside it.

    Adapters are merged into the weights, but for PEFT, which is given them alone. What was written
    is read back, and must have the same bits; of ONNX the runtime's logits must be the model's.
    What merging changes in the outputs on held-out ``texts`` is returned, and written beside
    (``merging.json``); None where nothing is merged. BadInput: as :func:`export_model`, a predictor
    that is no text model, and a head or network that no published class has.
    """
    check_target(out, form)
    if not isinstance(predictor, TextPredictor):
        raise BadInput(
            f"{name} is a {predictor.kind} model, which no other software reads",
            "a text model",
            "serve it with lmwright",
        )
    task_model = predictor.task_model
    if isinstance(task_model, ReadsMore) and task_model.reads_more:
        raise BadInput(
            f"{name} reads {task_model.reads_more}, for which exported models have no input",
            "a model that reads ids of tokens alone",
            "serve it with lmwright, or train one without that setting",
        )
    if form == PEFT:
        with new_folder(out) as folder:
            write_adapter_folder(folder, predictor, calibration, name)
        return None
    measured = texts and len(predictor.model.network.streams) == 1
    cost = cost_of_merging(predictor.model, texts, "fp32") if measured else None
    model = predictor.model.with_network(
        merged(predictor.model.network), predictor.model.max_tokens
    )
    predictor = TextPredictor(predictor.task, model)
    family = family_of_model(model)
    if form not in (FOLDER, ONNX):
        form_of(family)
        config = {**family.config(model.network.spec), "tie_word_embeddings": tied(model)}
        beside = gguf_metadata(model, name, name)
        write_gguf_model(out, model.network, family, config, beside, form)
        return cost
    with new_folder(out) as folder:
        target = folder if form == FOLDER else folder / "folder"
        use = write_text_model(target, family, predictor)
        if form == ONNX:
            check_parity(target, model, use)
            write_onnx(folder, target, model, use)
            for each in ("tokenizer.json", "tokenizer_config.json"):
                (target / each).rename(folder / each)
            shutil.rmtree(target)
        write_json(folder / "task.json", task_to_json(predictor.task))
        calibration.save(folder)
        text = readme(name, predictor, family, use, calibration, form == ONNX)
        write_bytes(folder / "README.md", text.encode())
        if form == FOLDER:
            check_parity(folder, model, use)
        if cost is not None:
            write_json(folder / "merging.json", cost.to_json())
    return cost


def check_target(out: Path, form: str) -> None:
    """BadInput for an unknown form, or a name that is taken."""
    known = [FOLDER, ONNX, PEFT, *FORMATS]
    if form not in known:
        raise BadInput(f"the form {form!r}", "a known one", nearest(form, known))
    if out.exists():
        raise BadInput(f"{out} is there already", "a new name", "choose another, or remove it")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``out`` at the end; nothing is left after a fault."""
    beside = out.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        yield beside
        commit_folder(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


# The family


def family_of_model(model: TextModel) -> Family:
    """The family by whose config others read a model: its own, or one that can say its spec."""
    spec = model.network.spec
    for name in [model.family] if model.family else entries("families"):
        family: Family = resolve("families", name)
        if says(family, spec):
            return family
    raise BadInput(
        f"a network that no {model.family or 'known'} config describes",
        "one of a published family",
        "serve it with lmwright",
    )


def says(family: Family, spec: ModelSpec) -> bool:
    """Whether a config of the family gives the spec back, but for rates of dropout."""
    try:
        found = family.spec(family.config(spec))
        known = found, family.generation_spec(found)
    except SPEC_FAULTS:
        return False
    return spec.with_dropout(0.0) in [each.with_dropout(0.0) for each in known]


def tied(model: TextModel) -> bool:
    """Whether the head's rows are a table's."""
    return bool(head_spec(model.network).share)


# Folders


def write_language_model(
    folder: Path, family: Family, model: TextModel, constraints: Mapping[str, Any]
) -> None:
    """Write config, weights, tokenizer, chat template, and generation settings, ``constraints`` of
    a ``generation_config.json`` among them."""
    said = generation_settings(model, constraints)
    write_folder(folder, family, model.network, "lm", model.tokenizer, said)
    write_json(folder / "generation_config.json", said)
    write_json(folder / "tokenizer_config.json", tokenizer_settings(model, model.longest))
    if model.generation.template:
        write_bytes(folder / "chat_template.jinja", model.generation.template.encode())


def write_text_model(folder: Path, family: Family, predictor: TextPredictor) -> str:
    """Write a text model with its head; returns the head's published use.

    That is ``BODY`` where no published class has the head, a linear map of the mean: it then stands
    beside the body, as sentence-transformers' modules.
    """
    model, task_model = predictor.model, predictor.task_model
    use, names = task_model.published_head, task_model.output_names()
    if use == "lm":
        write_language_model(folder, family, model, asdict(model.generation.config))
        return use
    said = {**role_ids(model), **labels_told(names)}
    if is_mean_map(model):
        use = BODY
    elif use not in family.heads:
        raise BadInput(
            f"a head for {predictor.task.kind} on a {family.name} model",
            "one that a published class has: " + ", ".join(family.heads),
            "serve it with lmwright",
        )
    write_folder(folder, family, model.network, use, model.tokenizer, said)
    write_json(folder / "tokenizer_config.json", tokenizer_settings(model, model.max_tokens))
    if use == BODY:
        write_mean_map(folder, model)
    return use


def write_adapter_folder(
    folder: Path, predictor: TextPredictor, calibration: Calibration, name: str
) -> None:
    """Write the adapters of a model that stands on a base, and its head, for PEFT.

    A linear map of the mean stands beside them as sentence-transformers' modules.
    """
    if not isinstance(predictor, AdaptedPredictor):
        raise BadInput(
            f"{name} is a whole model without adapters", "one trained with tune: lora", "as folder"
        )
    model, about, task_model = predictor.model, predictor.adaptation, predictor.task_model
    family, network, use = family_of_model(model), model.network, task_model.published_head
    if use != "lm" and is_mean_map(model):
        use = BODY
    elif use not in family.heads:
        raise BadInput(
            f"a head for {predictor.task.kind} on a {family.name} model",
            "one that a published class has: " + ", ".join(family.heads),
            "serve it with lmwright",
        )
    mapped = [] if use == BODY else head_map(family, network, use)
    learnt = [weight for weight in mapped if weight.ours in about.own]
    leaves = {"lora_a", "lora_b", "magnitude"}
    told = {weight.ours for weight in learnt}
    odd = {each for each in about.own - told if each.rpartition(".")[2] not in leaves}
    if odd := {each for each in odd if use != BODY or not each.startswith("head.")}:
        raise BadInput(
            f"{name} has {some(sorted(odd))}, for which an adapter's folder has no place",
            "adapters, and a head that the base's class has",
            "export it --as folder",
        )
    scaling = about.tune.get("scaling") if isinstance(about.tune, dict) else ""
    write_adapter(folder, family, network, use, learnt, scaling == "root-rank")
    check_written(folder, family, network)
    if use == BODY and model.outputs:
        write_mean_map(folder, model)
    write_bytes(folder / "tokenizer.json", model.tokenizer.data)
    write_json(folder / "task.json", task_to_json(predictor.task))
    calibration.save(folder)
    text = adapter_readme(name, predictor, use, about.base, calibration)
    write_bytes(folder / "README.md", text.encode())


def check_parity(folder: Path, model: TextModel, use: str) -> None:
    """Corrupt unless the weights that a folder is read as have the bits of the model's."""
    published = read_folder(folder)
    found = {**published.weights, **published.more}
    found |= published.heads[use][1] if use != BODY else read_mean_map(folder)
    for name, weight in model.network.named_parameters():
        if name not in found or not torch.equal(found[name], weight):
            raise Corrupt(f"{folder}: {name} is not what the model has", "the same bits")


def labels_told(names: tuple[str, ...]) -> dict[str, Any]:
    """Fields of a config that name a classifier's outputs."""
    return {
        "id2label": {str(place): name for place, name in enumerate(names)},
        "label2id": {name: place for place, name in enumerate(names)},
        "problem_type": "single_label_classification",
    }


def role_ids(model: TextModel) -> dict[str, int]:
    """Fields of a config for the special tokens that are one each."""
    roles = {role: ids for role, ids in model.tokenizer.roles.items() if role != "language"}
    return {f"{role}_token_id": ids[0] for role, ids in roles.items() if len(ids) == 1} | pad(model)


def pad(model: TextModel) -> dict[str, int]:
    """The id of the token that fills up a batch, by its usual name where no role says it."""
    named = {
        name: model.tokenizer.control[name] for name in PADS if name in model.tokenizer.control
    }
    ids = model.tokenizer.roles.get("pad") or tuple(named.values())
    return {"pad_token_id": ids[0]} if ids else {}


def tokenizer_settings(model: TextModel, most: int | None) -> dict[str, Any]:
    """A ``tokenizer_config.json``: the special tokens, and that tokenizer.json says all else."""
    tokenizer = model.tokenizer
    said: dict[str, Any] = {
        f"{role}_token": tokenizer.token(ids[0])
        for role, ids in tokenizer.roles.items()
        if role != "language"
    }
    said |= {f"{name.removesuffix('_id')}": tokenizer.token(n) for name, n in pad(model).items()}
    if "eos_token" not in said and model.generation.stop_ids:
        said["eos_token"] = tokenizer.token(model.generation.stop_ids[0])
    if language := tokenizer.roles.get("language"):
        name = tokenizer.token(language[0])
        said["src_lang"] = name.removeprefix("__").removesuffix("__")
    if most is not None:
        said["model_max_length"] = most
    # Our families' models without segments refuse those that the class gives by default.
    return said | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }


def generation_settings(model: TextModel, constraints: Mapping[str, Any]) -> dict[str, Any]:
    """A model's generation settings as fields of a config."""
    own, said = model.generation, role_ids(model)
    ends = tuple(dict.fromkeys([*own.stop_ids, *model.end_ids]))
    told: dict[str, Any] = {
        "eos_token_id": list(ends),
        "decoder_start_token_id": own.decoder_start_id,
        "forced_bos_token_id": own.forced_bos_id,
        "suppress_tokens": list(own.banned_ids),
    }
    names = (*(field.name for field in fields(GenerationConfig)), *UNSUPPORTED)
    told |= {name: constraints[name] for name in names if name in constraints}
    return said | {name: value for name, value in told.items() if value not in (None, [], ())}


# GGUF


def gguf_metadata(model: TextModel, name: str, where: str) -> dict[str, Any]:
    """What a GGUF file says beside the weights: tokenizer, chat template and stop tokens."""
    rows = model.network.spec.stack("decoder").embedding.vocabulary
    beside = {"general.type": "model", "general.name": name}
    beside |= vocabulary_of(model.tokenizer, rows, model.stop_ids, where)
    if model.generation.template:
        beside["tokenizer.chat_template"] = model.generation.template
    return beside
