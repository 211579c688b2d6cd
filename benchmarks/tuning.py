"""Full tuning and LoRA: ours against TRL, PEFT and sentence-transformers, on the same work.

    python -m venv peers && peers/bin/pip install -e . trl peft sentence-transformers
    python -m benchmarks.tuning --model gemma --peer-python peers/bin/python
    python -m benchmarks.tuning --model minilm --precision bf16 --peer-python peers/bin/python

``gemma``: Gemma 3 270M learns summaries of real descriptions, the summaries alone; the peer is
TRL's SFTTrainer, whose loss makes no logits of prompts and takes them in chunks. ``minilm``: MiniLM
learns labels of reviews; the peer is transformers' Trainer. ``embeddings``: MiniLM learns which
description belongs to a synopsis; the peer is the loss of sentence-transformers under the Trainer.
Each is tuned as a whole and by LoRA (rank 8 on all maps; the peer's by PEFT), from the same
weights, with the same ids, batches in the same order, AdamW, rate, decay and clipping, without
dropout. The four sides are processes of their own that work in turns. Losses of equal steps are
compared in full tuning; under LoRA their mean, since our maps of queries, keys and values are one,
and share what PEFT has thrice. Prints a line of JSON for each way to tune against its peer, and one
for our LoRA against our full tuning.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.finetune import documents
from benchmarks.generation import GEMMA
from benchmarks.peer import START, peer_model, trainer_arguments
from benchmarks.turns import in_turns, ratios, report, speed, wait
from lmwright.assets import asset_file
from lmwright.core.task import Task
from lmwright.machine.probe import cpu_class
from lmwright.models.core.device import Placement
from lmwright.models.core.memory import keep_few_kernels
from lmwright.models.core.spec import Dense, Head
from lmwright.models.files.export import export_model
from lmwright.models.files.folder import read_folder
from lmwright.models.text_model import TextModel, from_published
from lmwright.models.tunes.lora import LoRA
from lmwright.tasks.sentence_similarity import SentenceSimilarity
from lmwright.tasks.summarization import Summarization
from lmwright.tasks.text_classification import TextClassification
from lmwright.train.batches import UNLEARNT, EpochBatches, Example
from lmwright.train.beginning import at_rate, read_start
from lmwright.train.finetune import Train
from lmwright.train.loop import OptimizerConfig, State, train
from lmwright.train.optimizers import AdamW
from lmwright.train.schedules import Linear
from lmwright.train.task_model import TrainedTaskModel, trained_task_model

SIDES = ("ours full", "peer full", "ours lora", "peer lora")
SUMMARIES = "asset:debian-summaries/debian-summaries.parquet"
WARM_UP, ROUNDS, STEPS_A_ROUND = 2, 4, 7
STEPS = WARM_UP + ROUNDS * STEPS_A_ROUND
LR, DECAY, CLIP, RANK, ALPHA = 5e-5, 0.01, 1.0, 8, 16.0
STEPWISE, MEAN = {"fp32": 1e-3, "bf16": 0.05}, {"fp32": 0.05, "bf16": 0.1}
"""How far losses may lie apart: of each equal step in full tuning, and of the mean under LoRA."""


@dataclass(frozen=True)
class Work:
    """What is learnt: batch size, the model and its examples, the peer and its inputs of one."""

    task: Task
    batch: int
    begin: Callable[[], tuple[TextModel, list[Example]]]
    peer: Callable[[TextModel, Path, bool], Any]
    inputs: Callable[[Example], dict[str, Any]]
    adapted: str | Sequence[str]
    learnt_whole: tuple[str, ...]
    trainer: Callable[[], Any]


def main() -> None:
    """All sides, or, in a child, one of them."""
    parser = argparse.ArgumentParser(description="full tuning and LoRA against peers")
    parser.add_argument("--model", choices=tuple(WORKS), default="gemma")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    if chosen.side:
        keep_few_kernels()
        torch.set_num_threads(chosen.threads)
        who, way = chosen.side.split()
        side = ours if who == "ours" else theirs
        side(WORKS[chosen.model], way == "lora", chosen.precision == "bf16")
        return
    command = ["benchmarks.tuning", f"--model={chosen.model}", f"--precision={chosen.precision}"]
    command.append(f"--threads={chosen.threads}")
    turns = in_turns(
        {side: [*command, f"--side={side}"] for side in SIDES},
        ROUNDS,
        {side: chosen.peer_python for side in SIDES if side.startswith("peer")},
    )
    pairs = [("ours full", "peer full"), ("ours lora", "peer lora"), ("ours lora", "ours full")]
    for mine, other in pairs:
        line = result(chosen, turns, mine, other)
        print(json.dumps(line), flush=True)
        if not line["equal"]:
            raise SystemExit("the losses differ: no result")


def result(
    chosen: argparse.Namespace, turns: dict[str, list[dict[str, Any]]], mine: str, other: str
) -> dict[str, Any]:
    """One side against another."""
    first, second = turns[mine][1:], turns[other][1:]
    ratio, spread = ratios(first, second)
    losses = [np.concatenate([turn["losses"] for turn in turns[side]]) for side in (mine, other)]
    stepwise = mine.endswith("full")
    apart = abs(losses[0] - losses[1]).max() if stepwise else abs(np.diff([*map(np.mean, losses)]))
    bound = (STEPWISE if stepwise else MEAN)[chosen.precision]
    against = mine.split()[0] == other.split()[0]
    return {
        "name": f"tuning {chosen.model}: {mine} against {other}",
        "ratio": ratio,
        "ours": round(speed(first), 1),
        "peer": round(speed(second), 1),
        "unit": "non-padding tokens/s",
        "spread": spread,
        "step_time": round(1 / ratio, 3),
        "memory_mb": {side: turns[side][-1]["peak_mb"] for side in (mine, other)},
        "learnt": {side: turns[side][-1]["learnt"] for side in (mine, other)},
        "loss_distance": float(f"{float(np.max(apart)):.2g}"),
        "equal": against or bool(np.max(apart) <= bound),
        "conditions": {
            "class": cpu_class(),
            "precision": chosen.precision,
            "threads": chosen.threads,
            "batch": WORKS[chosen.model].batch,
            "steps": len(first) * STEPS_A_ROUND,
            "mean_length": round(turns[mine][-1]["mean_length"], 1),
            "adamw": {"lr": LR, "weight_decay": DECAY, "clip": CLIP},
            "peer": turns["peer full"][-1]["about"],
            "load": round(os.getloadavg()[0], 1),
        },
    }


class Turns:
    """Counts a side's steps, and reports and waits at the end of each turn."""

    def __init__(self, examples: Sequence[Example], batch: int) -> None:
        sizes = [each.cost for each in examples]
        self.tokens = [sum(sizes[at : at + batch]) for at in range(0, len(sizes), batch)]
        self.mean_length = sum(sizes) / len(sizes)
        self.losses: list[float] = []
        self.learnt = 0
        self.about: dict[str, Any] = {}

    def wait(self) -> None:
        """Block until the turn is given."""
        wait()
        self.began = time.perf_counter()

    def step(self, loss: float) -> None:
        """One step is done."""
        self.losses.append(loss)
        step = len(self.losses)
        done = step - WARM_UP
        if done < 0 or done % STEPS_A_ROUND:
            return
        first = step - STEPS_A_ROUND if done else 0
        report(
            step,
            seconds=time.perf_counter() - self.began,
            tokens=sum(self.tokens[first:step]),
            losses=self.losses[first:step],
            learnt=self.learnt,
            mean_length=self.mean_length,
            about=self.about,
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        )
        if step < STEPS:
            self.wait()


