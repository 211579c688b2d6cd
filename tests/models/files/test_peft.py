"""Adapter folders of PEFT: what is written is read, what is damaged or foreign is refused."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.settings import read_choice
from lmwright.models.core.linear import linears
from lmwright.models.core.ragged import pack
from lmwright.models.files.folder import read_folder
from lmwright.models.files.peft import (
    CONFIG,
    WEIGHTS,
    check_written,
    head_map,
    read_adapter,
    write_adapter,
)
from lmwright.models.files.published import located
from lmwright.models.network.merge import merged
from lmwright.models.network.network import Network, build, fill
from lmwright.models.tunes.lora import LoRA
from lmwright.tables import resolve
from lmwright.train.start import START
from tests.parity import harness, test_encoders, test_families
from tests.parity.networks import NETWORKS
from tests.parity.test_lora import adapted, trained

FAMILIES = [
    "bert", "roberta", "distilbert", "gpt2", "llama", "qwen2", "gemma3_text", "bloom", "t5", "bart",
]  # fmt: skip
TUNES = {
    "lora": LoRA(rank=2, alpha=3.0),
    "rslora": LoRA(rank=3, scaling="root-rank", ranks={"*.out": 2}, alphas={"*.up": 5.0}),
    "dora": LoRA(rank=2, dora=True, linears="attention"),
}


def single(name: str) -> tuple[Network, Any]:
    """A tiny network of a family in fp32, as files have it."""
    network, batch = NETWORKS[name]()
    return network.float(), batch


def put(folder: Path, name: str, network: Network) -> dict[str, Any]:
    """Apply the adapter in a folder to a network; the tune."""
    family = resolve("families", name)
    found = read_adapter(folder, family, network.spec)
    read_choice("tunes", found.tune, "tune", resolve).apply(network, 0)
    found.put(network, [], str(folder))
    return found.tune


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tune", TUNES)
def test_what_is_written_is_read(name, tune, tmp_path):
    network, batch = single(name)
    family = resolve("families", name)
    replace(TUNES[tune], head=False).apply(network, seed=5)
    trained(network)
    write_adapter(tmp_path, family, network, "", [], TUNES[tune].scaling == "root-rank")
    check_written(tmp_path, family, network)
    other, _ = single(name)
    with torch.no_grad():
        plain, wanted = other(batch), network(batch)
        put(tmp_path, name, other)
        torch.testing.assert_close(other(batch), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(merged(other)(batch), wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, wanted, rtol=1e-2, atol=1e-2)
    assert adapted(other).keys() == adapted(network).keys()
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["use_dora"] == (tune == "dora") and config["use_rslora"] == (tune == "rslora")
    assert config["fan_in_fan_out"] == (name == "gpt2")


def test_a_written_folder_that_is_read_otherwise_is_refused(tmp_path):
    network, _ = single("llama")
    family = resolve("families", "llama")
    LoRA(rank=2, head=False).apply(network, seed=5)
    trained(network)
    write_adapter(tmp_path, family, network, "", [], False)
    trained(network, seed=6)
    with pytest.raises(Corrupt, match=r"the adapter of .* is another one"):
        check_written(tmp_path, family, network)


LAYER = "base_model.model.model.layers.{}.self_attn.{}_proj.lora_{}.weight"


def some_of_llama(folder: Path, **config: Any) -> dict[str, Tensor]:
    """A folder as PEFT writes it, with adapters of queries and values alone; its tensors."""
    network, _ = NETWORKS["llama"]()
    maps = dict(linears(network))
    generator, tensors = Generator().manual_seed(0), dict[str, Tensor]()
    for name in maps:
        if not name.endswith("qkv"):
            continue
        layer = name.split(".")[3]
        q, _, v = maps[name].parts
        for part, size, rank in (("q", q, 2), ("v", v, 3)):
            a, b = LAYER.format(layer, part, "A"), LAYER.format(layer, part, "B")
            tensors[a] = torch.randn(rank, maps[name].in_features, generator=generator)
            tensors[b] = torch.randn(size, rank, generator=generator)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    said = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"v_proj": 3},
        "alpha_pattern": {r"^model\.layers\.0\.self_attn\.v_proj": 9},
        "bias": "none",
        "base_model_name_or_path": "../../../../etc/passwd",
        **config,
    }
    (folder / CONFIG).write_text(json.dumps(said))
    return tensors


def test_modules_of_one_map_have_their_own_ranks_and_scales(tmp_path):
    """Keys have no adapter and never get one; a base's address in the config is not followed."""
    tensors = some_of_llama(tmp_path)
    network, batch = single("llama")
    plain, _ = single("llama")
    tune = put(tmp_path, "llama", network)
    assert tune["rank"] == 3 and all(name.endswith("qkv") for name in tune["linears"])
    for name, each in adapted(network).items():
        layer = name.split(".")[3]
        q, k, v = each.parts
        update_oi = torch.zeros(q + k + v, each.in_features)
        for part, rows, scale in (
            ("q", slice(0, q), 2.0),
            ("v", slice(q + k, None), 9 / 3 if layer == "0" else 4 / 3),
        ):
            a, b = (tensors[LAYER.format(layer, part, leaf)] for leaf in "AB")
            update_oi[rows] = scale * b @ a
        inner = dict(linears(plain))[name]
        torch.testing.assert_close(each.merged_weight(), inner.weight + update_oi)
    network(batch).square().sum().backward()
    for each in adapted(network).values():
        q, k, _ = each.parts
        assert each.lora_b.grad[0, :q].any() and not each.lora_b.grad[0, q : q + k].any()
        assert not each.lora_a.grad[0, 1].any()
    write_adapter(tmp_path / "again", resolve("families", "llama"), network, "lm", [], False)
    names = {name.replace("lora_A", "lora_B") for name in load_file(tmp_path / "again" / WEIGHTS)}
    assert names == {name.replace("lora_A", "lora_B") for name in tensors}


