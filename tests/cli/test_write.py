"""``lmwright generate`` and ``chat`` on tiny folders: the text of whole passes, or a fault."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lmwright.cli.main import main
from lmwright.models.core.ragged import pack
from lmwright.models.files.folder import read_folder
from lmwright.models.files.published import read_published
from lmwright.models.network.network import build, fill
from lmwright.models.text_model import language_model
from lmwright.text.generation import SamplingParams
from tests.cli.folders import change, folder_of
from tests.models.test_foreign import folder_of as foreign_folder
from tests.serve.talking import talking, write_model

PROMPT = "w3 w17 w9"


def likeliest(folder: str, prompt: list[int], most: int) -> str:
    """The likeliest tokens one after another, each by a pass over all before it."""
    found = read_folder(Path(folder))
    network = build(found.spec, found.heads["lm"][0])
    fill(network, found.weights)
    pair = len(found.spec.stacks) > 1
    known = [0] if pair else list(prompt)
    start = len(known)
    for _ in range(most):
        target = pack([np.array(known)])
        batch = {"encoder": pack([np.array(prompt)]), "decoder": target} if pair else target
        with torch.no_grad():
            known.append(int(network(batch)[-1].argmax()))
    return " ".join(f"w{number}" for number in known[start:])


def summed(folder: str, prompt: list[int], words: list[str]) -> float:
    """The summed log-probabilities of an answer's words, by one pass over prompt and answer."""
    found = read_folder(Path(folder))
    network = build(found.spec, found.heads["lm"][0])
    fill(network, found.weights)
    pair, answer = len(found.spec.stacks) > 1, [int(word[1:]) for word in words]
    target = pack([np.array([*([0] if pair else prompt), *answer])])
    batch = {"encoder": pack([np.array(prompt)]), "decoder": target} if pair else target
    with torch.no_grad():
        logs = torch.log_softmax(network(batch).double(), -1)[-1 - len(answer) : -1]
    return float(sum(row[token] for row, token in zip(logs, answer, strict=True)))


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a verb prints, if it succeeds."""
    assert main(words) == 0
    return capsys.readouterr().out


def fault(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a verb says if it fails; it writes no text."""
    assert main(words) == 1
    told = capsys.readouterr()
    assert "Traceback" not in told.err and "fault of lmwright" not in told.err
    *_, line = told.err.splitlines()
    assert line.startswith("lmwright: ") and told.out == ""
    return line