def ours(work: Work, lora: bool, bf16: bool) -> None:
    """A child: our loop."""
    model, examples = work.begin()
    network = model.network
    if lora:
        LoRA(rank=RANK, alpha=ALPHA).apply(network, 0)
    network.place(Placement("cpu", "bf16" if bf16 else "fp32"))
    batches = EpochBatches(examples, work.batch, epochs=1, seed=0)
    turns = Turns(in_order(batches), work.batch)
    turns.learnt = sum(each.numel() for each in network.parameters() if each.requires_grad)
    turns.wait()
    train(
        network,
        batches,
        trained_task_model(work.task).loss,
        AdamW(weight_decay=DECAY).make(network),
        OptimizerConfig(LR, Linear(warmup=0.0), CLIP),
        State(),
        [(1, lambda state: turns.step(state.curves[-1]["loss"]))],
        lambda event, **facts: None,
    )


def theirs(work: Work, lora: bool, bf16: bool) -> None:
    """A child: the peer's trainer on the same weights and batches."""
    import transformers

    model, examples = work.begin()
    batches = EpochBatches(examples, work.batch, epochs=1, seed=0)
    order = in_order(batches)
    turns = Turns(order, work.batch)
    with tempfile.TemporaryDirectory() as folder:
        peer = work.peer(model, Path(folder), lora)
        del model
        if lora:
            peer = with_adapters(peer, work)
        turns.learnt = sum(each.numel() for each in peer.parameters() if each.requires_grad)

        class Told(transformers.TrainerCallback):
            def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                if "loss" in state.log_history[-1]:
                    turns.step(state.log_history[-1]["loss"])

        arguments = trainer_arguments(folder, work.batch, LR, DECAY, CLIP, bf16)
        trainer, about = work.trainer()(peer, arguments, order, work.inputs, Told())
        turns.about = {
            "transformers": transformers.__version__,
            "bf16": arguments.bf16,
            "optimizer": str(arguments.optim),
            **about,
        }
        turns.wait()
        trainer.train()


