"""The benchmarks of answers without their peers: what is asked for, judged and reported."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.answer_models import parameters
from benchmarks.answers import REGRETS, Side, chosen_sides, interpreters, options, regrets
from benchmarks.embed import least_cosine
from benchmarks.sides.ours import weight_bytes
from benchmarks.turns import in_turns

from benchmarks import answers, decode, prefill, side
from lmwright.kernels.int8 import Int8Weight
from lmwright.models.core.device import Placement
from lmwright.models.core.linear import linears
from lmwright.models.files.weights import write_tensors
from tests.parity.networks import NETWORKS

ROOT = Path(answers.__file__).parents[1]
CHILD = """
import os
from benchmarks.turns import report, wait
turn = 0
while True:
    wait()
    turn += 1
    print("a log of its own", flush=True)
    report(turn, word=os.environ["WORD"])
"""


def chosen(*words: str) -> Any:
    return options("decoding", ["llama.cpp", "ctranslate2"], rounds=2).parse_args(words)


def turn(seconds: float, tokens: int, **more: Any) -> dict[str, Any]:
    shown = {"peak_mb": 7, "settings": {"threads": 2}, "weight_bytes": 3_000_000}
    more = {"quick_step_ms": 1000 * seconds / tokens, **more}
    return {"seconds": seconds, "tokens": tokens, **shown, **more}


def test_sides_have_the_precisions_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "check", lambda side: None)
    said = ["--precision=bf16", "--peer-precision=int8,int4", "--peer-python=all"]
    found = chosen_sides(chosen(*said, "--peer-python=ctranslate2=one"))
    assert [(each.label, each.python) for each in found] == [
        ("ours bf16", sys.executable),
        ("llama.cpp int8", "all"),
        ("llama.cpp int4", "all"),
        ("ctranslate2 int8", "one"),
    ]


def test_a_peer_without_the_precision_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "check", lambda side: None)
    assert [each.name for each in chosen_sides(chosen("--precision=bf16"))] == ["ours", "llama.cpp"]
    with pytest.raises(SystemExit, match="none of ctranslate2 has a precision of bf16"):
        chosen_sides(chosen("--precision=bf16", "--peers=ctranslate2"))


@pytest.mark.parametrize("words", [["--peers=nobody"], ["--peers=ours"]])
def test_unknown_peers_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit, match="no peer is called"):
        chosen_sides(chosen(*words))


def test_an_interpreter_for_an_unknown_peer_is_refused() -> None:
    with pytest.raises(SystemExit, match="no peer is called 'nobody'"):
        interpreters(["nobody=python"])


def test_what_an_interpreter_lacks_is_named() -> None:
    packages = {"torch": "torch", "no_such_package.part": "no-such", "nor_this": "nor-this"}
    found = side.checked(packages)
    assert found["missing"] == ["no-such", "nor-this"]
    assert found["versions"] == {"torch": torch.__version__}


def test_a_peer_with_missing_packages_is_refused(tmp_path: Path) -> None:
    python = tmp_path / "python"
    told = json.dumps({"missing": ["openvino-genai", "nncf"], "versions": {}})
    python.write_text(f"#!/bin/sh\necho '{told}'\n")
    python.chmod(0o755)
    with pytest.raises(SystemExit, match=r"openvino needs openvino-genai, nncf, which .* lacks"):
        answers.check(Side("openvino", "int8", str(python)))
    with pytest.raises(SystemExit, match="does not run"):
        answers.check(Side("openvino", "int8", str(tmp_path / "nothing")))


def test_turns_take_an_interpreter_and_an_environment(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(CHILD)
    marked = tmp_path / "python"
    marked.write_text(f'#!/bin/sh\nWORD=other exec "{sys.executable}" "$@"\n')
    marked.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "WORD": "given"}
    commands = {"one": ["told"], "other": ["told"]}
    found = in_turns(commands, 1, {"other": str(marked)}, environment)
    assert found == {
        "one": [{"turn": 1, "word": "given"}, {"turn": 2, "word": "given"}],
        "other": [{"turn": 1, "word": "other"}, {"turn": 2, "word": "other"}],
    }


class Counting:
    """A writer of the numbers after a prompt's last one."""

    settings: dict[str, Any] = {}  # noqa: RUF012
    weight_bytes = 5

    def write(self, prompts: list[list[int]], new: int, tick: Any) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in prompts]
        for number in range(new):
            for prompt, written in zip(prompts, found, strict=True):
                written.append(prompt[-1] + 1 + number)
            tick()
        return found


