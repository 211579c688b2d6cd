"""Families that are not of our core: through transformers they say what transformers says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from lmwright.core.errors import BadInput, Corrupt, LmwrightError, MissingPart
from lmwright.core.random import stream
from lmwright.models.beam_search import beam_search
from lmwright.models.core.device import Placement
from lmwright.models.core.ragged import pack
from lmwright.models.decode import DecodingState, generate
from lmwright.models.files.weights import read_tensors, write_tensors
from lmwright.models.loading import load_text_model
from lmwright.models.text_model import TextModel
from lmwright.tables import FAMILIES
from lmwright.text.generation import SamplingParams
from tests.cli.folders import WORDS, change
from tests.serve.talking import talking

SMALL = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
KINDS: dict[str, dict[str, Any]] = {
    "gpt_neox": {**SMALL, "intermediate_size": 40, "rotary_pct": 0.5},
    "opt": {**SMALL, "ffn_dim": 40, "word_embed_proj_dim": 24},
    "stablelm": {**SMALL, "intermediate_size": 40, "num_key_value_heads": 2},
}
PROMPTS = [np.array([3, 17, 9]), np.array([5]), np.array([8, 30, 2, 2, 11])]


def folder_of(kind: str, folder: Path, **more: Any) -> Path:
    """A folder that transformers wrote, its weights drawn wide, and a tokenizer of forty words."""
    import transformers

    config = transformers.AutoConfig.for_model(kind, **{**KINDS.get(kind, SMALL), **more})
    config.bos_token_id = config.pad_token_id = None
    config.eos_token_id = 39
    torch.manual_seed(4)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    (folder / "tokenizer.json").write_text(made.to_str())
    return folder


def theirs(folder: Path) -> Any:
    """The model as transformers reads the folder itself."""
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()


def opened(folder: Path) -> TextModel[Any]:
    return load_text_model(str(folder), lambda line: None)


def fault(folder: Path) -> LmwrightError:
    """What is wrong with a folder, in one line."""
    with pytest.raises(LmwrightError) as caught:
        opened(folder)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert request.param not in FAMILIES
    return folder_of(request.param, tmp_path_factory.mktemp("models") / request.param)


@torch.inference_mode()
def test_logits_and_likeliest_tokens_are_those_of_transformers_own_decoding(folder: Path) -> None:
    ours, reference, seen = opened(folder), theirs(folder), set[int]()
    for prompt in PROMPTS:
        whole = reference.generate(
            torch.tensor(prompt)[None],
            max_new_tokens=12,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        wanted = whole.sequences[0, len(prompt) :].tolist()
        seen |= set(wanted)
        steps = generate(
            ours.network, [prompt], SamplingParams(12, stop_ids=ours.stop_ids), stream(0, "x")
        )
        picks = [step[0] for step in steps]
        assert [pick.id for pick in picks] == wanted
        logs = torch.stack([pick.logprobs_v for pick in picks])
        expected = torch.log_softmax(torch.cat(whole.logits).double(), dim=-1)
        torch.testing.assert_close(logs, expected, rtol=1e-5, atol=1e-5)
    assert len(seen) > 3


@torch.inference_mode()
@torch.inference_mode()
def test_vectors_in_place_of_ids_are_read(folder: Path) -> None:
    network = opened(folder).network
    table = network.model.get_input_embeddings().weight
    given = {2: [(1, table[torch.from_numpy(PROMPTS[2][1:4])])]}
    blank = [*PROMPTS[:2], np.array([8, 0, 0, 0, 11])]
    wanted, batch = pack(PROMPTS), pack(blank, vectors=given)
    torch.testing.assert_close(network.next(batch, None), network.next(wanted, None))
    torch.testing.assert_close(network.hidden(batch), network.hidden(wanted))


def test_what_its_files_ask_of_answers_is_kept_or_named(tmp_path: Path) -> None:
    folder = folder_of(next(iter(KINDS)), tmp_path / "model")
    reference, prompt, told = theirs(folder), PROMPTS[0], list[str]()
    asked = {"eos_token_id": 39, "no_repeat_ngram_size": 1, "stop_strings": ["w3"]}
    (folder / "generation_config.json").write_text(json.dumps(asked))
    ours = load_text_model(str(folder), told.append)
    decoding = SamplingParams(12, stop_ids=ours.stop_ids)
    pieces = list(ours.generate(np.array(prompt), decoding, stream(0, "x")))
    found = list({id(each.sampled): each.sampled.id for each in pieces}.values())
    given = torch.tensor(prompt)[None]
    plain, wanted = (
        reference.generate(given, max_new_tokens=12, do_sample=False, **more)[0].tolist()
        for more in ({}, {"no_repeat_ngram_size": 1})
    )
    assert found == wanted[len(prompt) :] != plain[len(prompt) :]
    assert any("stop_strings" in line for line in told)


@torch.inference_mode()
def test_documents_side_by_side_say_what_each_says_alone(folder: Path) -> None:
    """Read bit by bit, one left, one taken twice and the two continued apart."""
    ours, reference = opened(folder), theirs(folder)
    state = DecodingState(ours.network, len(PROMPTS))
    state.append(PROMPTS)
    state.select([2, 0, 2])
    known = [PROMPTS[2], PROMPTS[0], PROMPTS[2]]
    for more in ([[7], [6, 6], [21, 1]], [[4], [30], [4]]):
        new = [np.array(each) for each in more]
        known = [np.concatenate(pair) for pair in zip(known, new, strict=True)]
        logits_bv = state.append(new)
        for row_v, ids in zip(logits_bv, known, strict=True):
            wanted_v = reference(torch.tensor(ids)[None]).logits[0, -1]
            torch.testing.assert_close(row_v, wanted_v, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_beams_are_scored_as_whole_passes_score_them(folder: Path) -> None:
    ours, reference = opened(folder), theirs(folder)
    best, *others = beam_search(ours.network, PROMPTS[0], SamplingParams(5, beams=3))
    assert others and best.score >= others[0].score
    for each in (best, *others):
        ids = torch.tensor([*PROMPTS[0].tolist(), *each.tokens])
        logs_nv = torch.log_softmax(reference(ids[None]).logits[0].double(), dim=-1)
        rows = logs_nv[len(PROMPTS[0]) - 1 : -1]
        total = float(rows[range(len(each.tokens)), list(each.tokens)].sum())
        assert each.score == pytest.approx(total / len(each.tokens), abs=1e-4)


def test_in_bf16_it_says_about_the_same_and_does_not_go_back(folder: Path) -> None:
    model, half = opened(folder), opened(folder)
    half.network.place(Placement("cpu", "bf16"))
    prompt = pack([np.arange(4, 12)])
    with torch.inference_mode():
        found, wanted = (each.network.next(prompt, None) for each in (half, model))
    assert found.dtype == torch.float32 and not torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted, rtol=0.1, atol=0.1)
    with pytest.raises(BadInput, match="rounded to bf16"):
        half.network.place(Placement())


def test_a_precision_of_keys_is_refused(folder: Path) -> None:
    with pytest.raises(BadInput, match="kv is int8, and transformers runs"):
        opened(folder).network.place(Placement("cpu", "fp32", "int8"))


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_packed_weights_are_refused(folder: Path, precision: str) -> None:
    with pytest.raises(BadInput, match=f"precision is {precision}, and transformers runs"):
        opened(folder).network.place(Placement("cpu", precision))  # type: ignore[arg-type]


def test_a_folder_says_what_it_is_and_what_bounds_it(folder: Path) -> None:
    lines: list[str] = []
    model = load_text_model(str(folder), lines.append)
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    assert lines == [f"{kind} is not of lmwright's core; it runs through transformers"]
    assert model.longest == 32 and model.stop_ids == (39,) and model.template is None
    with pytest.raises(BadInput, match="33 tokens; wanted: at most 32"):
        list(model.complete("w1 " * 32, SamplingParams(1)))


def test_it_is_served_as_a_model_of_ours_is(folder: Path) -> None:
    model = opened(folder)
    with talking(model) as talk:
        body = talk.complete("w3 w17", max_tokens=6, temperature=0, echo=True, logprobs=1)
    choice = body["choices"][0]
    wanted = "".join(model.complete("w3 w17", SamplingParams(6)))
    assert choice["text"] == "w3 w17" + wanted
    ids = [WORDS.index(each) for each in re.findall(r"w\d+", choice["text"])]
    with torch.inference_mode():
        logs_nv = torch.log_softmax(theirs(folder)(torch.tensor([ids])).logits[0].double(), dim=-1)
    logs = [float(logs_nv[n, each]) for n, each in enumerate(ids[1:])]
    assert choice["logprobs"]["token_logprobs"][1 : len(ids)] == pytest.approx(logs, abs=1e-4)


def test_a_folder_of_ours_does_not_go_through_transformers(tmp_path: Path) -> None:
    from tests.cli.folders import folder_of as ours

    lines: list[str] = []
    model = load_text_model(ours("gpt2", tmp_path / "gpt2"), lines.append)
    assert type(model.network).__name__ == "Network" and not lines


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    return folder_of("gpt_neox", tmp_path / "neox")


def test_without_transformers_it_is_said_what_to_install(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    found = fault(broken)
    assert isinstance(found, MissingPart) and "pip install -c constraints.txt -e '.[hf]'" in str(
        found
    )


def test_no_code_of_a_folder_is_run(broken: Path) -> None:
    (broken / "odd.py").write_text("raise SystemExit('run')")
    change(str(broken), auto_map={"AutoModelForCausalLM": "odd.Odd"})
    assert "auto_map" in str(fault(broken))
    change(str(broken), auto_map=None)
    assert "auto_map" in str(fault(broken))
    # Where only the tokenizer's settings ask for it, nothing of it is read.
    settings = {"auto_map": {"AutoTokenizer": ["odd.Odd", None]}}
    (broken / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((broken / "config.json").read_text())
    del config["auto_map"]
    (broken / "config.json").write_text(json.dumps(config))
    assert opened(broken).longest == 32


@pytest.mark.parametrize("kind", ["gpt_neox", "gpt2"])
def test_an_adapter_beside_a_model_is_refused(kind: str, tmp_path: Path) -> None:
    """Of theirs and of ours: transformers would read both together."""
    folder = folder_of(kind, tmp_path / kind)
    assert opened(folder).longest
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere/x"}')
    assert "has an adapter (adapter_config.json), which is not read" in str(fault(folder))


def test_pickles_are_refused_and_other_files_not_looked_at(broken: Path) -> None:
    (broken / "training_args.json").write_text('{"base_model_name_or_path": "elsewhere/x"}')
    assert opened(broken).longest == 32
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    assert "pickle" in str(fault(broken))


def test_weights_must_be_those_of_the_config(broken: Path) -> None:
    path = broken / "model.safetensors"
    tensors = read_tensors(path)
    name = "gpt_neox.final_layer_norm.weight"
    write_tensors(path, {each: value for each, value in tensors.items() if each != name})
    assert isinstance(fault(broken), Corrupt) and f"missing weights {name}" in str(fault(broken))
    write_tensors(path, {**tensors, "odd.weight": torch.ones(2)})
    assert "unexpected weights odd.weight" in str(fault(broken))
    write_tensors(path, {**tensors, name: torch.ones(3, 3)})
    assert "neox" in str(fault(broken))
    write_tensors(path, {**tensors, name: tensors[name] * float("nan")})
    assert "holds NaN" in str(fault(broken))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "gpt_neoxx"}, "did you mean 'gpt_neox'?"),
        ({"model_type": "gpt_neoxx"}, "neither lmwright nor transformers has a family"),
        ({"model_type": "vit"}, "transformers has 'vit', but not as a causal language model"),
        ({"model_type": "mt5"}, "transformers has 'mt5', but not as a causal language model"),
        ({"model_type": "deberta-v2"}, "but not as a causal language model"),
        ({"model_type": 7}, "no family is called 7"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised weights"),
        ({"hidden_size": "wide"}, "transformers cannot build it"),
        ({"num_attention_heads": 0}, "transformers cannot build it"),
        ({"hidden_act": "odd"}, "transformers cannot build it"),
        ({"vocab_size": 30}, "config.json"),
    ],
    ids=str,
)
def test_a_config_that_fits_nothing_is_refused(
    broken: Path, fields: dict[str, Any], said: str
) -> None:
    change(str(broken), **fields)
    assert said in str(fault(broken))


def test_a_tokenizer_of_another_model_is_refused(broken: Path) -> None:
    path = broken / "tokenizer.json"
    made = json.loads(path.read_text())
    made["model"]["vocab"]["more"] = 40
    path.write_text(json.dumps(made))
    assert "ids go up to 40" in str(fault(broken))


@pytest.mark.parametrize("kind", ["electra", "mamba"])
def test_what_cannot_be_read_bit_by_bit_is_refused(kind: str, tmp_path: Path) -> None:
    more = {"state_size": 4} if kind == "mamba" else {"intermediate_size": 40}
    found = str(fault(folder_of(kind, tmp_path / kind, **more)))
    assert "keeps no keys and values" in found or "read token by token" in found