def with_adapters(peer: Any, work: Work) -> Any:
    """The peer with PEFT's adapters."""
    import peft

    return peft.get_peft_model(
        peer,
        peft.LoraConfig(
            r=RANK,
            lora_alpha=ALPHA,
            target_modules=work.adapted,
            modules_to_save=list(work.learnt_whole) or None,
        ),
    )


def in_order(batches: EpochBatches) -> list[Example]:
    """The examples as the steps meet them."""
    return [example for step in range(batches.steps) for example in batches.at(step)]


def padded(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Inputs of several examples as one batch, padded to its longest."""
    found = {}
    for name in rows[0]:
        items = [torch.as_tensor(row[name]) for row in rows]
        if items[0].ndim:
            fill = UNLEARNT if name == "labels" else 0
            found[name] = torch.nn.utils.rnn.pad_sequence(items, True, fill)
        else:
            found[name] = torch.stack(items)
    return found


def read(example: Example, **more: Any) -> dict[str, Any]:
    """A document as the peer reads it."""
    ids = np.asarray(example.tokens, dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), **more}


def plain_trainer() -> Any:
    """Transformers' Trainer."""
    import transformers

    def make(model: Any, arguments: Any, rows: Any, inputs: Any, told: Any) -> Any:
        return transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=lambda some: padded([inputs(each) for each in some]),
            callbacks=[told],
        ), {"trainer": "transformers", "attention": "sdpa"}

    return make


# Gemma on summaries


def gemma() -> tuple[TextModel, list[Example]]:
    """Gemma, and descriptions with their synopses."""
    published = read_start(Train(start=GEMMA))
    model = at_rate(from_published(published, "lm", 288, 0), 0.0, 288)
    count = STEPS * WORKS["gemma"].batch
    table = pq.read_table(asset_file(SUMMARIES)).slice(0, count)
    ids = pa.array([f"{place:032x}" for place in range(count)])
    columns = {"id": ids, "text": table.column("description"), "summary": table.column("synopsis")}
    return model, examples_of(WORKS["gemma"].task, model, pa.table(columns))


def examples_of(task: Task, model: TextModel, table: pa.Table) -> list[Example]:
    """The examples of a table."""
    by_model: TrainedTaskModel = trained_task_model(task)
    return list(by_model.examples(model, table))


def gemma_peer(model: TextModel, folder: Path, lora: bool) -> Any:
    """Transformers' Gemma with the same weights."""
    import transformers

    place = folder / "gemma"
    export_model(GEMMA, place, "folder")
    return transformers.AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)


def shifted(example: Example) -> dict[str, Any]:
    """Labels of a causal language model: our targets are one place earlier."""
    target = np.asarray(example.target, dtype=np.int64)
    return read(example, labels=np.concatenate([[UNLEARNT], target[:-1]]))


