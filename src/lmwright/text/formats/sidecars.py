"""Files beside a tokenizer's: settings, added tokens, and the roles of special tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmwright.core.errors import Corrupt
from lmwright.core.reading import FETCH_AGAIN
from lmwright.text.formats.layout import added_token, read_object

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
SETTINGS = "tokenizer_config.json"
GENERATION = "generation_config.json"
CONFIG = "config.json"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
UNTOLD = ("PreTrainedTokenizer", "TokenizersBackend")
"""The ``tokenizer_class`` of tokenizers that their tokenizer.json alone describes."""
CLASSES = {
    "bart": "BartTokenizer",
    "bert": "BertTokenizer",
    "blenderbot": "BlenderbotTokenizer",
    "blenderbot-small": "BlenderbotSmallTokenizer",
    "distilbert": "DistilBertTokenizer",
    "gpt2": "GPT2Tokenizer",
    "m2m_100": "M2M100Tokenizer",
    "marian": "MarianTokenizer",
    "mbart": "MBartTokenizer",
    "openai-gpt": "OpenAIGPTTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen2_moe": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
    "xlm": "XLMTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "xlnet": "XLNetTokenizer",
}
"""A model's ``model_type`` -> the class of its tokenizer, where its files alone could mislead."""


def settings_beside(folder: Path) -> dict[str, Any]:
    """The folder's tokenizer_config.json; empty if it has none."""
    path = folder / SETTINGS
    return read_object(path) if path.is_file() else {}


def class_beside(folder: Path) -> str:
    """The class of the folder's tokenizer, without ``Fast``; nothing if no file tells.

    tokenizer_config.json goes before config.json, which may name the class or only the model.
    """
    path = folder / CONFIG
    config = read_object(path) if path.is_file() else {}
    for said in (settings_beside(folder), config):
        name = str(said.get("tokenizer_class") or "").removesuffix("Fast")
        if name and name not in UNTOLD:
            return name
    return CLASSES.get(str(config.get("model_type")), "")


def roles_beside(folder: Path, ids: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The ids of each role (bos, eos, pad, ...) that the folder's files name, and that of the
    language of its texts (``src_lang``) as ``language``.

    tokenizer_config.json goes before special_tokens_map.json. generation_config.json, which may
    name several ids that end an answer, adds to them. Corrupt if bos or eos is a token without an
    id; another role that no token can play is left out.
    """
    found: dict[str, tuple[int, ...]] = {}
    for name in ("special_tokens_map.json", SETTINGS):
        path = folder / name
        values = read_object(path) if path.is_file() else {}
        for role in ROLES:
            token = token_text(values.get(f"{role}_token"))
            if token is None:
                continue
            if token in ids:
                found[role] = (ids[token],)
            elif role in ("bos", "eos"):
                raise Corrupt(
                    f"{path}: {role}_token is {token!r}", "a token with an id", FETCH_AGAIN
                )
    said = settings_beside(folder).get("src_lang")
    spelt = (f"__{said}__", said) if isinstance(said, str) else ()
    language = next((name for name in spelt if name in ids), None)
    if language is not None:
        found["language"] = (ids[language],)
    path = folder / GENERATION
    values, known = read_object(path) if path.is_file() else {}, set(ids.values())
    for role in ROLES:
        numbers = id_list(values.get(f"{role}_token_id"))
        if role in ("bos", "eos"):
            refuse_unknown(numbers, known, f"{path}: {role}")
        numbers = tuple(number for number in numbers if type(number) is int and number in known)
        if role == "eos" or role not in found:
            merged = tuple(dict.fromkeys(found.get(role, ()) + numbers))
            found |= {role: merged} if merged else {}
    return found


def added_beside(folder: Path) -> dict[str, dict]:
    """Tokens of added_tokens.json and tokenizer_config.json, as tokenizer.json spells them."""
    found: dict[str, dict] = {}
    path = folder / "added_tokens.json"
    for name, number in (read_object(path) if path.is_file() else {}).items():
        found[name] = added_token(checked_id(number, path), name)
    path = folder / SETTINGS
    listed = settings_beside(folder).get("added_tokens_decoder") or {}
    if not isinstance(listed, dict):
        raise Corrupt(f"{path}: added_tokens_decoder is no object", "tokens by id", FETCH_AGAIN)
    for number, entry in listed.items():
        content = token_text(entry)
        if content is None or not number.isdecimal():
            raise Corrupt(f"{path}: added token {number!r} has no text", "its text", FETCH_AGAIN)
        flags = {flag: bool(entry.get(flag, False)) for flag in FLAGS}
        special = bool(entry.get("special", False))
        found[content] = added_token(int(number), content, special=special, **flags)
    return found


def token_text(value: Any) -> str | None:
    """A token that is given as its text or as an object with it; None if it is not given."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def id_list(value: Any) -> tuple[Any, ...]:
    """An id, or a list of them; none where it is null or -1."""
    return tuple(value) if isinstance(value, list) else () if value in (None, -1) else (value,)


def refuse_unknown(numbers: Sequence[Any], known: set[int], where: str) -> None:
    """Raise Corrupt for an id that no token has."""
    for number in numbers:
        if type(number) is not int or number not in known:
            raise Corrupt(f"{where} has id {number!r}", "the id of a token", FETCH_AGAIN)


def checked_id(value: Any, path: Path) -> int:
    """An id as JSON has it; Corrupt if it is not one."""
    if type(value) is not int or value < 0:
        raise Corrupt(f"{path} has id {value!r}", "a number from 0", FETCH_AGAIN)
    return value
