"""Adapters in a folder of a running server: they come, are replaced and go, and nothing is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmwright.core.errors import BadInput
from lmwright.models.adapters import with_adapter
from lmwright.models.core.device import Placement
from lmwright.models.core.linear import linears
from lmwright.models.core.low_rank import LowRankLinear
from lmwright.models.files.peft import CONFIG, WEIGHTS, write_adapter
from lmwright.models.files.published import read_published
from lmwright.models.text_model import TextModel, language_model
from lmwright.models.tunes.lora import LoRA
from lmwright.models.zoo.llama import FAMILY
from lmwright.serve.engine import Engine
from lmwright.serve.language_routes import routes
from lmwright.serve.published import GenerationServices
from lmwright.serve.settings import Serve
from lmwright.serve.shelf import Shelf
from tests.serve import talking
from tests.serve.live import Live
from tests.serve.talking import write_model
from tests.serve.test_texts import alone, request

PROMPT = "the cat and the other one"


def base_model(folder: Path, precision: str = "int8") -> TextModel[Any]:
    found = language_model(read_published(str(folder)))
    found.network.place(Placement("cpu", precision))  # type: ignore[arg-type]
    return found


def write_drawn(folder: Path, base: Path, seed: int, rank: int = 4) -> None:
    """An adapter of its own, put where it is read in one move, as a careful writer does."""
    network = language_model(read_published(str(base))).network
    LoRA(rank=rank).apply(network, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, each in linears(network):
            if isinstance(each, LowRankLinear):
                each.lora_b.normal_(std=0.3, generator=generator)
    made = folder.parent.parent / f"made-{seed}"
    made.mkdir()
    write_adapter(made, FAMILY, network, "lm", [], False)
    if folder.exists():
        shutil.rmtree(folder)
    made.rename(folder)


class Adapted(Live):
    """A server of the tiny model with a folder of adapters."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.base = base_model(base)
        self.settings = Serve(port=0, adapters=str(folder), queue_requests=64)
        self.engine: Any = Engine()
        shelf = Shelf({"tiny": lambda: self.base})
        self.services: Any = GenerationServices(["tiny"], self.engine, self.settings, shelf)
        self.begin([routes(self.services)])

    def asked(self, name: str, seed: int, tokens: int = 12) -> tuple[int, Any]:
        body = {"model": name, "prompt": PROMPT, "seed": seed, "max_tokens": tokens}
        status, _, answer = self.ask("POST", "/v1/completions", body, timeout=60)
        return status, answer

    def text(self, name: str, seed: int, tokens: int = 12) -> str:
        status, answer = self.asked(name, seed, tokens)
        assert status == 200, answer
        return str(answer["choices"][0]["text"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Adapted, Path, Path]]:
    base, folder = write_model(tmp_path / "base"), tmp_path / "adapters"
    folder.mkdir()
    for seed in (1, 2):
        write_drawn(folder / f"a{seed}", base, seed, 2 + seed)
    live = Adapted(base, folder)
    yield live, base, folder
    live.stop()


def wanted(live: Adapted, model: TextModel[Any], seed: int, tokens: int = 12) -> str:
    return alone(model, request(model, PROMPT, seed, tokens))


def test_adapters_answer_under_their_names(server: Any) -> None:
    live, _, folder = server
    models = {"tiny": live.base, **{n: with_adapter(live.base, folder / n) for n in ("a1", "a2")}}
    with ThreadPoolExecutor(9) as threads:
        told = list(threads.map(lambda n: live.text(("tiny", "a1", "a2")[n % 3], n, 40), range(9)))
    names = [("tiny", "a1", "a2")[n % 3] for n in range(9)]
    assert told == [wanted(live, models[name], n, 40) for n, name in enumerate(names)]
    assert len(set(told)) == 9
    _, _, listed = live.ask("GET", "/v1/models")
    assert [each["id"] for each in listed["data"]] == ["tiny", "a1", "a2"]
    shelf = live.services.first.shelf
    assert shelf.entries["a1"].bytes < 0.2 * shelf.entries["tiny"].bytes


def test_twenty_adapters_come_and_three_are_replaced_under_load(server: Any) -> None:
    """Each answer is what the adapter that was there gives alone; none is lost."""
    live, base, folder = server
    with ThreadPoolExecutor(4) as threads:
        busy = [threads.submit(live.text, ("tiny", "a1")[n % 2], n, 100) for n in range(24)]
        for seed in range(10, 30):
            write_drawn(folder / f"a{seed}", base, seed)
            told = live.text(f"a{seed}", seed)
            assert told == wanted(live, with_adapter(live.base, folder / f"a{seed}"), seed)
        for seed in (40, 41, 42):
            before = live.text("a10", 7)
            write_drawn(folder / "a10", base, seed)
            told = live.text("a10", 7)
            assert told == wanted(live, with_adapter(live.base, folder / "a10"), 7) != before
        models = {"tiny": live.base, "a1": with_adapter(live.base, folder / "a1")}
        for n, each in enumerate(busy):
            assert each.result(60) == wanted(live, models[("tiny", "a1")[n % 2]], n, 100)
    shutil.rmtree(folder / "a10")
    status, answer = live.asked("a10", 1)
    assert status == 404 and "a11" in json.dumps(answer)


@pytest.mark.parametrize("name", ["../base", "/etc", "a1/", ".", "a" * 200, "a1\x00", "A1"])
def test_a_name_leads_to_no_other_place(server: Any, name: str) -> None:
    status, answer = server[0].asked(name, 1)
    assert status in (400, 404) and "adapters" not in json.dumps(answer).replace(name, "")


def broken(folder: Path, how: str) -> None:
    config = json.loads((folder / CONFIG).read_text())
    if how == "pickle":
        (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    elif how == "rank":
        (folder / CONFIG).write_text(json.dumps({**config, "r": config["r"] + 1}))
    elif how == "type":
        (folder / CONFIG).write_text(json.dumps({**config, "peft_type": "IA3"}))
    elif how == "cut":
        whole = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    elif how == "zip":
        (folder / WEIGHTS).write_bytes(b"PK\x03\x04" + bytes(100))


@pytest.mark.parametrize("how", ["pickle", "rank", "type", "cut", "zip"])
def test_an_adapter_that_cannot_be_read_is_refused_and_the_others_answer(
    server: Any, how: str
) -> None:
    live, _, folder = server
    before = live.text("a2", 3)
    broken(folder / "a1", how)
    status, answer = live.asked("a1", 1)
    assert status == 500 and "cannot be loaded" in answer["error"]["message"]
    assert str(folder) not in json.dumps(answer)
    assert live.text("a2", 3) == before and live.ask("GET", "/health")[0] == 200


def test_an_adapter_of_another_base_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    write_drawn(tmp_path / "in" / "a", write_model(tmp_path / "base"), 1)
    monkeypatch.setitem(talking.CONFIG, "intermediate_size", 64)
    model = base_model(write_model(tmp_path / "other"))
    before = [each.clone() for each in model.network.parameters()]
    with pytest.raises(BadInput):
        with_adapter(model, tmp_path / "in" / "a")
    after = list(model.network.parameters())
    assert all(np.array_equal(a.detach(), b.detach()) for a, b in zip(before, after, strict=True))
