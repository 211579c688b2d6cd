"""A training before its first step: its start, the tune applied to it, and the rows.

Functions of the settings of the stage ``train``, which names all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.core.settings import Choice, kind_of, read_choice
from lmwright.core.stage import Work
from lmwright.core.task import Task
from lmwright.data.corpus import read_split
from lmwright.models.adapted import AdaptedPredictor
from lmwright.models.core.spec import Head
from lmwright.models.family.family import Family
from lmwright.models.files.folder import Published
from lmwright.models.files.layers import with_layers
from lmwright.models.files.peft import Adapter, head_map, read_adapter
from lmwright.models.files.published import located, published_in, read_published
from lmwright.models.load import load_predictor
from lmwright.models.network.initialise import initialise
from lmwright.models.network.merge import taken_apart, unmergeable
from lmwright.models.network.network import build, fill
from lmwright.models.published_head import places_of, with_published_head
from lmwright.models.text_model import LONGEST, TextModel, TextPredictor, from_published, head_spec
from lmwright.tables import resolve
from lmwright.train.task_model import StartingTaskModel, TrainedTaskModel, trained_task_model

if TYPE_CHECKING:
    from lmwright.train.finetune import Train

BASE = "base"
"""The artifact with the published start, where that is committed first."""


@dataclass(frozen=True)
class Start:
    """A model before its first step, the task that it was trained for by us before, and whether
    its head is trained already; of a published head the ``outputs`` that the labels have."""

    model: TextModel
    earlier: Task | None
    known_head: bool
    outputs: tuple[int, ...] = ()


def begin(setting: Train, work: Work, task_model: TrainedTaskModel) -> tuple[Start, dict[str, Any]]:
    """The model with its tune before its first step, and what the task found of it."""
    begun = start_of(setting, work, task_model)
    earlier = begun.earlier
    start, carried = without_adapters(begun.model)
    model, known = start, dict[str, Any]()
    if isinstance(task_model, StartingTaskModel):
        model, known = task_model.prepared_start(start, earlier)
    if model.network is not start.network and setting.brings():
        raise BadInput(
            f"tune is {kind_of(setting.tune)}, and {task_model.task.kind} with these settings "
            "adds to the start's own weights",
            "tune: full",
            "set tune to full, or take the task's settings back",
        )
    most = setting.max_tokens if earlier is None else min(setting.max_tokens, positions(model))
    model = at_rate(model, setting.dropout, most)
    tune, adapter = applied_tune(setting, model)
    read_choice("tunes", tune, "tune", resolve).apply(model.network, setting.seed)
    needed = setting.reading if earlier is None else most
    if needed > positions(model):
        raise BadInput(
            f"texts of {needed} tokens, and the start reads {positions(model)} with this tune",
            f"at most {positions(model)}",
            "lower max_tokens and read_tokens, or tune.length",
        )
    if adapter is not None:
        use, family = task_model.head(0.0), resolve("families", model.family)
        mapped = head_map(family, model.network, use) if isinstance(use, str) else []
        adapter.put(model.network, mapped, setting.adapter)
    fill(model.network, {name: each.clone() for name, each in carried.items()})
    return replace(begun, model=model), known


def start_of(setting: Train, work: Work, task_model: TrainedTaskModel) -> Start:
    """The earlier model with its task, or a published or drawn one."""
    task = task_model.task
    if setting.start_from:
        found = load_predictor(work.inputs[setting.start_from])
        if not isinstance(found, TextPredictor):
            raise BadInput(f"{setting.start_from} is a {found.kind} model", "a text model")
        if setting.take == "body":
            head = task_model.head(max(setting.dropout, 0.0))
            return Start(body_with_head(found, head, setting.start_from, setting.seed), None, False)
        if not found.task.comparable(task):
            raise BadInput(
                f"{setting.start_from} was trained for {found.task}",
                f"the task of the rows: {task}",
                "train from the published start instead, or set take to body",
            )
        if unmergeable(found.model.network) and tune_of(setting, found) != setting.chosen("tune"):
            raise BadInput(
                f"{setting.start_from} has an adapter that cannot be merged, and tune is another",
                "the tune that it was trained with, whose weights then learn on",
                "set tune as that training had it, or train from the published start",
            )
        return Start(found.model, found.task, True)
    outputs: tuple[int, ...] = ()
    head = task_model.head(max(setting.dropout, 0.0))
    use, names = task_model.published_head, task_model.output_names()
    trained = isinstance(head, Head) and bool(head.outputs)
    if not setting.epochs and (setting.new is not None or (trained and not use)):
        raise BadInput(
            f"epochs is 0, and nobody has trained a head for {task.kind}",
            "a start with a published head for the task",
            "set epochs to 1 or more",
        )
    if setting.new is not None:
        rows = training_rows(setting, work).to_pylist()
        pairs = [(task.text(row), task.target(row)) for row in rows]
        # A model that writes needs the tokens of what it is to write, too.
        written = [target for text, target in pairs if target not in text]
        texts = [text for text, _ in pairs] + (written if task.teacher_forced else [])
        drawn, known_head = setting.new.model(texts, head, setting.max_tokens, setting.seed), False
    else:
        published = read_start(setting, address_of(setting, work.inputs))
        known_head = isinstance(head, str)
        if trained and takes_head(setting, published, use, names):
            places = places_of(published.described.config, use, names)
            drawn = with_published_head(published, use, places, setting.max_tokens)
            known_head, outputs = True, tuple(places)
        else:
            drawn = from_published(published, head, setting.max_tokens, setting.seed)
    return Start(drawn, None, known_head, outputs)


def takes_head(setting: Train, published: Published, use: str, names: Sequence[str]) -> bool:
    """Whether to begin with the start's own head: where it answers, or nothing is trained."""
    try:
        places_of(published.described.config, use, names)
    except BadInput:
        return not setting.epochs  # whose fault is then told
    return True


