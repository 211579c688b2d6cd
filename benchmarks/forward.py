"""Reading and writing: our networks against transformers' with the same weights and texts.

    python -m benchmarks.forward                     # everything
    python -m benchmarks.forward --only decode

``forward`` and ``train`` (forward and backward, no optimiser): non-padding tokens a second of an
encoder (published MiniLM weights, the mean of all states classified), a decoder (a LLaMA of 134M,
every next token foretold) and a decoder with an encoder (BART base, each review's second half
foretold from its first). The peer gets its batches padded to their longest document: in the order
in which they come (``dynamic``), and with documents of like length together (``grouped``). The
weights of the decoders are fresh, for none are published where we can reach them; both sides have
the same ones, and every batch's loss must be equal.

``decode``: greedy tokens a second of the reference decoder against ``generate``, alone and sixteen
at once, by the same LLaMA and by Gemma 3 270M with its published weights. The tokens of both sides
must be equal wherever the best two logits of the peer lie further apart than rounding (1e-3).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.answer_models import GEMMA, LLAMA_134M
from benchmarks.peer import REVIEWS, START
from benchmarks.turns import in_turns, ratios, report, speed, wait
from lmwright.assets import asset_file
from lmwright.core.random import stream
from lmwright.models.core.ragged import Ragged, order_of_pairs, pack
from lmwright.models.core.spec import Head
from lmwright.models.decode import generate
from lmwright.models.files.folder import read_folder, write_folder
from lmwright.models.files.gguf_model import read_gguf_model
from lmwright.models.network.initialise import Initialisation, initialise
from lmwright.models.network.network import Network, build, fill
from lmwright.models.text_model import language_model
from lmwright.models.zoo import bart, gemma3, llama
from lmwright.text.generation import SamplingParams

READERS, WRITERS = ("encoder", "decoder", "both"), ("llama-134m", "gemma3-270m")
PEERS = ("dynamic", "grouped")
SEED, ROUNDS, BATCH, BATCHES, LONGEST = 0, 5, 8, 4, 512
PROMPT, NEW = 32, 64
LOSS_BOUND, TIE = 1e-4, 1e-3
NONE = -100
"""The target of a place that has no next token."""


@dataclass
class Document:
    """Token ids, the ids that are to be foretold from them (of pairs), and a label."""

    ids: np.ndarray
    target: np.ndarray
    label: int


def main() -> None:
    """Compare, or, in a child, be one side of a comparison."""
    parser = argparse.ArgumentParser(description="reading and writing against transformers")
    parser.add_argument("--only", choices=("forward", "train", "decode"))
    parser.add_argument("--model", choices=(*READERS, *WRITERS))
    parser.add_argument("--side", choices=("ours", "peer", *PEERS))
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.side:
        work = writing if chosen.only == "decode" else reading
        work(chosen)
        return
    for work in ("forward", "train", "decode"):
        if chosen.only in (None, work):
            for line in compared(work, chosen.model, chosen.threads):
                print(json.dumps(line), flush=True)
                if not line["equal"]:
                    raise SystemExit("the sides differ: no result")


def compared(work: str, only: str | None, threads: int) -> Iterator[dict[str, Any]]:
    """The results of one kind of work, each as soon as it is there."""
    for model in WRITERS if work == "decode" else READERS:
        if only in (None, model):
            for rows in (1, 16) if work == "decode" else (BATCH,):
                yield from against_peers(work, model, rows, threads)


def against_peers(work: str, model: str, rows: int, threads: int) -> list[dict[str, Any]]:
    """One result a peer of one model."""
    peers = ("peer",) if work == "decode" else PEERS
    shared = [f"--only={work}", f"--model={model}", f"--rows={rows}", f"--threads={threads}"]
    turns = in_turns(
        {side: ["benchmarks.forward", *shared, f"--side={side}"] for side in ("ours", *peers)},
        ROUNDS,
    )
    found = []
    for peer in peers:
        ours, theirs = turns["ours"][1:], turns[peer][1:]
        ratio, spread = ratios(ours, theirs)
        grouped = "" if peer == "peer" else f" {peer}"
        apart = distance(work, ours, theirs, stepwise=peer != "grouped")
        found.append(
            {
                "name": f"{work} {model}{grouped}",
                "ratio": ratio,
                "ours": round(speed(ours), 1),
                "peer": round(speed(theirs), 1),
                "unit": "tokens/s" if work == "decode" else "non-padding tokens/s",
                "conditions": {
                    "rows": rows,
                    "threads": threads,
                    "tokens": ours[0]["tokens"],
                    "rounds": ROUNDS,
                    "load": round(os.getloadavg()[0], 1),
                },
                "spread": spread,
                "memory_mb": {"ours": ours[-1]["peak_mb"], "peer": theirs[-1]["peak_mb"]},
                "distance": float(f"{apart:.2g}"),
                "equal": apart <= (0 if work == "decode" else LOSS_BOUND),
            }
        )
    return found


def distance(
    work: str, ours: list[dict[str, Any]], peer: list[dict[str, Any]], stepwise: bool
) -> float:
    """How far results lie apart: losses, or in how many texts a token differs that is no tie."""
    mine, theirs = ours[-1], peer[-1]
    if work == "decode":
        texts = zip(mine["written"], theirs["written"], theirs["margins"], strict=True)
        return sum(differs(*text) for text in texts)
    if stepwise:
        return float(abs(np.array(mine["losses"]) - np.array(theirs["losses"])).max())
    means = [np.average(side["losses"], weights=side["counts"]) for side in (mine, theirs)]
    return float(abs(means[0] - means[1]))


def differs(ours: list[int], peer: list[int], margins: list[float]) -> bool:
    """Whether the first token in which two texts differ is one of which the peer was sure."""
    places = [n for n, pair in enumerate(zip(ours, peer, strict=True)) if pair[0] != pair[1]]
    return bool(places) and margins[places[0]] > TIE


def reading(chosen: argparse.Namespace) -> None:
    """A child: a side that reads batches, forward only or forward and backward."""
    network = reader(chosen.model)
    batches = dealt(documents(chosen.model), grouped=chosen.side == "grouped")
    loss = our_loss(network) if chosen.side == "ours" else peer_loss(chosen.model, network)
    turn = 0
    while True:
        wait()
        began, losses = time.perf_counter(), []
        for batch in batches:
            with torch.set_grad_enabled(chosen.only == "train"):
                found = loss(batch)
            if chosen.only == "train":
                found.backward()
            losses.append(float(found))
        seconds = time.perf_counter() - began
        turn += 1
        report(
            turn,
            seconds=seconds,
            tokens=sum(len(each.ids) + len(each.target) for batch in batches for each in batch),
            losses=losses,
            counts=[predicted(chosen.model, batch) for batch in batches],
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        )


def predicted(model: str, batch: Sequence[Document]) -> int:
    """Over how many labels or tokens the loss of a batch is a mean."""
    if model == "encoder":
        return len(batch)
    return sum(len(each.target if model == "both" else each.ids) - 1 for each in batch)


def reader(model: str) -> Network:
    """The network that both sides have: published weights where there are some, else fresh."""
    if model == "encoder":
        published = read_folder(asset_file(START))
        network = build(published.spec, Head(pool="mean", outputs=2))
        fill(network, published.weights)
    elif model == "both":
        spec = bart.sized("base")
        network = build(spec, bart.FAMILY.heads["lm"]({}, spec)[0])
    else:
        spec = llama.spec(LLAMA_134M)
        network = build(spec, llama.FAMILY.heads["lm"](LLAMA_134M, spec)[0])
    initialise(network, SEED, Initialisation())
    return network


def documents(model: str) -> list[Document]:
    """Real reviews, each cut to a drawn length that it has at least; of pairs, in the middle."""
    draw, count = stream(SEED, "lengths"), BATCH * BATCHES
    lengths = np.clip(draw.lognormal(np.log(110) - 0.18, 0.6, count), 8, LONGEST).astype(int)
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["source"] == "imdb"]
    tokenizer = read_folder(asset_file(START)).tokenizer
    chosen = [rows[int(at)] for at in draw.permutation(len(rows))[: 8 * count]]
    ids = tokenizer.encode([row["text"] for row in chosen], LONGEST)
    long_enough = sorted(zip(ids, chosen, strict=True), key=lambda pair: -len(pair[0]))
    found = []
    for length, (own, row) in zip(sorted(lengths)[::-1], long_enough, strict=False):
        cut = own[:length].astype(np.int64)
        half = len(cut) // 2 if model == "both" else len(cut)
        found.append(Document(cut[:half], cut[half:], int(row["label"])))
    return [found[int(at)] for at in draw.permutation(count)]


def dealt(found: list[Document], grouped: bool) -> list[list[Document]]:
    """Batches in the documents' order, or of documents of like length."""
    if grouped:
        found = sorted(found, key=lambda each: (len(each.ids), len(each.target)))
    return [found[at : at + BATCH] for at in range(0, len(found), BATCH)]


