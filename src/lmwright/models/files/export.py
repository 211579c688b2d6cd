"""Export of a published language model to a folder or a GGUF file."""

from __future__ import annotations

import re
import shutil
import uuid
from dataclasses import fields
from pathlib import Path
from typing import Any

from lmwright.core.durable import TEMPORARY, commit_folder, write_bytes, write_json
from lmwright.core.errors import BadInput, nearest
from lmwright.models.files.folder import UNSUPPORTED, Published, write_folder
from lmwright.models.files.gguf import read_gguf
from lmwright.models.files.gguf_model import FORMATS, form_of, write_gguf_model
from lmwright.models.files.gguf_vocabulary import vocabulary_of
from lmwright.models.files.published import describe, is_gguf, located, read_published
from lmwright.models.text_model import TextModel, language_model
from lmwright.text.generation import GenerationConfig

FOLDER = "folder"
GOES_ALONG = re.compile(
    r"tokenizer\..*|general\.(?!architecture$|file_type$|quantization_|alignment$).*"
)
"""Metadata keys of a GGUF file that hold in every form."""


def export_model(address: str, out: Path, form: str) -> None:
    """Write the model at ``address`` to ``out``, as a folder in fp32 or a GGUF file.

    BadInput: ``out`` is there already, an unknown form, a model that writes nothing, one that the
    form cannot hold, and a tokenizer that GGUF has no words for.
    """
    if form != FOLDER and form not in FORMATS:
        raise BadInput(f"the form {form!r}", "a known one", nearest(form, [FOLDER, *FORMATS]))
    if out.exists():
        raise BadInput(f"{out} is there already", "a new name", "choose another, or remove it")
    if form == FOLDER:
        published = read_published(address)
        as_folder(published, language_model(published), out)
        return
    form_of(describe(address).family)
    published = read_published(address)
    as_gguf(published, language_model(published), out, form, located(address))


def as_folder(published: Published, model: TextModel, out: Path) -> None:
    """Write config, weights, tokenizer, generation settings and chat template; all or nothing."""
    described, said = published.described, generation_settings(published)
    language = published.tokenizer.roles.get("language")
    beside = out.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        write_folder(beside, published.family, model.network, "lm", model.tokenizer, said)
        write_json(beside / "generation_config.json", said)
        if language:
            name = published.tokenizer.token(language[0]).removeprefix("__").removesuffix("__")
            write_json(beside / "tokenizer_config.json", {"src_lang": name})
        if described.template:
            write_bytes(beside / "chat_template.jinja", described.template.encode())
        commit_folder(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def generation_settings(published: Published) -> dict[str, Any]:
    """Generation settings of a published model as fields of a config."""
    described, roles = published.described, dict(published.tokenizer.roles)
    roles.pop("language", None)  # of texts, not of answers; a tokenizer's settings say it
    ends = tuple(dict.fromkeys([*described.stop_ids, *roles.pop("eos", ())]))
    said: dict[str, Any] = {f"{role}_token_id": n for role, (n, *more) in roles.items() if not more}
    if ends:
        said["eos_token_id"] = list(ends)
    if described.decoder_start_id is not None:
        said["decoder_start_token_id"] = described.decoder_start_id
    if described.forced_bos_id is not None:
        said["forced_bos_token_id"] = described.forced_bos_id
    if described.banned_ids:
        said["suppress_tokens"] = list(described.banned_ids)
    names = (*(field.name for field in fields(GenerationConfig)), *UNSUPPORTED)
    return said | {n: described.generation[n] for n in names if n in described.generation}


def as_gguf(published: Published, model: TextModel, out: Path, form: str, source: Path) -> None:
    """Write one GGUF file with the tokenizer, chat template and stop tokens.

    From a GGUF file they are taken as they are, with what it says of its name and licence.
    """
    described = published.described
    if is_gguf(source):
        metadata = read_gguf(source).metadata
        beside = {key: value for key, value in metadata.items() if GOES_ALONG.fullmatch(key)}
    else:
        rows = published.spec.stack("decoder").embedding.vocabulary
        beside = {"general.type": "model", "general.name": source.resolve().name}
        beside |= vocabulary_of(model.tokenizer, rows, model.stop_ids, source.name)
        if described.template:
            beside["tokenizer.chat_template"] = described.template
    write_gguf_model(out, model.network, published.family, described.config, beside, form)