def test_a_turn_of_decoding_counts_no_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    # The whole takes 10 s, with a step at 2, 3, 5 and 9 s, and the first token alone 3.
    clock = iter([0.0, 2.0, 3.0, 5.0, 9.0, 10.0, 10.0, 13.0])
    monkeypatch.setattr(side.time, "perf_counter", lambda: next(clock))
    found = side.decode(Counting(), {"prompts": [[1, 2], [5, 6]], "new": 4})
    assert found["written"] == [[3, 4, 5, 6], [7, 8, 9, 10]]
    assert (found["tokens"], found["seconds"], found["first_ms"]) == (6, 7.0, 3000.0)
    assert found["quick_step_ms"] == 1000.0


def test_a_turn_of_prefill_takes_each_prompt_to_its_first_token() -> None:
    found = side.prefill(Counting(), {"prompts": [[1, 2, 3], [5, 6, 7]], "new": 1})
    assert (found["tokens"], found["written"]) == (6, [[4], [8]])


def test_regret_is_what_a_choice_lost() -> None:
    rows = torch.tensor([[0.0, 1.0, 5.0, 2.0], [3.0, 1.0, 0.0, 2.0], [9.0, 9.0, 9.0, 9.5]])

    def logits(ids: np.ndarray) -> torch.Tensor:
        # Before the first new token stands one of the prompt, whose logits nobody reads.
        return torch.cat([torch.zeros(1, 4), rows])[: len(ids)]

    best = regrets(logits, [[7 % 4, 1]], [[2, 0]])
    assert best.tolist() == [[0.0, 0.0]]
    lost = regrets(logits, [[3, 1]], [[1, 3]])
    wanted = [4 / rows[0].std(), 1 / rows[1].std()]
    np.testing.assert_allclose(lost, [wanted], rtol=1e-6)


def test_a_wrong_answer_is_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    ours, peer = Side("ours", "fp32"), Side("llama.cpp", "int8")
    turns = {
        ours: [turn(2.0, 100), turn(1.0, 100)],
        peer: [turn(1.0, 100), turn(1.0, 100)],
    }
    more = {each: {"step_ms": 1.0} for each in turns}

    def lines(lost: float) -> list[dict[str, Any]]:
        return answers.results(
            "decode",
            "new tokens/s",
            turns,
            more,
            {"rows": 1},
            lambda side, turns: ({"mean_regret": lost}, lost <= REGRETS[side.precision]),
        )

    (right,) = lines(0.0005)
    assert (right["name"], right["ratio"], right["spread"]) == (
        "decode fp32, llama.cpp int8",
        0.67,
        [0.5, 0.75, 1.0],
    )
    assert right["step_ms"] == {"ours": 1.0, "peer": 1.0} and right["equal"]
    assert right["best_round"] == {"ours": 100.0, "peer": 100.0}
    assert right["conditions"]["rows"] == 1 and right["conditions"]["class"]
    answers.show([right])
    with pytest.raises(SystemExit, match=r"no result: decode fp32, llama\.cpp int8"):
        answers.show(lines(0.05))  # within the bound of int8, and beyond that of fp32
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["equal"] for line in printed] == [True, False]


def test_a_step_is_compared_with_the_bandwidth() -> None:
    found = answers.of_bandwidth([turn(1.0, 10), turn(3.0, 10)], weights=2_000_000, steps=1000)
    assert found == {
        "bits_a_weight": 12.0,
        "step_ms": 2.0,
        "quick_step_ms": 100.0,
        "bandwidth_bound_ms": 0.1,
        "share_of_bandwidth": 0.05,
    }


def test_the_least_cosine_is_that_of_the_worst_text() -> None:
    right = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert least_cosine(np.array([[3.0, 0.0], [1.0, 1.0]]), right) == pytest.approx(0.5**0.5)


def test_shared_weights_count_once(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", {"a": torch.zeros(3, 4), "b": torch.zeros(5)})
    assert parameters(tmp_path) == 17


@pytest.mark.parametrize("claim", [decode, prefill])
def test_every_peer_of_a_claim_is_a_side(claim: Any) -> None:
    assert set(claim.PEERS) < set(side.LEAVES)
    for leaf in side.LEAVES.values():
        assert (ROOT / "benchmarks" / "sides" / f"{leaf}.py").is_file()


def test_what_a_step_reads_is_counted_as_it_lies_in_memory() -> None:
    network, _ = NETWORKS["llama"]()
    network.float()
    maps = sum(each.weight.numel() for _, each in linears(network))
    found = {}
    for precision in ("fp32", "int8", "int4"):
        network.place(Placement("cpu", precision))  # type: ignore[arg-type]
        found[precision] = weight_bytes(network)
    assert found["fp32"] == 4 * sum(each.numel() for each in network.parameters())
    assert found["int8"] == sum(
        Int8Weight.pack(each.weight).packed.nbytes for _, each in linears(network)
    )
    assert maps < found["int8"]
    assert found["int4"] < found["int8"]