Loss = Callable[[Sequence[Document]], Tensor]


def our_loss(network: Network) -> Loss:
    """The mean loss of a batch by our network."""

    def loss(batch: Sequence[Document]) -> Tensor:
        network.zero_grad()
        ids = [each.ids for each in batch]
        if len(network.spec.stacks) > 1:
            targets = [each.target for each in batch]
            order = order_of_pairs(ids, targets)
            stream = pack(targets, order=order)
            logits = network({"encoder": pack(ids, order=order), "decoder": stream})
            return F.cross_entropy(logits, following(stream), ignore_index=NONE)
        stream = pack(ids)
        logits = network(stream)
        if network.head_spec is not None and network.head_spec.pool == "mean":
            return F.cross_entropy(logits, labels_of(batch))
        return F.cross_entropy(logits, following(stream), ignore_index=NONE)

    return loss


def following(stream: Ragged) -> Tensor:
    """Each token's next one, in the stream's order."""
    targets_n = torch.cat([stream.tokens_n[1:], torch.tensor([NONE])])
    targets_n[stream.boundary_rows(last=True)] = NONE
    return targets_n


def labels_of(batch: Sequence[Document]) -> Tensor:
    """The label of each document."""
    return torch.tensor([each.label for each in batch])


def peer_loss(model: str, network: Network) -> Loss:
    """The mean loss of a batch by transformers' model with the weights of ``network``."""
    import transformers

    if model == "encoder":
        body = transformers.BertModel.from_pretrained(asset_file(START), add_pooling_layer=False)
        assert network.head is not None and network.head.out is not None
        out = network.head.out

        def loss(batch: Sequence[Document]) -> Tensor:
            body.zero_grad()
            ids, mask = padded([each.ids for each in batch])
            states = body(input_ids=ids, attention_mask=mask).last_hidden_state
            weight = mask[:, :, None].to(states.dtype)
            means = (states * weight).sum(1) / weight.sum(1)
            return F.cross_entropy(F.linear(means, out.weight, out.bias), labels_of(batch))

        return eval_mode(body, loss)
    peer = published_again(model, network)

    def loss_of_tokens(batch: Sequence[Document]) -> Tensor:
        peer.zero_grad()
        ids, mask = padded([each.ids for each in batch])
        given = {"input_ids": ids, "attention_mask": mask}
        if model == "both":
            ids, mask = padded([each.target for each in batch])
            given |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
        logits = peer(**given, use_cache=False).logits
        targets = torch.full_like(ids, NONE)
        targets[:, :-1] = torch.where(mask[:, 1:] == 1, ids[:, 1:], NONE)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NONE)

    return eval_mode(peer, loss_of_tokens)


