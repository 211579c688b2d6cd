"""Scores of lm-eval through our server and by its own transformers, on the same weights in fp32.

    peers/bin/pip install lm-eval transformers torch
    python -m benchmarks.lm_eval --peer-python peers/bin/python
    python -m benchmarks.lm_eval --peer-python peers/bin/python --chat gemma3-270m
    python -m benchmarks.lm_eval --peer-python peers/bin/python --chat qwen2.5-coder-1.5b --rows 8

lm-eval asks Gemma 3 270M, a base model, twice: as ``local-completions`` of ``lmwright serve``, and
as ``hf``. ``choices``: which of seven intents a request of SNIPS has, by the likelihood of each
name. ``texts``: reviews that are gone on from, greedily. Prints a line of JSON: both accuracies,
the largest difference of a log-likelihood, and the share of equal texts.

With ``--chat`` it asks a model by its chat template, as ``local-chat-completions`` and as ``hf``
with ``--apply_chat_template``, greedily. ``opinions``: whether a review is positive or negative, in
a word that is compared. ``words``: a review said in a sentence. Gemma, a base model, is given the
template of its family; Qwen2.5-Coder-1.5B-Instruct has its own, and needs 7 GB in fp32.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.answer_models import model_folder, reviews
from benchmarks.chat import QWEN
from benchmarks.peer import REVIEWS
from lmwright.assets import asset_file
from lmwright.core.cache import user_cache
from lmwright.core.errors import LmwrightError
from lmwright.models.files.export import export_model
from lmwright.text.chat import TEMPLATE_FILE
from lmwright.text.templates import TEMPLATES

HERE = Path(__file__).parents[1]
BASE = "gemma3-270m"
CHATS = (BASE, "qwen2.5-coder-1.5b")
INTENTS = "asset:snips-intents/task.json"
ASK = """
import json, sys
import lm_eval
kind, arguments, tasks, limit, chat = json.loads(sys.argv[1])
found = lm_eval.simple_evaluate(
    model=kind, model_args=arguments, tasks=tasks, limit=limit, log_samples=True, batch_size=1,
    bootstrap_iters=0, device="cpu" if kind == "hf" else None, apply_chat_template=chat,
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
    parser.add_argument("--chat", choices=CHATS, help="ask this one by its chat template")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as kept:
        folder = chat_folder(chosen.chat, Path(kept)) if chosen.chat else model_folder(BASE)
        make = chat_tasks_in if chosen.chat else tasks_in
        tasks = make(Path(kept), chosen.rows)
        server, port, _ = served(str(folder), "fp32")
        try:
            found = ask(chosen, *client_of(folder, port, chosen.chat), tasks)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
        wanted = ask(chosen, "hf", f"pretrained={folder},dtype=float32", tasks)
    line = chats_compared(found, wanted) if chosen.chat else compared(found, wanted)
    conditions = {"model": chosen.chat or BASE, "precision": "fp32", "rows": chosen.rows}
    print(json.dumps({**line, "conditions": conditions}), flush=True)


def client_of(folder: Path, port: int, chat: str | None) -> tuple[str, str]:
    """lm-eval's client of our server, and its arguments."""
    url = f"http://127.0.0.1:{port}/v1"
    if chat:
        return "local-chat-completions", f"model={folder.name},base_url={url}/chat/completions"
    ours = f"model={folder.name},base_url={url}/completions,tokenizer={folder},num_concurrent=1"
    return "local-completions", f"{ours},max_length=2048,add_bos_token=true"


def chat_folder(name: str, kept: Path) -> Path:
    """The folder of a chat model in fp32, made now if it is not there yet; that of one without a
    template in ``kept``, with its family's."""
    if name != BASE:
        folder = user_cache() / "benchmark-answers" / name
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            export_model(QWEN, folder, "folder")
        return folder
    folder = kept / name
    folder.mkdir()
    for path in model_folder(name).iterdir():
        if path.suffix != ".gguf":
            (folder / path.name).symlink_to(path)
    (folder / TEMPLATE_FILE).write_text(TEMPLATES["gemma"], encoding="utf-8")
    return folder


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
    made = [task_in(folder, "choices", choices), task_in(folder, "texts", texts)]
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


def task_in(folder: Path, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What every task has, its rows in a file."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
    }


def chat_tasks_in(folder: Path, rows: int) -> list[dict[str, Any]]:
    """The two tasks of a chat, their rows in files."""
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as lines:
        found = [
            {"text": each["text"], "opinion": "positive" if each["label"] == "1" else "negative"}
            for each in csv.DictReader(lines)
            if each["source"] == "rotten_tomatoes"
        ][:: 10_000 // rows][:rows]
    asked = (
        ("opinions", "Is this review positive or negative? Answer in one word.", "opinion", 4),
        ("words", "Say what this review says in one sentence.", "text", 24),
    )
    made = []
    for name, question, target, tokens in asked:
        task = task_in(folder, name, found)
        task |= {
            "output_type": "generate_until",
            "doc_to_text": f"{question}\n\n{{{{text}}}}",
            "doc_to_target": f"{{{{{target}}}}}",
            "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": tokens, "do_sample": False},
            "metric_list": [
                {"metric": "exact_match", "ignore_case": True, "ignore_punctuation": True}
            ],
        }
        made.append(task)
    return made


def served(address: str, precision: str) -> tuple[subprocess.Popen[str], int, str]:
    """``lmwright serve`` of a model, its port, and the name by which it serves it."""
    command = [sys.executable, "-m", "lmwright.cli.main", "serve", address, "--port", "0"]
    env = {**os.environ, "PYTHONPATH": f"{HERE / 'src'}{os.pathsep}{HERE}"}
    server = subprocess.Popen(
        [*command, "--precision", precision], stdout=subprocess.PIPE, text=True, env=env
    )
    line = server.stdout.readline() if server.stdout else ""
    if "http://" not in line:
        raise LmwrightError("the server did not start", "see its message above")
    return server, int(line.strip().rpartition(":")[2]), line.split()[1]


def ask(
    chosen: argparse.Namespace, kind: str, arguments: str, tasks: list[dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results of one evaluation, and the answers of each task by their rows."""
    given = json.dumps([kind, arguments, tasks, chosen.rows, chosen.chat is not None])
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [chosen.peer_python, "-c", ASK, given], env=env, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    if not lines:
        raise LmwrightError(f"lm-eval ended: {done.stderr[-1500:]}", "an evaluation")
    results, samples = json.loads(lines[-1].removeprefix("FOUND"))
    return results, {name: dict(map(tuple, those)) for name, those in samples.items()}


def compared(found: Any, wanted: Any) -> dict[str, Any]:
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
    }


def chats_compared(found: Any, wanted: Any) -> dict[str, Any]:
    """The line of a chat model."""
    (ours, answers), (theirs, right) = found, wanted
    same = {
        name: sum(answers[name][row] == each for row, each in those.items()) / len(those)
        for name, those in right.items()
    }
    score = "exact_match,none"
    return {
        "name": "lm-eval, local-chat-completions beside hf with its chat template",
        "exact_match": {"ours": ours["opinions"][score], "hf": theirs["opinions"][score]},
        "equal_texts": same,
    }


if __name__ == "__main__":
    main()
