"""``lmwright inspect`` and ``compare`` on tiny folders, against numbers counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmwright.cli.inspect import anatomy_of
from lmwright.cli.main import main
from lmwright.models.files.published import describe
from lmwright.models.zoo import gpt2
from tests.cli.folders import change, folder_of


def table(said: str) -> dict[str, list[str]]:
    """The rows of the printed table, from the line with the names on."""
    rows = {}
    for line in said.splitlines():
        title, *cells = (cell.strip() for cell in line.split("  ") if cell.strip())
        rows[title] = cells
    return rows


def by_hand(kind: str, at: int) -> dict[str, int]:
    """Parameters, weights that a token meets, FLOPs and kept numbers, one product at a time."""
    if kind == "gpt2":
        d, tokens, positions, layers = 12, 40, 16, 2
        products = layers * (d * 3 * d + d * d + d * 4 * d + 4 * d * d)
        biases = layers * (3 * d + d + 4 * d + d)
        norms = (2 * layers + 1) * 2 * d
        held = products + biases + norms + (tokens + positions) * d
        active, attention, kept = products + tokens * d, layers * 2 * d, layers * 2 * d
    elif kind == "t5":
        d, heads, tokens, layers, inner = 10, 24, 40, 2, 14
        self_attention = 4 * d * heads
        encoder = layers * (self_attention + 2 * d * inner)
        decoder = layers * (2 * self_attention + 2 * d * inner)
        held = encoder + decoder + tokens * d + 2 * 32 * 4 + (2 * layers + 1 + 3 * layers + 1) * d
        active = encoder + decoder + tokens * d
        attention, kept = 3 * layers * 2 * heads, layers * 2 * heads
    else:
        d, tokens, layers, inner, experts = 12, 40, 3, 14, 5
        attend = d * d + 2 * d * 6 + d * d
        expert = 3 * d * inner
        held = layers * (attend + experts * (expert + d) + 2 * d) + d + 2 * tokens * d
        active = layers * (attend + 2 * expert + experts * d) + tokens * d
        attention, kept = layers * 2 * d, layers * 2 * 6
    # A multiplication and an addition for each weight, and for each number of scores and values.
    return {"held": held, "active": active, "flops": 2 * (active + attention * at), "kept": kept}


@pytest.mark.parametrize("at", [1, 100])
@pytest.mark.parametrize("kind", ["gpt2", "t5", "mixtral"])
def test_figures_equal_those_counted_by_hand(tmp_path: Path, kind: str, at: int) -> None:
    found, wanted = anatomy_of(describe(folder_of(kind, tmp_path / kind)), at), by_hand(kind, at)
    assert found.parameters == sum(found.parts.values()) == wanted["held"]
    assert found.active == wanted["active"]
    assert found.flops == wanted["flops"]
    assert found.kv == wanted["kept"]
    per_weight = {"fp32": 4, "fp16": 2, "int8": 1, "int4": 0.5}
    assert found.memory() == {name: each * wanted["held"] for name, each in per_weight.items()}
    assert found.longest == {"gpt2": 16, "t5": None, "mixtral": 64}[kind]


def test_a_window_bounds_the_cost_of_attention(tmp_path: Path) -> None:
    folder = folder_of("mixtral", tmp_path / "mixtral")
    whole = anatomy_of(describe(folder), 100)
    change(folder, sliding_window=10)
    assert whole.flops - anatomy_of(describe(folder), 100).flops == 3 * 4 * 12 * (100 - 10)


@pytest.mark.parametrize("kind", ["gpt2", "t5", "mixtral"])
def test_inspect_draws_and_counts(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, wanted = folder_of(kind, tmp_path / kind), by_hand(kind, 7)
    assert main(["inspect", folder, "--tokens", "7"]) == 0
    drawing, _, rest = capsys.readouterr().out.partition("\n\n")
    expected = {
        "gpt2": ("40 tokens + 16 positions", "2 ×", "attention 3 heads of 4, causal"),
        "t5": (
            "encoder (width 10)",
            "attention 4 heads of 6, full, to encoder",
            "bucketed relative",
        ),
        "mixtral": ("attention 4 heads on 2 of 3", "2 of 5 experts of 14", "RMSNorm"),
    }
    for words in (*expected[kind], "head: 40 outputs"):
        assert words in drawing
    rows = table(rest)
    assert rows["parameters"] == [f"{wanted['held']:,}"]
    assert rows["FLOPs a token at 7"] == [f"{wanted['flops'] / 1e9:.3f} G"]
    assert rows["KV cache a token, fp16"] == [f"{2 * wanted['kept']} bytes"]
    assert next(iter(rows.values())) == [] and kind in rows


def test_a_config_alone_is_enough_and_gives_the_published_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GPT-2 as published has 124,439,808 weights."""
    (tmp_path / "config.json").write_text(json.dumps(gpt2.FAMILY.config(gpt2.sized("gpt2"))))
    assert main(["inspect", str(tmp_path)]) == 0
    rows = table(capsys.readouterr().out.partition("\n\n")[2])
    assert rows["parameters"] == ["124,439,808"]
    active = 12 * 12 * 768**2 + 50257 * 768
    assert rows["FLOPs a token at 1,024"] == [f"{(2 * active + 12 * 4 * 768 * 1024) / 1e9:.3f} G"]
    assert rows["KV cache a token, fp16"] == [f"{2 * 2 * 12 * 768:,} bytes"]
    assert rows["weights in fp32"] == ["497.8 MB"]
    assert rows["weights in int4"] == ["62.2 MB"]
    assert rows["longest text"] == ["1,024 tokens"]