def eval_mode(module: Any, loss: Loss) -> Loss:
    """The loss without dropout, as ours is here."""
    module.eval()
    return loss


def padded(sequences: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Ids and mask (rows, longest), padded on the right."""
    width = max(map(len, sequences))
    ids = torch.zeros(len(sequences), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.from_numpy(sequence)
        mask[row, : len(sequence)] = 1
    return ids, mask


def published_again(model: str, network: Network) -> Any:
    """Transformers' model with our weights, through a folder in its own format."""
    import transformers

    family, kind = {
        "both": (bart.FAMILY, "BartForConditionalGeneration"),
        "gemma3-270m": (gemma3.FAMILY, "Gemma3ForCausalLM"),
    }.get(model, (llama.FAMILY, "LlamaForCausalLM"))
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), family, network, head="lm")
        return getattr(transformers, kind).from_pretrained(folder)


def writing(chosen: argparse.Namespace) -> None:
    """A child: a side that writes on."""
    if chosen.model == "gemma3-270m":
        ours = language_model(read_gguf_model(asset_file(GEMMA)))
        network = ours.network
        ids = ours.tokenizer.encode(texts(chosen.rows), PROMPT)
    else:
        network = reader("decoder")
        ids = read_folder(asset_file(START)).tokenizer.encode(texts(chosen.rows), PROMPT)
    prompts = [each.astype(np.int64) for each in ids]
    assert all(len(each) == PROMPT for each in prompts)
    write = our_writer(network) if chosen.side == "ours" else peer_writer(chosen.model, network)
    turn = 0
    while True:
        wait()
        began = time.perf_counter()
        written, margins = write(prompts)
        seconds = time.perf_counter() - began
        turn += 1
        report(
            turn,
            seconds=seconds,
            tokens=sum(map(len, written)),
            written=written,
            margins=margins(),
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        )


def texts(rows: int) -> list[str]:
    """The beginnings of long real reviews."""
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as lines:
        found = (row["text"] for row in csv.DictReader(lines) if len(row["text"]) > 400)
        return list(islice(found, rows))


Written = tuple[list[list[int]], Callable[[], list[list[float]]]]
"""The new tokens of each text, and how sure the side was of them, if that is asked."""


def our_writer(network: Network) -> Callable[[list[np.ndarray]], Written]:
    """The reference decoder."""

    def write(prompts: list[np.ndarray]) -> Written:
        steps = list(
            generate(network, prompts, SamplingParams(max_new_tokens=NEW), stream(SEED, "greedy"))
        )
        return [[step[row].id for step in steps] for row in range(len(prompts))], list

    return write


def peer_writer(model: str, network: Network) -> Callable[[list[np.ndarray]], Written]:
    """Transformers' ``generate``; prompts are of one length, so that it pads nothing."""
    peer = published_again(model, network).eval()

    def write(prompts: list[np.ndarray]) -> Written:
        ids = torch.from_numpy(np.stack(prompts))
        whole = peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=NEW,
            max_new_tokens=NEW,
        )

        def margins() -> list[list[float]]:
            with torch.no_grad():
                rows = [peer(row[None]).logits[0, PROMPT - 1 : -1].topk(2).values for row in whole]
            return [(best[:, 0] - best[:, 1]).tolist() for best in rows]

        return whole[:, PROMPT:].tolist(), margins

    return write


if __name__ == "__main__":
    main()
