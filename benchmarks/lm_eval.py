"""Scores of lm-eval through our server and by its own transformers, on the same weights in fp32.

    peers/bin/pip install lm-eval transformers torch
    python -m benchmarks.lm_eval --peer-python peers/bin/python

lm-eval asks Gemma 3 270M, a base model, twice: as ``local-completions`` of ``lmwright serve``, and
as ``hf``. ``choices``: which of seven intents a request of SNIPS has, by the likelihood of each
name. ``texts``: reviews that are gone on from, greedily. Prints a line of JSON: both accuracies,
the largest difference of a log-likelihood, and the share of equal texts.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.answer_models import model_folder, reviews
from lmwright.assets import asset_file
from lmwright.core.errors import LmwrightError

HERE = Path(__file__).parents[1]
INTENTS = "asset:snips-intents/task.json"
ASK = """
import json, sys
import lm_eval
kind, arguments, tasks, limit = json.loads(sys.argv[1])
found = lm_eval.simple_evaluate(
    model=kind, model_args=arguments, tasks=tasks, limit=limit, log_samples=True, batch_size=1,
    bootstrap_iters=0, device="cpu" if kind == "hf" else None,
)
samples = {
    name: [[each["doc_id"], each["resps"]] for each in those]
    for name, those in found["samples"].items()
}
print("FOUND" + json.dumps([found["results"], samples], default=str))
"""
"""What the peer's interpreter runs: one evaluation, its results and each answer."""


def main() -> None:
    """Evaluate twice, and compare."""
    parser = argparse.ArgumentParser(description="lm-eval through our server and by transformers")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--rows", type=int, default=40, help="of each task")
    chosen = parser.parse_args()
    folder = model_folder("gemma3-270m")
    with tempfile.TemporaryDirectory() as kept:
        tasks = tasks_in(Path(kept), chosen.rows)
        server, port = served(folder)
        try:
            url = f"http://127.0.0.1:{port}/v1/completions"
            ours = f"model={folder.name},base_url={url},tokenizer={folder},num_concurrent=1"
            found = ask(
                chosen, "local-completions", f"{ours},max_length=2048,add_bos_token=true", tasks
            )
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
        wanted = ask(chosen, "hf", f"pretrained={folder},dtype=float32", tasks)
    print(json.dumps(compared(found, wanted, chosen.rows)), flush=True)


def tasks_in(folder: Path, rows: int) -> list[dict[str, Any]]:
    """The two tasks, their rows in files."""
    examples = json.loads(asset_file(INTENTS).read_text("utf-8"))["examples"][:rows]
    names = sorted({name for each in examples for name in each["target_scores"]})
    choices = [
        {
            "text": each["input"],
            "label": names.index(max(each["target_scores"], key=each["target_scores"].get)),
        }
        for each in examples
    ]
    texts = [{"text": " ".join(each.split()[:24])} for each in reviews("rotten_tomatoes")[:rows]]
    made = []
    for name, rest in (("choices", choices), ("texts", texts)):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rest), encoding="utf-8")
        made.append(
            {
                "task": name,
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {"test": str(file)}},
                "test_split": "test",
            }
        )
    made[0] |= {
        "output_type": "multiple_choice",
        "doc_to_text": "Request: {{text}}\nIntent:",
        "doc_to_target": "label",
        "doc_to_choice": [name.replace("_", " ") for name in names],
    }
    made[1] |= {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 24, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    return made


def served(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """``lmwright serve`` of the folder in fp32, and its port."""
    command = [sys.executable, "-m", "lmwright.cli.main", "serve", str(folder), "--port", "0"]
    env = {**os.environ, "PYTHONPATH": f"{HERE / 'src'}{os.pathsep}{HERE}"}
    server = subprocess.Popen(
        [*command, "--precision", "fp32"], stdout=subprocess.PIPE, text=True, env=env
    )
    line = server.stdout.readline() if server.stdout else ""
    if "http://" not in line:
        raise LmwrightError("the server did not start", "see its message above")
    return server, int(line.strip().rpartition(":")[2])


def ask(
    chosen: argparse.Namespace, kind: str, arguments: str, tasks: list[dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results of one evaluation, and the answers of each task by their rows."""
    given = json.dumps([kind, arguments, tasks, chosen.rows])
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [chosen.peer_python, "-c", ASK, given], env=env, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    if not lines:
        raise LmwrightError(f"lm-eval ended: {done.stderr[-1500:]}", "an evaluation")
    results, samples = json.loads(lines[-1].removeprefix("FOUND"))
    return results, {name: dict(map(tuple, those)) for name, those in samples.items()}


def compared(found: Any, wanted: Any, rows: int) -> dict[str, Any]:
    """The line."""
    (ours, answers), (theirs, right) = found, wanted
    pairs = [
        (float(one[0][0]), float(other[0][0]))
        for row, each in right["choices"].items()
        for one, other in zip(answers["choices"][row], each, strict=True)
    ]
    same = [answers["texts"][row] == each for row, each in right["texts"].items()]
    return {
        "name": "lm-eval, local-completions beside hf",
        "accuracy": {"ours": ours["choices"]["acc,none"], "hf": theirs["choices"]["acc,none"]},
        "farthest_loglikelihood": max(abs(one - other) for one, other in pairs),
        "loglikelihoods": len(pairs),
        "equal_texts": sum(same) / len(same),
        "conditions": {"model": "gemma3-270m", "precision": "fp32", "rows": rows},
    }


if __name__ == "__main__":
    main()