def renamed(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {name.replace(old, new): each for name, each in tensors.items()}


def cut(tensors: dict[str, Tensor], leaf: str, rows: slice) -> dict[str, Tensor]:
    return {n: each[rows].clone() if leaf in n else each for n, each in tensors.items()}


def poisoned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    first = next(iter(tensors))
    return {**tensors, first: torch.full_like(tensors[first], torch.nan)}


def beside(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, "base_model.model.score.weight": torch.zeros(2, 2)}


@pytest.mark.parametrize(
    ("config", "change", "words"),
    [
        ({"peft_type": "IA3"}, None, "peft_type is 'IA3'; wanted: LORA"),
        ({"peft_type": None}, None, "peft_type is None"),
        ({"bias": "all"}, None, "bias is 'all', which is not read"),
        ({"use_qalora": True}, None, "use_qalora is 'True'"),
        ({"of_tomorrow": 3}, None, "of_tomorrow is '3', which is not read"),
        ({"init_lora_weights": "pissa"}, None, "init_lora_weights is 'pissa', which changes"),
        ({"r": 4}, None, r"q_proj has matrices \(2, \d+\) and \(\d+, 2\); wanted: the rank 4"),
        ({"rank_pattern": {}}, None, "v_proj has matrices .*; wanted: the rank 2"),
        ({"r": 0}, None, "a rank is"),
        ({"r": "2"}, None, "a rank is"),
        ({"lora_alpha": -1}, None, "lora_alpha is"),
        ({"lora_alpha": None}, None, "lora_alpha is"),
        ({"rank_pattern": {"(a+)+$": 3}}, None, "has the regular expression"),
        ({"rank_pattern": 3}, None, "rank_pattern is 3"),
        ({"use_dora": True}, None, "wanted: lora_A and lora_B and lora_magnitude_vector"),
        ({"target_modules": ["q_proj", "c_attn"]}, None, "the base has no module 'c_attn'"),
        ({"target_modules": ["up_proj"]}, None, r"model.safetensors has no module 'up_proj'"),
        ({}, lambda t: renamed(t, "self_attn", "attn"), "adapts model.layers.0.attn.q_proj, which"),
        ({}, lambda t: renamed(t, "lora_B", "lora_embedding_B"), "q_proj has lora_A; wanted"),
        ({}, lambda t: renamed(t, "layers.0", "layers.9"), "layers.9.* which the base has not"),
        ({}, lambda t: cut(t, "lora_B", slice(0, 4)), "is an adapter of a map from .* to 4"),
        ({}, lambda t: {n: each[:, :3].clone() if "lora_A" in n else each for n, each in t.items()},
         "is an adapter of a map from 3 to"),
        ({}, poisoned, "NaN or infinity"),
        ({}, beside, r"holds score.weight beside its adapters"),
        ({}, lambda t: {"x": torch.zeros(2)}, "has no adapter"),
    ],
)  # fmt: skip
def test_a_foreign_or_damaged_adapter_is_refused_by_name(
    config: dict[str, Any], change: Callable[[Any], Any] | None, words: str, tmp_path: Path
) -> None:
    tensors = some_of_llama(tmp_path, **config)
    if change is not None:
        save_file(change(tensors), tmp_path / WEIGHTS)
    network, _ = single("llama")
    with pytest.raises((BadInput, Corrupt), match=words):
        put(tmp_path, "llama", network)


def test_a_pickle_a_zip_and_an_empty_folder_are_refused(tmp_path):
    setting, family = NETWORKS["llama"]()[0].spec, resolve("families", "llama")
    some_of_llama(tmp_path / "pickle")
    (tmp_path / "pickle" / WEIGHTS).rename(tmp_path / "pickle" / "adapter_model.bin")
    with pytest.raises(BadInput, match=r"adapter_model\.bin is a pickle"):
        read_adapter(tmp_path / "pickle", family, setting)
    with pytest.raises(BadInput, match=r"adapter_model\.bin is a pickle"):
        read_adapter(tmp_path / "pickle" / "adapter_model.bin", family, setting)
    with zipfile.ZipFile(tmp_path / "adapter.zip", "w") as packed:
        packed.writestr("../../climbs", "text")
    with pytest.raises(BadInput, match=r"adapter\.zip is a file; wanted: a folder"):
        read_adapter(tmp_path / "adapter.zip", family, setting)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.zip", "pickle"]
    with pytest.raises(BadInput, match="missing is not there"):
        read_adapter(tmp_path / "missing", family, setting)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=f"no {CONFIG} in"):
        read_adapter(tmp_path / "empty", family, setting)
    (tmp_path / "empty" / CONFIG).write_text("[]")
    with pytest.raises(Corrupt, match="holds no JSON object"):
        read_adapter(tmp_path / "empty", family, setting)