def tune_of(setting: Train, earlier: TextPredictor) -> Any:
    """The settings of the tune of an earlier model; None where it is saved whole."""
    if not isinstance(earlier, AdaptedPredictor):
        return None
    return read_choice("tunes", earlier.adaptation.tune, str(setting.start_from), resolve)


def applied_tune(setting: Train, model: TextModel) -> tuple[Choice, Adapter | None]:
    """The tune as it is applied to the start, and the adapter that says so, if there is one."""
    if not setting.adapter:
        return setting.tune, None
    family: Family = resolve("families", model.family)
    adapter = read_adapter(Path(setting.adapter), family, model.network.spec)
    return {**(setting.tune if isinstance(setting.tune, dict) else {}), **adapter.tune}, adapter


def address_of(setting: Train, inputs: Mapping[str, Path]) -> str:
    """Where the published start is read from: its artifact, where it is committed first."""
    return str(published_in(inputs[BASE])) if setting.brings() else setting.start


def read_start(setting: Train, address: str = "") -> Published:
    """The published start; BadInput if it has not the positions for what it is to read."""
    if not located(address or setting.start).exists():
        raise BadInput(
            f"start: there is no {setting.start}", "a published model's folder or .gguf file"
        )
    found = read_published(address or setting.start)
    if setting.start_layers:
        found = with_layers(found, setting.start_layers)
    longest = found.spec.longest or LONGEST
    name = "max_tokens" if setting.max_tokens > longest else "read_tokens"
    if setting.reading > longest:
        raise BadInput(
            f"{name} is {getattr(setting, name)}, and {setting.start} reads {longest} tokens",
            f"at most {longest}",
            f"lower {name}, or start from a model with more positions",
        )
    return found


def training_rows(setting: Train, work: Work) -> pa.Table:
    """The rows to learn from, sorted by id: a stratified subset, and all further rows."""
    table = read_split(work.inputs["rows"], "train", setting.rows, setting.seed)
    further = [read_split(work.inputs[name], "train") for name in setting.extra]
    tables = [filled(each, "train") for each in (table, *further)]
    return pa.concat_tables(tables, promote_options="default").sort_by("id")


def filled(table: pa.Table, split: str) -> pa.Table:
    """The same table; BadInput if it has no rows."""
    if not table.num_rows:
        raise BadInput(f"{split} has no rows", "one row at least", "loosen the data stage")
    return table


def at_rate(model: TextModel, dropout: float, max_tokens: int) -> TextModel:
    """The same model with dropout at ``dropout`` (below 0: as it is) and another cap."""
    network = model.network
    if dropout >= 0:
        head = replace(head_spec(network), dropout=dropout)
        network = build(network.spec.with_dropout(dropout), head)
        fill(network, dict(model.network.named_parameters()))
    return model.with_network(network, max_tokens)


def without_adapters(model: TextModel) -> tuple[TextModel, dict[str, Tensor]]:
    """The same model with its adapters merged into its weights, and those weights of adapters that
    cannot be, by name."""
    network, adapter = taken_apart(model.network)
    return model.with_network(network, model.max_tokens), adapter


def positions(model: TextModel) -> int:
    """The longest text that the model can read, in tokens."""
    return model.network.longest or LONGEST


def body_with_head(found: TextPredictor, head: Head | str, name: str, seed: int) -> TextModel:
    """The body of a model with another head, drawn from ``seed``; its own where it is to be the
    same published one.

    BadInput for a published head that it has not, and for an adapter that cannot be merged.
    """
    network, adapter = taken_apart(found.model.network)
    if adapter:
        raise BadInput(
            f"take is body, and {name} has an adapter that cannot be merged into its weights",
            "a model of plain weights, or an adapter that merges (lora, ia3)",
            "train it with another tune",
        )
    if isinstance(head, str):
        if trained_task_model(found.task).head(0.0) != head:
            raise BadInput(
                f"take is body, and {name} was trained for {found.task.kind}",
                f"a model with the head {head!r}",
                "start from a language model",
            )
        return found.model.with_network(network, found.model.max_tokens)
    other = build(network.spec, head)
    own = {n: w for n, w in network.named_parameters() if not n.startswith("head.")}
    fill(other, own)
    initialise(other, seed)
    return found.model.with_network(other, found.model.max_tokens)
