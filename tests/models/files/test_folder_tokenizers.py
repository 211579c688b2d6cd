"""Folders without a tokenizer.json: the ids of the reference, and texts written from them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
import torch

from lmwright.assets import asset_file
from lmwright.cli.main import main
from lmwright.core.errors import BadInput, Corrupt
from lmwright.models.files.folder import read_folder
from lmwright.models.files.published import read_published
from lmwright.models.text_model import language_model
from lmwright.text.tokenizer import read_tokenizer
from tests.conftest import MAILS
from tests.serve.talking import talking
from tests.text.lines import reviews, some_lines
from tests.text.test_formats import WORDPIECE, same, train

transformers = pytest.importorskip("transformers")

PROMPT = "The best thing about this film is"
SMALL = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 64}
TINY = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 9}
T5 = {"d_model": 8, "d_kv": 4, "d_ff": 9, "num_layers": 2, "num_heads": 2}
SIDES = {
    "d_model": 8,
    **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 9 for side in ("encoder", "decoder")},
}
OF_T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


def write(folder: Path, kind: str, **config) -> object:
    """A model of the reference with weights drawn wide, written by it."""
    torch.manual_seed(3)
    model = getattr(transformers, kind)
    model = model(model.config_class(**config)).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_()
    model.tie_weights()
    model.save_pretrained(folder)
    return model


def write_tokenizer(folder: Path, tokenizer) -> None:
    """What the reference writes, with its vocabulary as the files that there were before."""
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    tokenizer.backend_tokenizer.model.save(str(folder))


def settings(folder: Path, **fields: object) -> None:
    """The folder's tokenizer_config.json."""
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))


def without_tokens() -> list[str]:
    """All lines but those that spell a special token, which is text to us and none to others."""
    return [line for line in some_lines() if not re.search(r"</?(s|unk|pad|mask)>", line)]


def of_marian(pad: int) -> dict[str, object]:
    """What a config of Marian's says besides its sizes."""
    return {
        "pad_token_id": pad,
        "decoder_start_token_id": pad,
        "eos_token_id": 0,
        "forced_eos_token_id": None,
    }