def test_an_adapter_of_another_base_is_refused(tmp_path):
    some_of_llama(tmp_path)
    for name in ("bert", "gpt2"):
        network, _ = single(name)
        with pytest.raises(BadInput, match=r"which the base has not.*the base that it was trained"):
            put(tmp_path, name, network)


@pytest.mark.parametrize(
    ("name", "tune", "words"),
    [
        ("llama", None, "a model without LoRA"),
        ("llama", LoRA(base="int8"), "trained on a base in fewer bits"),
        ("mixtral", LoRA(), r"adapters of stacks.*up.*wanted: maps that are modules"),
    ],
)
def test_what_such_a_folder_cannot_hold_is_not_written(name, tune, words, tmp_path):
    network, _ = single(name)
    if tune is not None:
        tune.apply(network, 5)
    with pytest.raises(BadInput, match=words):
        write_adapter(tmp_path / "out", resolve("families", name), network, "", [], False)
    assert not (tmp_path / "out").exists()


# Beside PEFT itself


def first_of(module: Any, family: str) -> harness.Case:
    return next(each for each in module.CASES.values() if each.family.name == family)


CASES = {
    "bert": (replace(test_encoders.CASES["bert, classify"], segments=""), "classify"),
    "llama": (first_of(test_families, "llama"), "lm"),
    "gpt2": (first_of(test_families, "gpt2"), "lm"),
}
MODULES = {
    "bert": ["query", "value", "intermediate.dense"],
    "llama": ["q_proj", "k_proj", "down_proj"],
    "gpt2": ["c_attn", "mlp.c_proj"],
}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_folders_of_peft_give_equal_outputs_both_ways(name, kind, tmp_path):
    peft = pytest.importorskip("peft")
    case, use = CASES[name]
    model = harness.reference(case, double=False)
    texts = harness.documents(case)
    setting = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=MODULES[name], rank_pattern={MODULES[name][0]: 2}, **kind
    )
    theirs = peft.get_peft_model(model, setting).eval()
    generator = Generator().manual_seed(1)
    with torch.no_grad():
        for path, weight in theirs.named_parameters():
            if "lora_B" in path or "magnitude" in path:
                weight += 0.2 * torch.rand(weight.shape, generator=generator)
    theirs.save_pretrained(tmp_path / "theirs")
    network = harness.ours(case, harness.reference(case, double=False)).float()
    put(tmp_path / "theirs", case.family.name, network)
    with torch.no_grad():
        wanted = [theirs(input_ids=torch.from_numpy(text)[None]).logits[0] for text in texts]
        for one, other in zip(harness.logits_of_ours(case, network, texts), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    # The other way, with the head's weights where it has its own.
    head = head_map(case.family, network, use) if name == "bert" else []
    with torch.no_grad():
        for each in (*(w for m in adapted(network).values() for w in m.matrices),):
            each += 0.1 * (each != 0)
        for weight in network.head.parameters() if head else ():
            weight += 0.1
    write_adapter(tmp_path / "ours", case.family, network, use, head, "use_rslora" in kind)
    again = peft.PeftModel.from_pretrained(
        harness.reference(case, double=False), tmp_path / "ours"
    ).eval()
    with torch.no_grad():
        found = [again(input_ids=torch.from_numpy(text)[None]).logits[0] for text in texts]
        for one, other in zip(harness.logits_of_ours(case, network, texts), found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert not np.allclose(found[0], wanted[0], rtol=1e-2, atol=1e-2)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_minilm_with_an_adapter_of_peft_gives_equal_states(tmp_path):
    """Hidden states of a real encoder on real words, from its own folder, both ways."""
    peft = pytest.importorskip("peft")
    import transformers

    folder = located(START)
    texts = ["Play some jazz from 1959.", "Book a table for two in Ghent tonight."]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    setting = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", use_dora=True)
    theirs = peft.get_peft_model(model, setting).eval()
    generator = Generator().manual_seed(1)
    with torch.no_grad():
        for path, weight in theirs.named_parameters():
            if "lora_B" in path or "magnitude" in path:
                weight += 0.02 * torch.rand(weight.shape, generator=generator)
    theirs.save_pretrained(tmp_path / "theirs")
    published = read_folder(folder)
    adapter = tmp_path / "theirs"
    tensors = load_file(adapter / WEIGHTS)
    save_file({n: t for n, t in tensors.items() if "pooler" not in n}, adapter / WEIGHTS)
    network = build(published.spec)
    fill(network, published.weights)
    found = read_adapter(adapter, published.family, network.spec)
    read_choice("tunes", found.tune, "tune", resolve).apply(network, 0)
    found.put(network, [], str(adapter))
    ids = [each.astype(np.int64) for each in published.tokenizer.encode(texts, 64)]
    write_adapter(tmp_path / "ours", published.family, network, "", [], False)
    plain = transformers.AutoModel.from_pretrained(folder).eval()
    again = peft.PeftModel.from_pretrained(plain, tmp_path / "ours").eval()
    untouched = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        for each in ids:
            ours = network.hidden(pack([each]))
            for other in (theirs, again):
                said = other(input_ids=torch.from_numpy(each)[None]).last_hidden_state[0]
                torch.testing.assert_close(ours, said, rtol=0, atol=1e-4)
            base = untouched(input_ids=torch.from_numpy(each)[None]).last_hidden_state[0]
            assert float((ours - base).abs().max()) > 0.1