def test_compare_sets_two_models_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [folder_of(kind, tmp_path / kind) for kind in ("mixtral", "gpt2")]
    assert main(["compare", *folders, "--tokens", "3"]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["mixtral"] == ["gpt2"]
    counts = [by_hand(kind, 3) for kind in ("mixtral", "gpt2")]
    assert rows["parameters"] == [f"{each['held']:,}" for each in counts]
    assert rows["experts"][1] == "–" and rows["feed-forward"][0] == "–"
    assert rows["met by a token"][0] == f"{counts[0]['active']:,}"
    assert rows["longest text"] == ["64 tokens", "16 tokens"]


@pytest.mark.parametrize("verb", ["inspect", "compare"])
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (None, "no config.json in"),
        ({"model_type": "gtp2"}, "did you mean 'gpt2'"),
        ({"model_type": 7}, "no family is called 7"),
        ({"model_type": "qwen9"}, "xlnet; do this: take a model of one of these\n"),
        ({"auto_map": {"AutoModel": "x.Model"}}, "asks to run code"),
        ({"n_head": 0}, "a gpt2 config"),
        ({"n_embd": "wide"}, "a gpt2 config"),
        ({"n_embd": -12}, "stacks.0.width: Input should be greater"),
        ({"n_embd": 0}, "a gpt2 config"),
        ({"vocab_size": -1}, "embedding.vocabulary: Input should be greater"),
        ({"n_positions": 1.5}, "embedding.positions: Input should be a valid integer"),
        ({"n_layer": None}, "a gpt2 config"),
        ({"activation_function": "swash"}, "a gpt2 config"),
    ],
    ids=str,
)
def test_what_is_no_model_is_refused_in_words(
    tmp_path: Path,
    verb: str,
    fields: dict | None,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = folder_of("gpt2", tmp_path / "odd")
    good = folder_of("gpt2", tmp_path / "good")
    if fields is None:
        (Path(folder) / "config.json").unlink()
    else:
        change(folder, **fields)
    assert main([verb, folder] if verb == "inspect" else [verb, good, folder]) == 1
    told = capsys.readouterr()
    assert said in told.err and told.err.startswith("lmwright: ")
    assert told.err.count("\n") == 1 and told.out == ""
    assert "fault of lmwright" not in told.err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "no config.json"),
        ("nowhere.gguf", "nowhere.gguf"),
        ("notes.txt", "notes.txt"),
        ("asset:nothing/here", "nothing"),
        ("model.bin", "pickle"),
    ],
)
@pytest.mark.parametrize("verb", ["inspect", "generate"])
def test_a_path_that_is_no_model_is_refused_in_words(
    tmp_path: Path, verb: str, name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("nothing of the kind")
    (tmp_path / "model.bin").write_bytes(b"\x80\x04.")
    address = name if name.startswith("asset:") else str(tmp_path / name)
    assert main([verb, address, *(["w1"] if verb == "generate" else [])]) == 1
    told = capsys.readouterr()
    assert said in told.err and "Traceback" not in told.err
    assert "fault of lmwright" not in told.err


def test_a_quantised_model_is_drawn_and_said_not_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of("gpt2", tmp_path / "gpt2")
    change(folder, quantization_config={"quant_method": "gptq"})
    assert main(["inspect", folder]) == 0
    assert "quantised by gptq: it can be drawn, and not be run" in capsys.readouterr().out


def test_what_models_are_made_of_is_said_as_json_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of("gpt2", tmp_path / "gpt2")
    assert main(["inspect", folder, "--json", "--tokens", "10"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["parameters"] == by_hand("gpt2", 10)["held"] == sum(one["parts"].values())
    assert main(["compare", folder, folder, "--json", "--tokens", "10"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first == second and first.items() <= one.items()


def test_a_published_head_is_named_with_its_labels(tmp_path, capsys):
    folder = folder_of("bert", tmp_path / "in")
    assert main(["inspect", folder]) == 0
    assert "published head: none: hidden states" in capsys.readouterr().out
    named = {"1": "good", "0": "bad"}
    change(folder, architectures=["BertForSequenceClassification"], id2label=named)
    assert main(["inspect", folder]) == 0
    said = capsys.readouterr().out
    assert "published head: text classification; labels: bad, good" in said
    assert "→ 2 outputs" in said
    assert main(["inspect", folder, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["head"], told["labels"]) == ("text classification", ["bad", "good"])
    change(folder, architectures=["SomethingElse"])
    assert main(["inspect", folder]) == 0
    assert "published head" not in capsys.readouterr().out
