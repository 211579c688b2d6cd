"""Maker of store.tar.gz; run with the code at 847b6d3."""
# ruff: noqa: E501, PTH123, SIM115

import csv
import http.client
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from lmwright.models.initial import initialise
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from lmwright.models.files.folder import write_folder
from lmwright.models.network import build
from lmwright.models.zoo.bert import FAMILY, spec

rows = list(csv.DictReader(open("talk.csv", encoding="utf-8", newline="")))
words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
words.normalizer = normalizers.BertNormalizer(lowercase=True)
words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
words.decoder = decoders.WordPiece()
words.train_from_iterator(
    [r["text"] for r in rows],
    trainers.WordPieceTrainer(
        vocab_size=1200,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        show_progress=False,
    ),
)
words.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]",
    pair="[CLS] $A [SEP] $B [SEP]",
    special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
)
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "vocab_size": words.get_vocab_size(),
}
network = build(spec(SMALL))
initialise(network, seed=1)
write_folder(Path("start"), FAMILY, network)
Path("start/tokenizer.json").write_text(words.to_str())
RECIPE = """\
name: reviews
stages:
  data:
    sources: [{name: talk, path: talk.csv, licence: BSD-3-Clause}]
    suspect_rows: 400
    fractions: {train: 0.5, stop: 0.06, calibration: 0.1, gate: 0.22, test: 0.12}
  train: {start: start, epochs: 6, lr: 3.0e-3, max_tokens: 48, dropout: 0.0, checkpoint_every: 20, evaluate_every: 40}
  baselines:
  evaluate: {rows: 150}
  audit: {rows: 60}
  detect: {window: 40, windows: 2000}
  promote: {gate: {margin: 1.0, claim: not inferior, slices: {rows: 10, margin: 2.0}, max_slowdown: 100}}
watch: {keep_text: true, retention_days: 36500}
retrain: {fewest: 400, new_labels: 0, windows: 2, stages: {train: {start_from: incumbent, epochs: 1}}}
"""
Path("old.yaml").write_text(RECIPE)


def cli(*w):
    done = subprocess.run(
        [sys.executable, "-m", "lmwright.cli.main", *w, "--store", "store"],
        capture_output=True,
        text=True,
    )
    print(w, done.returncode, done.stdout[-1500:], done.stderr[-800:])
    return done


cli("run", "old.yaml")
cli("run", "old.yaml", "--set", "train.seed=3")
server = subprocess.Popen(
    [
        sys.executable,
        "-m",
        "lmwright.cli.main",
        "serve",
        "reviews@production",
        "--port",
        "0",
        "--recipe",
        "old.yaml",
        "--store",
        "store",
    ],
    stdout=subprocess.PIPE,
    text=True,
)
line = server.stdout.readline()
port = int(line.strip().rpartition(":")[2])
conn = http.client.HTTPConnection("127.0.0.1", port)


def ask(path, body):
    conn.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    r = conn.getresponse()
    return r.status, json.loads(r.read())


golden = []
for k in range(0, 120, 4):
    batch = rows[k * 9 % len(rows) :][:4]
    status, answer = ask("/v1/classify", {"input": [r["text"] for r in batch]})
    assert status == 200, answer
    for r, result in zip(batch, answer["results"], strict=True):
        if k % 3 == 0:
            assert (
                ask(
                    "/v1/feedback",
                    {"id": answer["id"], "index": result["index"], "label": r["label"]},
                )[0]
                == 201
            )
        golden.append(
            {
                "text": r["text"],
                "version": answer["version"],
                **{n: result[n] for n in ("label", "unsure", "probabilities")},
            }
        )
time.sleep(2)
server.send_signal(signal.SIGTERM)
server.wait(60)
versions = [json.loads(p.read_text()) for p in sorted(Path("store/decisions").iterdir())]
second = versions[1]["facts"]["version"]
cli("promote", "reviews@production", second, "--reason", "the second of two alike")
cli("runs")
process = subprocess.Popen(
    [
        sys.executable,
        "-m",
        "lmwright.cli.main",
        "run",
        "old.yaml",
        "--set",
        "train.epochs=30",
        "--store",
        "store",
    ],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
)
while not list(Path("store").rglob("checkpoints/step-*/checkpoint.json")):
    time.sleep(0.01)
time.sleep(0.3)
process.kill()
process.wait()
Path("golden.json").write_text(json.dumps({"answers": golden}, indent=1, ensure_ascii=False))
