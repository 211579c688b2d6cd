"""From characters to ids and back."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.hashing import hash_bytes
from lmwright.core.reading import FETCH_AGAIN
from lmwright.text.charsmap import Charsmap, read_charsmap
from lmwright.text.detokenizer import Detokenizer, bytes_of
from lmwright.text.formats.find import convert
from lmwright.text.formats.layout import OFF
from lmwright.text.formats.sidecars import roles_beside

CONTROL = re.compile(r"<\|.*\|>|</?tool_(call|response)>")
"""Tokens that steer a model although their file does not call them special."""


@dataclass(frozen=True)
class Window:
    """A pair of texts as the model reads it, with a stretch of the second one.

    ``ids`` and ``segments`` (int32, tokens) are those of the pair template; ``offsets`` (int32,
    tokens, 2) say which characters of the second text a token stands for, -1 for all others.
    ``special`` (bool, tokens) marks special tokens. ``first`` counts the second text's tokens that
    stand before the stretch.
    """

    ids: np.ndarray
    segments: np.ndarray
    offsets: np.ndarray
    special: np.ndarray
    first: int


class Tokenizer:
    """A ``tokenizer.json``, kept with its bytes so that it is saved as it was read.

    Padding and truncation that the file asks for are switched off: lengths are ours to set.
    What a person types is text, even where it spells a special token. ``roles`` gives the ids
    of bos, eos, pad and the like, ``control`` the id of each token that no text becomes.
    """

    def __init__(
        self,
        data: bytes,
        where: str = "tokenizer.json",
        roles: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.data = data
        self.roles = dict(roles or {})
        described = described_by(data, where)
        self.control = control_of(described, where)
        self.hidden = set(special_ids(described))
        # In ours, control tokens have names that nobody can type. Else the vocabulary itself
        # would match them in a text (a unigram's `<s>`), or they would be matched before it.
        key = secrets.token_hex(16)
        self.secret = {number: f"{key}-{number}-" for number in self.control.values()}
        self.charsmap = without_charsmap(described, where)
        ours = renamed(described, {name: self.secret[n] for name, n in self.control.items()})
        self.inner = built(ours, where)
        self.inner.no_padding()
        self.inner.no_truncation()
        for name, number in self.control.items():
            found = self.inner.token_to_id(self.secret[number])
            if found != number:
                raise Corrupt(
                    f"{where}: {name!r} has id {number}, but {found} by its place",
                    "ids without holes",
                    FETCH_AGAIN,
                )
        self.around = self.inner.num_special_tokens_to_add(False)
        self.names = {number: name for name, number in self.control.items()}
        self.bytes_of: Callable[[str], bytes] | None = bytes_of(described)
        steps = (described.get("normalizer") or {}).get("normalizers") or []
        self.each_part = any(step.get("type") == "Prepend" for step in steps)
        self.described = {"decoder": described.get("decoder")}

    def encode(self, texts: Sequence[str], most: int) -> list[np.ndarray]:
        """The ids (int32) of each text with its special tokens, cut to ``most`` tokens."""
        return [ids for ids, _ in self.encode_cut(texts, most)]

    def encode_cut(self, texts: Sequence[str], most: int) -> list[tuple[np.ndarray, bool]]:
        """What :meth:`encode` gives, each with whether tokens were cut off."""
        plain = [self.prepared(text) for text in texts]
        room, found = max(most - self.around, 0), []
        for each in self.inner.encode_batch_fast(plain, add_special_tokens=False):
            cut = len(each.ids) > room
            each.truncate(room)
            whole = self.inner.post_process(each)
            found.append((np.array(whole.ids, dtype=np.int32), cut))
        return found

    def inside(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """All ids (int32) of each text without special tokens, and where in it each token stands
        (int32, tokens, 2). BadInput for a tokenizer that rewrites texts before it cuts them."""
        self.refuse_rewriting()
        plain = [self.prepared(text) for text in texts]
        return [
            (np.array(each.ids, np.int32), np.array(each.offsets, np.int32).reshape(-1, 2))
            for each in self.inner.encode_batch(plain, add_special_tokens=False)
        ]

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The special tokens (int32) that are put before a text and behind it."""
        letter = self.inner.encode("a", add_special_tokens=False)
        whole, size = self.inner.post_process(letter), self.suffix_length()
        ids = np.array(whole.ids, np.int32)
        first = list(whole.special_tokens_mask).index(0) if 0 in whole.special_tokens_mask else 0
        return ids[:first], ids[len(ids) - size :]

    def windows(
        self, pairs: Sequence[tuple[str, str]], most: int, most_first: int, stride: int
    ) -> list[list[Window]]:
        """Each pair of texts in windows of at most ``most`` tokens, in the order of the text.

        Every window has the first text, of which ``most_first`` tokens are read, and a stretch of
        the second one; neighbouring stretches share ``stride`` tokens, and together they are all
        of it (Devlin et al. 2019 read SQuAD so). BadInput for a tokenizer that rewrites texts, and
        where the first text leaves too little room.
        """
        self.refuse_rewriting()
        around = self.inner.num_special_tokens_to_add(True)
        firsts, seconds = (
            self.inner.encode_batch(
                [self.prepared(each) for each in texts], add_special_tokens=False
            )
            for texts in zip(*pairs, strict=True)
        )
        found = []
        for first, second in zip(firsts, seconds, strict=True):
            first.truncate(most_first)
            room = most - around - len(first.ids)
            if room <= stride:
                raise BadInput(
                    f"windows of {most} tokens, of which {len(first.ids)} are the first text's",
                    f"room for more than the {stride} tokens that neighbouring windows share",
                    "raise max_tokens, or lower the stride or what is read of the first text",
                )
            second.truncate(room, stride=stride)
            parts = enumerate((second, *second.overflowing))
            found.append([self.window(first, each, n * (room - stride)) for n, each in parts])
        return found

    def window(
        self, first: tokenizers.Encoding, second: tokenizers.Encoding, before: int
    ) -> Window:
        """A pair by the template of pairs; ``before`` is its ``first``."""
        whole = self.inner.post_process(first, second)
        special = np.array(whole.special_tokens_mask, dtype=bool)
        own = np.array([side == 1 for side in whole.sequence_ids], dtype=bool) & ~special
        offsets = np.array(whole.offsets, dtype=np.int32).reshape(-1, 2)
        offsets[~own] = -1
        ids, segments = (np.array(each, np.int32) for each in (whole.ids, whole.type_ids))
        return Window(ids, segments, offsets, special, before)

    def refuse_rewriting(self) -> None:
        """Raise BadInput where tokens have no place in the text as it was given."""
        if self.charsmap:
            raise BadInput(
                "a tokenizer that rewrites characters by a map of SentencePiece's",
                "one whose tokens can be found in the text",
                "start from another model for tasks with spans",
            )

    def suffix_length(self) -> int:
        """The number of special tokens that :meth:`encode` appends to a text."""
        letter = self.inner.encode("a", add_special_tokens=False)
        mask = self.inner.post_process(letter).special_tokens_mask
        return mask[::-1].index(0) if 0 in mask else 0

    def ids(self, text: str) -> np.ndarray:
        """The ids (int32) of a text, all of them, without special tokens round it."""
        found = self.inner.encode(self.prepared(text), add_special_tokens=False)
        return np.array(found.ids, dtype=np.int32)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end a document."""
        return self.roles.get("eos", ())

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """The id that begins a document, if there is one: of the start or the end token."""
        return (self.roles.get("bos") or self.end_ids)[:1]

    def documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids (int32) of each text as a whole document, begun and ended."""
        begin, end = self.begin_ids, self.end_ids[:1]
        plain = [self.prepared(text) for text in texts]
        found = self.inner.encode_batch_fast(plain, add_special_tokens=False)
        return [np.array([*begin, *each.ids, *end], dtype=np.int32) for each in found]

    def ids_of_parts(self, parts: Sequence[tuple[str, bool]]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a text given in parts, and for each id the part in which it begins.

        A part marked true is a special token; the others are text, whatever they spell, and are
        tokenized as one where they touch. Nothing is put round them.
        """
        texts = [
            self.secret[self.control[text]] if special else self.prepared(text)
            for text, special in parts
        ]
        starts = np.cumsum([0, *map(len, texts)])
        found = self.inner.encode("".join(texts), add_special_tokens=False)
        begins = np.array([first for first, _ in found.offsets], dtype=np.int64)
        # Of parts that are empty, the last one that starts at a place is the one that is there.
        place = np.searchsorted(starts[:-1], begins, side="right") - 1
        return np.array(found.ids, dtype=np.int32), place.astype(np.int32)

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of some ids; special tokens left out unless ``special``.

        Bytes that are not UTF-8 become U+FFFD.
        """
        detokenizer = self.detokenizer(special)
        return detokenizer.push(ids) + detokenizer.finish()

    def parts(self, ids: Sequence[int]) -> list[tuple[str, bool]]:
        """The ids as parts: each control token by its text (true), and the text between them."""
        found: list[tuple[str, bool]] = []
        run: list[int] = []
        for number in [*(int(each) for each in ids), None]:
            if number is not None and number not in self.names:
                run.append(number)
                continue
            if run:
                detokenizer = self.detokenizer()
                # Only what was tokenized with a space in front of it loses one.
                if found and not self.each_part:
                    detokenizer.strip = 0
                found.append((detokenizer.push(run) + detokenizer.finish(), False))
                run = []
            if number is not None:
                found.append((self.names[number], True))
        return found

    def detokenizer(self, special: bool = False) -> Detokenizer:
        """A decoder for ids that come a few at a time."""
        return Detokenizer(self, special)

    def token(self, number: int) -> str:
        """The token of an id as the vocabulary spells it; BadInput if there is no such id."""
        inside = 0 <= number < 1 << 32
        name = self.names.get(number) or (self.inner.id_to_token(number) if inside else None)
        if name is None:
            raise BadInput(f"no token has id {number}", f"an id below {self.size()}")
        return name.removeprefix(OFF)

    def special_text(self) -> dict[str, str]:
        """The text of each role's (first) token, under the name that templates use: bos_token."""
        return {f"{role}_token": self.token(ids[0]) for role, ids in self.roles.items()}

    def vocabulary(self) -> dict[str, int]:
        """Every token with its id, control tokens by their own names."""
        hidden = set(self.secret.values())
        known = self.inner.get_vocab(with_added_tokens=True)
        return {name: n for name, n in known.items() if name not in hidden} | self.control

    def size(self) -> int:
        """The number of rows that an embedding of these tokens needs."""
        return self.highest() + 1

    def highest(self) -> int:
        """The highest id that a text can become."""
        return max(self.inner.get_vocab(with_added_tokens=True).values())

    def hash(self) -> str:
        """SHA-256 of the file's bytes."""
        return hash_bytes(self.data)

    def prepared(self, text: str) -> str:
        """The text as the library is given it."""
        plain = well_formed(text)
        return self.charsmap.apply(plain) if self.charsmap else plain


def read_tokenizer(path: Path, encoding: str = "") -> Tokenizer:
    """The tokenizer of a file or folder, of any format that ``text/formats`` reads.

    ``encoding`` names that of a rank file (``cl100k_base``) whose size does not tell. BadInput
    if there is none or its format runs code, Corrupt if it is not what it should be.
    """
    if not path.exists():
        raise BadInput(f"{path} is not there", "a tokenizer's file or folder", FETCH_AGAIN)
    found = convert(path, encoding)
    tokenizer = Tokenizer(found.data, str(path), found.roles)
    if not tokenizer.roles:
        names = tokenizer.inner.get_vocab(with_added_tokens=True) | tokenizer.control
        tokenizer.roles = roles_beside(path if path.is_dir() else path.parent, names)
    return tokenizer


def well_formed(text: str) -> str:
    """The text with lone surrogates, which no UTF-8 has, replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def described_by(data: bytes, where: str) -> dict[str, Any]:
    """The JSON of a tokenizer.json; Corrupt if it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{where}: {error}", "a tokenizer.json", FETCH_AGAIN) from None
    if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
        raise Corrupt(f"{where} holds no model", "a tokenizer.json", FETCH_AGAIN)
    return value


def control_of(described: Mapping[str, Any], where: str) -> dict[str, int]:
    """Text -> id of every token that a text must not become."""
    found: dict[str, int] = {}
    for token in described.get("added_tokens") or []:
        try:
            name, number, special = token["content"], token["id"], token["special"]
            steers = bool(special or CONTROL.fullmatch(name))
            right = type(number) is int and number >= 0 and name not in found
        except (KeyError, TypeError):
            right = steers = False
        if not right:
            raise Corrupt(
                f"{where}: the added token {str(token)[:80]} is not complete, or there twice",
                "content, id and special, once",
                FETCH_AGAIN,
            )
        if steers:
            found[name] = number
    return found


def special_ids(described: Mapping[str, Any]) -> list[int]:
    """The ids of the tokens that the file calls special: those that no reader is shown."""
    return [token["id"] for token in described.get("added_tokens") or [] if token["special"]]


def renamed(described: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The description with other names for some of its added tokens; ids stay."""
    added = [
        {**token, "content": names.get(token["content"], token["content"])}
        for token in described.get("added_tokens") or []
    ]
    model = dict(described["model"])
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        inside = [name for name in names if name in vocabulary]
        model["vocab"] = {names.get(word, word): number for word, number in vocabulary.items()}
        if inside and isinstance(model.get("merges"), list):
            model["merges"] = [each for each in model["merges"] if not makes(each, names)]
    elif isinstance(vocabulary, list):
        model["vocab"] = [
            [names.get(each[0], each[0]), *each[1:]] if isinstance(each, list) and each else each
            for each in vocabulary
        ]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    return {**described, "added_tokens": added, "model": model}


def makes(merge: Any, names: Mapping[str, str]) -> bool:
    """Whether a merge (two words, or one text with both) takes or makes one of the names."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(pair, list) or not all(isinstance(word, str) for word in pair):
        return False
    return "".join(pair) in names or any(word in names for word in pair)


def without_charsmap(described: dict[str, Any], where: str) -> Charsmap | None:
    """Take SentencePiece's map of characters out of the normalizer, to be applied exactly."""
    normalizer = described.get("normalizer")
    if not isinstance(normalizer, dict):
        return None
    steps = normalizer.get("normalizers") if normalizer.get("type") == "Sequence" else [normalizer]
    if not isinstance(steps, list) or not steps or not isinstance(steps[0], dict):
        return None
    if steps[0].get("type") != "Precompiled" or not steps[0].get("precompiled_charsmap"):
        return None
    described["normalizer"] = {"type": "Sequence", "normalizers": steps[1:]}
    try:
        return read_charsmap(base64.b64decode(steps[0]["precompiled_charsmap"], validate=True))
    except (ValueError, TypeError) as error:
        raise Corrupt(f"{where}: {error}", "SentencePiece's map", FETCH_AGAIN) from None


def built(described: Mapping[str, Any], where: str) -> tokenizers.Tokenizer:
    """The library's tokenizer; Corrupt if it does not accept the description."""
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(described, ensure_ascii=False))
    except BaseException as error:
        # The library raises bare Exceptions, and panics, which are no Exceptions at all.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise Corrupt(f"{where}: {error}", "a tokenizer.json", FETCH_AGAIN) from None