def generated(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What ``lmwright generate`` goes on with."""
    capsys.readouterr()
    assert main(["generate", str(folder), PROMPT, "--max-tokens", "6", *words]) == 0
    return capsys.readouterr().out.removesuffix("\n")


def continued(model, ids: list[int], **how: object) -> list[int]:
    """The reference's likeliest tokens; of an encoder's text, or after a prompt."""
    pair = model.config.is_encoder_decoder
    found = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        max_new_tokens=6,
        do_sample=False,
        **how,
    )[0].tolist()
    return found[1:] if pair else found[len(ids) :]


def test_vocab_txt(tmp_path):
    words = asset_file(WORDPIECE).read_text("utf-8").split("\n")[:-1]
    reference = transformers.BertTokenizer(vocab={word: n for n, word in enumerate(words)})
    write(tmp_path, "BertForMaskedLM", **TINY, vocab_size=len(words))
    write_tokenizer(tmp_path, reference)
    assert sorted(each.name for each in tmp_path.glob("*vocab*")) == ["vocab.txt"]
    tokenizer = read_folder(tmp_path).tokenizer
    same(tokenizer, reference(list(some_lines()))["input_ids"], some_lines())
    roles = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    assert tokenizer.roles == {role: (words.index(name),) for role, name in roles.items()}
    settings(tmp_path, tokenizer_class="BertJapaneseTokenizer")
    with pytest.raises(BadInput, match=r"'BertJapaneseTokenizer' is known for vocab\.txt"):
        read_folder(tmp_path)


@MAILS
def test_vocab_json_with_merges(tmp_path, capsys):
    folder = asset_file("asset:gpt2-merges/encoder.json").parent
    rows = (folder / "vocab.bpe").read_text("utf-8").split("\n")[1:]
    reference = transformers.GPT2Tokenizer(
        vocab=json.loads((folder / "encoder.json").read_text("utf-8")),
        merges=[tuple(row.split()) for row in rows if row],
    )
    model = write(tmp_path, "GPT2LMHeadModel", **SMALL)
    write_tokenizer(tmp_path, reference)
    tokenizer = read_folder(tmp_path).tokenizer
    same(tokenizer, reference(list(some_lines()))["input_ids"], some_lines())
    assert tokenizer.roles == {"bos": (50256,), "eos": (50256,), "unk": (50256,)}
    wanted = continued(model, reference(PROMPT)["input_ids"])
    assert generated(tmp_path, capsys) == reference.decode(wanted)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlm"}))
    with pytest.raises(BadInput, match=r"'XLMTokenizer' is known for vocab\.json"):
        read_tokenizer(tmp_path)


@MAILS
def test_vocab_json_of_blenderbot(tmp_path):
    """GPT-2's words and merges under its special tokens; an answer's end stands behind a text."""
    folder = asset_file("asset:gpt2-merges/encoder.json").parent
    words = json.loads((folder / "encoder.json").read_text("utf-8"))
    for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>"):
        words[name] = len(words)
    rows = (folder / "vocab.bpe").read_text("utf-8").split("\n")[1:]
    merges = [tuple(row.split()) for row in rows if row]
    reference = transformers.BlenderbotTokenizer(vocab=words, merges=merges)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blenderbot"}))
    write_tokenizer(tmp_path, reference)
    (tmp_path / "tokenizer_config.json").unlink()
    tokenizer = read_tokenizer(tmp_path)
    end = words["</s>"]
    texts = without_tokens()
    same(tokenizer, [[*ids, end] for ids in reference(texts)["input_ids"]], texts)
    assert tokenizer.ids("film").tolist() == [words["Ġfilm"]]
    assert tokenizer.suffix_length() == 1 and tokenizer.roles["eos"] == (end,)


def test_vocab_json_of_gpt(tmp_path, capsys):
    trained = tokenizers.Tokenizer(
        tokenizers.models.BPE(unk_token="<unk>", end_of_word_suffix="</w>")
    )
    trained.normalizer = tokenizers.normalizers.BertNormalizer()
    trained.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    trained.train_from_iterator(reviews()[:3000], trainer)
    trained.model.save(str(tmp_path))
    model = write(tmp_path, "OpenAIGPTLMHeadModel", **SMALL, vocab_size=2000)
    rows = (tmp_path / "merges.txt").read_text("utf-8").split("\n")[1:]
    reference = transformers.OpenAIGPTTokenizer(
        vocab=json.loads((tmp_path / "vocab.json").read_text("utf-8")),
        merges=[tuple(row.split()) for row in rows if row],
    )
    tokenizer = read_folder(tmp_path).tokenizer  # the class follows from the model's type
    texts = without_tokens()
    same(tokenizer, reference(texts)["input_ids"], texts)
    assert tokenizer.roles["unk"] == (0,) and tokenizer.ids("ZEBRAS").tolist()
    known = reference(PROMPT)["input_ids"]
    whole = reference.decode([*known, *continued(model, known)])
    assert generated(tmp_path, capsys) == whole.removeprefix(reference.decode(known))


def by_sentencepiece(path: Path, ids: dict[int, int], shift: int) -> list[list[int]]:
    """SentencePiece's own ids of all lines, those named replaced, the others shifted."""
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    found = reference.encode(list(some_lines()))
    return [[ids.get(each, each + shift) for each in line] for line in found]


def nearly_same(tokenizer, wanted: list[list[int]], texts: Sequence[str] = ()) -> None:
    """The wanted ids of all lines, but for a few with cuts of equal scores (see test_formats)."""
    texts = texts or some_lines()
    found = tokenizer.encode(texts, 1_000_000)
    other = [n for n, ids in enumerate(found) if ids.tolist() != wanted[n]]
    assert len(other) <= 0.002 * len(wanted), (texts[other[0]], found[other[0]])
    assert all(len(found[n]) == len(wanted[n]) for n in other)


def as_transformers(tokenizer, reference) -> None:
    """The ids of the reference's own class on real lines without control characters, which its
    library maps otherwise than SentencePiece."""
    some = [line for line in reviews()[:20_000:9] if line.isprintable()]
    assert len(some) > 1500
    found, wanted = tokenizer.encode(some, 1_000_000), reference(some)["input_ids"]
    other = [line for line, a, b in zip(some, found, wanted, strict=True) if a.tolist() != b]
    assert len(other) <= 0.004 * len(some), other[0]


def vocabulary_of(path: Path) -> tuple[list[tuple[str, float]], bytes]:
    """A model's pieces with their scores, as SentencePiece says, and its map of characters."""
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = [(reference.id_to_piece(n), reference.get_score(n)) for n in range(len(reference))]
    data = path.read_bytes()
    place = data.rindex(b"\x0a\x08nmt_nfkc\x12")  # the normalizer's name, then its map's length
    size = shift = 0
    place += 11
    while True:
        size |= (data[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if data[place - 1] < 0x80:
            return pieces, data[place : place + size]


def test_sentencepiece_of_xlm_r(tmp_path):
    path = train(tmp_path, vocab_size=2000, model_type="unigram")
    path = path.rename(tmp_path / "sentencepiece.bpe.model")
    write(tmp_path, "XLMRobertaForMaskedLM", **TINY, vocab_size=2002)
    tokenizer = read_folder(tmp_path).tokenizer  # the class follows from the model's type
    wanted = by_sentencepiece(path, {0: 3, 1: 0, 2: 2}, 1)
    nearly_same(tokenizer, [[0, *line, 2] for line in wanted])
    pieces, charsmap = vocabulary_of(path)
    first = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    reference = transformers.XLMRobertaTokenizer(
        vocab=[*first, *pieces[3:], ("<mask>", 0.0)], _spm_precompiled_charsmap=charsmap
    )
    as_transformers(tokenizer, reference)
    for role, ids in tokenizer.roles.items():
        assert ids == (getattr(reference, f"{role}_token_id"),)
    assert len(tokenizer.roles) == 7
    assert tokenizer.size() == len(reference) == 2002


def test_sentencepiece_of_mbart(tmp_path):
    """As XLM-R's, with a token for each language, one of which stands behind a text."""
    path = train(tmp_path, vocab_size=2000, model_type="unigram")
    path = path.rename(tmp_path / "sentencepiece.bpe.model")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mbart"}))
    tokenizer = read_tokenizer(tmp_path)
    wanted = by_sentencepiece(path, {0: 3, 1: 0, 2: 2}, 1)
    first = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    languages = transformers.models.mbart.tokenization_mbart.FAIRSEQ_LANGUAGE_CODES
    more = [(name, 0.0) for name in (*languages, "<mask>")]
    reference = transformers.MBartTokenizer(vocab=[*first, *vocabulary_of(path)[0][3:], *more])
    number = reference.lang_code_to_id["en_XX"]
    nearly_same(tokenizer, [[*line, 2, number] for line in wanted])
    assert tokenizer.size() == len(reference) == 2027 and tokenizer.suffix_length() == 2
    plain = reference("a film")["input_ids"]
    assert tokenizer.encode(["a film"], 99)[0].tolist() == plain
    for role in ("bos", "eos", "pad", "unk", "mask"):
        assert tokenizer.roles[role] == (getattr(reference, f"{role}_token_id"),)
    settings(tmp_path, src_lang="ro_RO")
    other = read_tokenizer(tmp_path).encode(["a film"], 99)[0]
    assert other.tolist() == [*plain[:-1], reference.lang_code_to_id["ro_RO"]]
    settings(tmp_path, src_lang="xx_XX")
    with pytest.raises(Corrupt, match="no language token"):
        read_tokenizer(tmp_path)


def test_sentencepiece_of_t5_writes(tmp_path, capsys):
    path = train(tmp_path, vocab_size=2000, model_type="unigram", **OF_T5)
    path = path.rename(tmp_path / "spiece.model")
    more = {"eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0}
    model = write(tmp_path, "T5ForConditionalGeneration", **T5, vocab_size=2128, **more)
    settings(tmp_path, tokenizer_class="T5Tokenizer", extra_ids=100, eos_token="</s>")
    tokenizer = read_folder(tmp_path).tokenizer
    nearly_same(tokenizer, [[*line, 1] for line in by_sentencepiece(path, {}, 0)])
    pieces, charsmap = vocabulary_of(path)
    sentinels = [(f"<extra_id_{number}>", 0.0) for number in range(99, -1, -1)]
    reference = transformers.T5Tokenizer(
        vocab=[*pieces, *sentinels], _spm_precompiled_charsmap=charsmap
    )
    as_transformers(tokenizer, reference)
    assert tokenizer.control["<extra_id_0>"] == reference.convert_tokens_to_ids("<extra_id_0>")
    assert tokenizer.roles == {"unk": (2,), "eos": (1,), "pad": (0,)}
    assert tokenizer.suffix_length() == 1
    wanted = continued(model, reference(PROMPT)["input_ids"])
    assert generated(tmp_path, capsys) == tokenizer.decode(wanted)
    assert len(set(wanted)) > 1
    assert main(["generate", str(tmp_path), " "]) == 1
    assert "an empty prompt" in capsys.readouterr().err


def test_sentencepiece_of_llama(tmp_path):
    more = {"byte_fallback": True, "remove_extra_whitespaces": False}
    path = train(tmp_path, vocab_size=2000, model_type="bpe", **more)
    path = path.rename(tmp_path / "tokenizer.model")
    write(tmp_path, "LlamaForCausalLM", **TINY, vocab_size=2001)
    (tmp_path / "added_tokens.json").write_text('{"<pad>": 2000}')
    settings(tmp_path, tokenizer_class="LlamaTokenizer", add_bos_token=True, pad_token="<pad>")
    tokenizer = read_folder(tmp_path).tokenizer
    same(tokenizer, [[1, *line] for line in by_sentencepiece(path, {}, 0)], some_lines())
    assert tokenizer.roles == {"unk": (0,), "bos": (1,), "eos": (2,), "pad": (2000,)}
    assert tokenizer.suffix_length() == 0
    (tmp_path / "added_tokens.json").write_text('{"<pad>": 2001}')
    with pytest.raises(Corrupt, match=r"'<pad>' has id 2001; wanted: ids from 2000 on"):
        read_folder(tmp_path)


def test_sentencepiece_of_xlnet(tmp_path):
    symbols = ["<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
    path = train(tmp_path, vocab_size=2000, model_type="unigram", control_symbols=symbols)
    path = path.rename(tmp_path / "spiece.model")
    shape = {"d_model": 8, "n_layer": 2, "n_head": 2, "d_inner": 9}
    write(tmp_path, "XLNetLMHeadModel", **shape, vocab_size=2000)
    tokenizer = read_folder(tmp_path).tokenizer
    pieces, charsmap = vocabulary_of(path)
    reference = transformers.XLNetTokenizer(
        vocab=pieces, unk_id=0, _spm_precompiled_charsmap=charsmap
    )
    as_transformers(tokenizer, reference)
    assert tokenizer.suffix_length() == 2
    assert tokenizer.ids("``Fine'' café").tolist() == tokenizer.ids('"Fine" cafe').tolist()
    settings(tmp_path, do_lower_case=True)
    assert read_tokenizer(tmp_path).ids("FINE").tolist() == tokenizer.ids("fine").tolist()


def pieces_of(path: Path) -> list[str]:
    """A model's pieces in their order."""
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [reference.id_to_piece(number) for number in range(len(reference))]


def test_sentencepiece_of_m2m100(tmp_path, capsys):
    """Ids by a vocab.json, a language before a text and an end behind it."""
    path = train(tmp_path, vocab_size=2000, model_type="unigram")
    path = path.rename(tmp_path / "sentencepiece.bpe.model")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "m2m_100"}))
    words = ["<s>", "<pad>", "</s>", "<unk>", *reversed(pieces_of(path)[3:])]
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text(json.dumps({word: number for number, word in enumerate(words)}))
    tokenizer = read_tokenizer(tmp_path)
    reference = transformers.M2M100Tokenizer(str(vocabulary), str(path), src_lang="en")
    texts = without_tokens()
    numbers = {name: words.index(name) for name in words}
    spm = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = [[numbers.get(each, 3) for each in line] for line in spm.encode(texts, out_type=str)]
    first, end = reference.get_lang_id("en"), 2
    nearly_same(tokenizer, [[first, *line, end] for line in pieces], texts)
    as_transformers(tokenizer, reference)
    assert tokenizer.size() == 2001 + 100 and tokenizer.suffix_length() == 1
    for code in ("af", "en", "zu"):
        assert tokenizer.control[f"__{code}__"] == reference.get_lang_id(code)
    assert tokenizer.decode(tokenizer.encode(["a fine film"], 99)[0]) == "a fine film"
    model = write(tmp_path, "M2M100ForConditionalGeneration", **SIDES, vocab_size=2112)
    over_http = {}
    for beams in (1, 3):
        for source, target in (("en", "fr"), ("zu", "de")):
            reference.src_lang, first = source, reference.get_lang_id(target)
            ids = reference(PROMPT)["input_ids"]
            wanted = continued(model, ids, forced_bos_token_id=first, num_beams=beams)
            assert wanted[0] == first
            how = ("--from", source, "--to", target, "--beams", str(beams))
            assert generated(tmp_path, capsys, *how) == tokenizer.decode(wanted)
            if beams == 1:
                over_http[source, target] = tokenizer.decode(wanted)
    assert len(set(over_http.values())) == 2
    with talking(language_model(read_published(str(tmp_path)))) as talk:
        likeliest = {"max_tokens": 6, "temperature": 0}
        for (source, target), wanted in over_http.items():
            body = talk.complete(PROMPT, src_lang=source, tgt_lang=target, **likeliest)
            assert body["choices"][0]["text"] == wanted
        for param in ("src_lang", "tgt_lang"):
            status, _, body = talk.post("/v1/completions", prompt=PROMPT, **{param: "xx"})
            assert (status, body["error"]["param"]) == (400, param)
    for word, told in (("--to", "no token says 'xx'"), ("--from", "no token says 'xx'")):
        assert main(["generate", str(tmp_path), PROMPT, word, "xx"]) == 1
        assert told in capsys.readouterr().err
    settings(tmp_path, src_lang="fr")
    assert read_tokenizer(tmp_path).encode(["a"], 9)[0][0] == reference.get_lang_id("fr")
    settings(tmp_path, src_lang="xx")
    with pytest.raises(Corrupt, match="no language token"):
        read_tokenizer(tmp_path)
    settings(tmp_path, language_codes="all")
    with pytest.raises(Corrupt, match="language_codes is 'all'"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    vocabulary.write_text(json.dumps({word: number for number, word in enumerate(words[:1500])}))
    with pytest.raises(Corrupt, match=r"1499 of the 2000 pieces.*from the same model"):
        read_tokenizer(tmp_path)


def test_sentencepiece_of_marian(tmp_path, capsys):
    """One vocabulary for two models: texts are cut by the source's, answers read by both."""
    (tmp_path / "other").mkdir()
    target = train(tmp_path / "other", vocab_size=1500, model_type="bpe")
    target = target.rename(tmp_path / "target.spm")
    source = train(tmp_path, vocab_size=2000, model_type="unigram").rename(tmp_path / "source.spm")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "marian"}))
    ours, theirs = pieces_of(source), pieces_of(target)
    only = [each for each in theirs if each not in ours]
    assert len(only) > 50
    words = ["</s>", "<unk>", *sorted({*ours[3:], *only}), ">>fra<<", ">>deu<<", "<pad>"]
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text(json.dumps({word: number for number, word in enumerate(words)}))
    settings(tmp_path, source_lang="en", target_lang="fr")
    tokenizer = read_tokenizer(tmp_path)
    with pytest.warns(UserWarning, match="sacremoses"):
        reference = transformers.MarianTokenizer(str(source), str(target), str(vocabulary))
    texts = without_tokens()
    spm = sentencepiece.SentencePieceProcessor(model_file=str(source))
    numbers = {word: number for number, word in enumerate(words)}
    pieces = [[numbers.get(each, 1) for each in line] for line in spm.encode(texts, out_type=str)]
    nearly_same(tokenizer, [[*line, 0] for line in pieces], texts)
    as_transformers(tokenizer, reference)
    assert tokenizer.roles["eos"] == (0,) and tokenizer.roles["pad"] == (len(words) - 1,)
    assert tokenizer.size() == len(words)
    for text in (">>fra<< a fine film", ">>deu<<a fine film"):
        assert tokenizer.encode([text], 99)[0].tolist() == reference(text)["input_ids"]
    word = next(each for each in only if len(each) > 3 and each.startswith("\u2581"))
    answer = [numbers[word], numbers["\u2581film"], 0]
    assert tokenizer.decode(answer) == reference.decode(answer, skip_special_tokens=True)
    assert tokenizer.token(numbers[word]) == word
    assert numbers[word] not in tokenizer.ids(f"\0{word} {word} \0{word[1:]}").tolist()
    pad = len(words) - 1
    model = write(tmp_path, "MarianMTModel", **SIDES, vocab_size=len(words), **of_marian(pad))
    with torch.no_grad():
        model.final_logits_bias[0, pad] = 1e4  # as the likeliest of all, which no answer may have
    never = {"bad_words_ids": [[pad]], "decoder_start_token_id": pad, "eos_token_id": 0}
    model.generation_config.update(**never)
    model.save_pretrained(tmp_path)
    for beams in (1, 3):
        wanted = continued(model, reference(PROMPT)["input_ids"], num_beams=beams)
        assert pad not in wanted
        assert generated(tmp_path, capsys, "--beams", str(beams)) == tokenizer.decode(wanted)
    assert main(["generate", str(tmp_path), PROMPT, "--from", "fr"]) == 1
    assert "no token says 'fr'" in capsys.readouterr().err
    said = json.loads((tmp_path / "generation_config.json").read_text())
    for never, told in (
        ([[pad, 3]], "not one token"),
        (3, "not one token"),
        ([[70_000]], "names token 70000"),
    ):
        (tmp_path / "generation_config.json").write_text(
            json.dumps({**said, "bad_words_ids": never})
        )
        assert main(["generate", str(tmp_path), PROMPT]) == 1
        assert told in capsys.readouterr().err
    settings(tmp_path, separate_vocabs=True)
    with pytest.raises(Corrupt, match="each side has ids of its own"):
        read_tokenizer(tmp_path)


def test_a_class_that_adds_unknown_things_is_refused(tmp_path):
    train(tmp_path, vocab_size=500, model_type="unigram")
    settings(tmp_path, tokenizer_class="XGLMTokenizer")
    told = r"'XGLMTokenizer' is known for m\.model.*a tokenizer\.json"
    with pytest.raises(BadInput, match=told):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "fields", "told"),
    [
        ("T5Tokenizer", {"extra_ids": -1}, "extra_ids is -1"),
        ("XLNetTokenizer", {}, "no sep token"),
        ("XLMRobertaTokenizer", {}, "does not begin with <unk>, <s> and </s>"),
    ],
)
def test_a_model_that_is_not_its_class_is_refused(tmp_path, name, fields, told):
    train(tmp_path, vocab_size=500, model_type="unigram", **OF_T5)
    settings(tmp_path, tokenizer_class=name, **fields)
    with pytest.raises(Corrupt, match=told):
        read_tokenizer(tmp_path)