@pytest.fixture(params=["gpt2", "t5"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return folder_of(request.param, tmp_path / request.param)


def test_the_likeliest_text_is_that_of_whole_passes(
    folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = likeliest(folder, [3, 17, 9], 8)
    assert len(set(wanted.split())) > 1
    assert said(["generate", folder, PROMPT, "--max-tokens", "8"], capsys).split() == wanted.split()
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT))
    assert said(["generate", folder, "-", "--max-tokens", "8"], capsys).split() == wanted.split()
    narrow = ("--max-tokens", "8", "--temperature", "9", "--top-k", "1")
    one = said(["generate", folder, PROMPT, *narrow], capsys)
    assert one.split() == wanted.split()


def test_what_is_drawn_depends_on_the_seed(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", folder, PROMPT, "--max-tokens", "10", "--temperature", "5", "--seed"]
    texts = [said([*words, seed], capsys) for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]
    assert all(len(text.split()) == 10 for text in texts)


def test_beams_find_no_worse_than_the_likeliest_tokens(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for prompt in (PROMPT, "w1", "w30 w8", "w5 w5 w22"):
        words = ["generate", folder, prompt, "--max-tokens", "4", "--beams"]
        three, one = (said([*words, beams], capsys).split() for beams in ("3", "1"))
        ids = [int(word[1:]) for word in prompt.split()]
        assert len(three) == 4 and one == likeliest(folder, ids, 4).split()
        assert summed(folder, ids, three) >= summed(folder, ids, one) - 1e-4


def test_an_end_that_the_folder_names_ends_the_text(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = likeliest(folder, [3, 17, 9], 8).split()
    end = whole[3]
    change(folder, eos_token_id=int(end[1:]))
    text = said(["generate", folder, PROMPT, "--max-tokens", "8"], capsys)
    assert text.split() == whole[: whole.index(end)]


def test_what_the_generation_config_asks_is_kept_or_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of("gpt2", tmp_path / "gpt2")
    path = tmp_path / "gpt2" / "generation_config.json"
    words = ["generate", folder, PROMPT, "--max-tokens", "10"]
    change(folder, no_repeat_ngram_size=2)
    path.write_text(json.dumps({"no_repeat_ngram_size": 1, "eos_token_id": 5, "min_length": 13}))
    text = said([*words], capsys).split()
    assert len({*text, *PROMPT.split()}) == 13 and "w5" not in text
    path.write_text(json.dumps({"forced_eos_token_id": 5, "eos_token_id": 5, "min_length": 13}))
    assert len(said(words, capsys).split()) == 9
    first = likeliest(folder, [3, 17, 9], 1)
    asks = {"begin_suppress_tokens": [int(first[1:])], "encoder_no_repeat_ngram_size": 3}
    path.write_text(json.dumps({**asks, "min_new_tokens": 0, "num_beams": 4}))
    assert main(words) == 0
    told = capsys.readouterr()
    assert told.out.split()[0] != first
    line = "not read: encoder_no_repeat_ngram_size 3 of its generation config"
    assert line in told.err.splitlines()
    for name, value in (
        ("repetition_penalty", -1),
        ("repetition_penalty", "2"),
        ("no_repeat_ngram_size", 1.5),
        ("min_length", [3]),
        ("forced_eos_token_id", 40),
        ("begin_suppress_tokens", [-1]),
    ):
        path.write_text(json.dumps({name: value}))
        assert name in fault(words, capsys)


def test_the_text_stops_where_the_context_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """16 tokens: a prompt of 15 leaves room for one, one of 16 or 17 for none."""
    folder = folder_of("gpt2", tmp_path / "gpt2")
    prompt = [f"w{number}" for number in range(17)]
    assert len(said(["generate", folder, " ".join(prompt[:3])], capsys).split()) == 13
    wanted = likeliest(folder, list(range(15)), 1)
    assert said(["generate", folder, " ".join(prompt[:15])], capsys).split() == [wanted]
    for count in (16, 17):
        line = fault(["generate", folder, " ".join(prompt[:count])], capsys)
        assert f"{count + 1} tokens; wanted: at most 16" in line


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(
    folder: str, prompt: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "an empty prompt" in fault(["generate", folder, prompt], capsys)
    monkeypatch.setattr(sys, "stdin", io.StringIO(prompt))
    assert "an empty prompt" in fault(["generate", folder, "-"], capsys)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--top-p", "0"], "top_p 0.0"),
        (["--top-p", "1.5"], "top_p 1.5"),
        (["--top-p", "nan"], "top_p nan"),
        (["--temperature", "inf"], "temperature inf"),
        (["--beams", "2", "--temperature", "1"], "beams with a temperature"),
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(
    tmp_path: Path, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of("gpt2", tmp_path / "gpt2")
    assert told in fault(["generate", folder, PROMPT, *options], capsys)


def test_more_beams_than_tokens_are_no_fault_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of("gpt2", tmp_path / "gpt2")
    text = said(["generate", folder, PROMPT, "--beams", "50", "--max-tokens", "3"], capsys)
    assert len(text.split()) == 3


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("bert", "is no causal language model"),
        ("llama", "the model has no head.out.weight"),
    ],
)
def test_what_is_no_language_model_is_refused(
    tmp_path: Path, kind: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(kind, tmp_path / kind)
    assert told in fault(["generate", folder, PROMPT], capsys)
    assert told in fault(["chat", folder], capsys)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_without_a_part_is_refused(
    folder: str, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(folder) / missing).unlink()
    assert missing in fault(["generate", folder, PROMPT], capsys)


@pytest.mark.parametrize("here", [True, False], ids=["here", "hosted"])
def test_a_hosted_model_stands_where_one_of_this_machine_does(
    tmp_path: Path,
    here: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The words that two verbs print, from the folder and from a server of it."""
    folder = write_model(tmp_path / "tiny")
    model = language_model(read_published(str(folder)))
    drawn = ("--max-tokens", "9", "--temperature", "1.5", "--seed", "3", "--top-p", "0.9")
    with talking(model) as talk:
        address = f"hosted:tiny@http://127.0.0.1:{talk.port}/v1"
        words = [str(folder)] if here else [address]
        how = SamplingParams(9, temperature=1.5, top_p=0.9)
        assert said(["generate", *words, "The", *drawn], capsys) == (
            "".join(model.complete("The", how, 3)) + "\n"
        )
        hello = [{"role": "user", "content": "hello"}]
        first = "".join(model.reply(hello, how, 3))
        assert said(["generate", *words, "hello", "--message", *drawn], capsys) == first + "\n"
        monkeypatch.setattr(sys, "stdin", io.StringIO("hello\nagain\n\n"))
        second = [
            *hello,
            {"role": "assistant", "content": first},
            {"role": "user", "content": "again"},
        ]
        both = [first, "".join(model.reply(second, how, 4))]
        assert said(["chat", *words, *drawn], capsys) == "\n".join([*both, ""])
    assert model.template is not None
    model.template.close()


def test_a_family_that_is_not_ours_writes_and_says_through_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign_folder("opt", tmp_path / "opt")
    template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    capsys.readouterr()  # what the reference says while it writes
    assert main(["generate", str(folder), "w3 w17", "--max-tokens", "4"]) == 0
    told = capsys.readouterr()
    line = "opt is not of lmwright's core; it runs through transformers"
    assert told.err.splitlines() == [f"reading {folder}", line]
    monkeypatch.setattr(sys, "stdin", io.StringIO("w3 w17\n"))
    answer = said(["chat", str(folder), "--max-tokens", "4", "--temperature", "0"], capsys)
    assert answer == told.out and answer.split()


def test_an_address_that_cannot_be_asked_is_said_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = "hosted:m@https://x.example/v1"
    assert "SOME_KEY is not set" in fault(
        ["generate", address, "x", "--key-from", "SOME_KEY"], capsys
    )
    assert "not the key" in fault(["chat", address, "--key-from", "sk-hush"], capsys)
    folder = folder_of("gpt2", tmp_path / "gpt2")
    assert "a key for a model of this machine" in fault(
        ["generate", folder, PROMPT, "--key-from", "SOME_KEY"], capsys
    )
    for verb in ("inspect", "serve"):
        assert "nothing is on this machine" in fault([verb, address], capsys)


def test_a_chat_needs_a_template(
    folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PROMPT}\n"))
    assert "no chat template" in fault(["chat", folder], capsys)


def test_a_chat_answers_each_line_with_all_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of("gpt2", tmp_path / "gpt2")
    template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    (Path(folder) / "chat_template.jinja").write_text(template)
    monkeypatch.setattr(sys, "stdin", io.StringIO("w3 w17\nw5\n\nw6\n"))
    answers = said(["chat", folder, "--max-tokens", "3", "--temperature", "0"], capsys).splitlines()
    first = likeliest(folder, [3, 17], 3).split()
    assert answers[0].split() == first
    known = [3, 17, *(int(word[1:]) for word in first), 5]
    assert answers[1].split() == likeliest(folder, known, 3).split()
    assert len(answers) == 2