def trl_trainer() -> Any:
    """TRL's SFTTrainer."""
    import datasets
    import transformers
    import trl

    def make(model: Any, arguments: Any, rows: Any, inputs: Any, told: Any) -> Any:
        base = getattr(model, "base_model", model).config.name_or_path or model.name_or_path
        given = {
            name: getattr(arguments, name)
            for name in (
                *("output_dir", "per_device_train_batch_size", "num_train_epochs"),
                *("learning_rate", "weight_decay", "max_grad_norm", "lr_scheduler_type"),
                *("train_sampling_strategy", "logging_steps", "save_strategy", "report_to"),
                *("disable_tqdm", "use_cpu", "bf16", "seed", "remove_unused_columns"),
            )
        }
        config = trl.SFTConfig(
            **given,
            max_length=None,
            packing=False,
            gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
        table = datasets.Dataset.from_list(
            [
                {
                    name: list(map(int, each))
                    for name, each in inputs(row).items()
                    if name != "attention_mask"
                }
                for row in rows
            ]
        )
        trainer = trl.SFTTrainer(
            model=model,
            args=config,
            train_dataset=table,
            processing_class=tokenizer,
            callbacks=[told],
        )
        return trainer, {
            "trainer": f"trl {trl.__version__}",
            "loss": config.loss_type,
            "attention": model.config._attn_implementation,
        }

    return make


# MiniLM on labels


def minilm() -> tuple[TextModel, list[Example]]:
    """MiniLM with its pooler and a drawn classifier, and reviews cut to log-normal lengths."""
    head = Head(pool="first", dense=Dense(outputs=384, activation="tanh"), dropout=0.0, outputs=2)
    published = read_folder(asset_file(START))
    model = at_rate(from_published(published, head, 512, 0), 0.0, 512)
    return model, documents(model, STEPS * WORKS["minilm"].batch)


def minilm_peer(model: TextModel, folder: Path, lora: bool) -> Any:
    """Transformers' BERT with the same weights and classifier."""
    return peer_model(model.network, 0.0)


# MiniLM on pairs


def embeddings() -> tuple[TextModel, list[Example]]:
    """MiniLM, and synopses with their descriptions."""
    task = WORKS["embeddings"].task
    published = read_folder(asset_file(START))
    model = from_published(published, trained_task_model(task).head(0.0), 256, 0)
    count = STEPS * WORKS["embeddings"].batch
    table = pq.read_table(asset_file(SUMMARIES)).slice(0, count)
    columns = {
        "id": pa.array([f"{place:032x}" for place in range(count)]),
        "sentence1": table.column("synopsis"),
        "sentence2": table.column("description"),
        "score": pa.array([1.0] * count),
        "negatives": pa.array([[]] * count, pa.list_(pa.string())),
        "source": pa.array(["debian"] * count),
    }
    return at_rate(model, 0.0, 256), examples_of(task, model, pa.table(columns))


def embeddings_peer(model: TextModel, folder: Path, lora: bool) -> Any:
    """The body as sentence-transformers has it."""
    import transformers

    return transformers.BertModel.from_pretrained(
        asset_file(START), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )


def both(example: Example) -> dict[str, Any]:
    """The two texts of a pair."""
    second = example.beside[0]
    return {
        **{f"a_{name}": each for name, each in read(example).items()},
        **{f"b_{name}": each for name, each in read(second).items()},
    }


def pairs_trainer() -> Any:
    """Transformers' Trainer with sentence-transformers' loss, which its own trainer is, too."""
    import sentence_transformers
    import transformers
    from sentence_transformers.sentence_transformer import losses

    class Pooled(torch.nn.Module):
        """Means of hidden states, as the loss asks for them."""

        def __init__(self, body: Any) -> None:
            super().__init__()
            self.body = body

        def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            hidden = self.body(**features).last_hidden_state
            mask = features["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            return {"sentence_embedding": (hidden * mask).sum(1) / mask.sum(1)}

    class Pairs(transformers.Trainer):
        def compute_loss(self, model: Any, inputs: Any, *given: Any, **more: Any) -> Any:
            features = [
                {name[2:]: each for name, each in inputs.items() if name.startswith(f"{side}_")}
                for side in "ab"
            ]
            return losses.MultipleNegativesRankingLoss(Pooled(model))(features, None)

    def make(model: Any, arguments: Any, rows: Any, inputs: Any, told: Any) -> Any:
        return Pairs(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=lambda some: padded([inputs(each) for each in some]),
            callbacks=[told],
        ), {
            "trainer": "transformers",
            "loss": f"sentence-transformers {sentence_transformers.__version__}",
            "attention": "sdpa",
        }

    return make


LAYERS = r".*encoder\.layer\..*\.(query|key|value|dense)"
"""The maps of BERT's layers, and not that of its pooler."""
WORKS = {
    "gemma": Work(
        task=Summarization(),
        batch=4,
        begin=gemma,
        peer=gemma_peer,
        inputs=shifted,
        adapted="all-linear",
        learnt_whole=(),
        trainer=trl_trainer,
    ),
    "minilm": Work(
        task=TextClassification(labels=("0", "1")),
        batch=16,
        begin=minilm,
        peer=minilm_peer,
        inputs=lambda each: read(each, labels=np.int64(each.target)),
        adapted=LAYERS,
        learnt_whole=("pooler", "classifier"),
        trainer=plain_trainer,
    ),
    "embeddings": Work(
        task=SentenceSimilarity(loss="multiple-negatives"),
        batch=16,
        begin=embeddings,
        peer=embeddings_peer,
        inputs=both,
        adapted=LAYERS,
        learnt_whole=(),
        trainer=pairs_trainer,
    ),
}


if __name__ == "__main__":
    main()
