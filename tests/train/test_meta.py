"""Meta-learning: update rules by worked examples, episodes, and the stage ``meta``."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.core.predictor import answer_all
from lmwright.models.files.folder import read_folder
from lmwright.models.load import load_predictor
from lmwright.models.text_model import from_published
from lmwright.tasks.text_classification import TextClassification
from lmwright.train.episodes import Adaptation, Episode, draw, features, head_loss, targets
from lmwright.train.finetune import Train
from lmwright.train.meta import Meta, MetaTraining
from lmwright.train.metas.maml import MAML, MAMLLearner
from lmwright.train.metas.rules import adapted, reptile_step
from lmwright.train.optim import trainable
from lmwright.train.optimizers import AdamW
from lmwright.train.schedules import Constant
from lmwright.train.task_model import trained_task_model
from tests.train.conftest import SCHEMA, FakeWork, write_rows, write_task

# Rules


def maml_gradient(
    loss_of: Any,
    weights: Any,
    support: Any,
    query: Any,
    rate: float,
    steps: int,
    second: bool = True,
) -> tuple[float, dict[str, Tensor]]:
    """The loss on the query after adapting to the support, and its gradient for the weights before
    it (Finn et al. 2017, algorithm 1).

    Without ``second`` the gradient is the one for the adapted weights (first-order MAML).
    """
    start = {name: each.detach().requires_grad_() for name, each in weights.items()}
    found = adapted(loss_of, start, support, rate, steps, second)
    if not second:
        start = found = {name: each.requires_grad_() for name, each in found.items()}
    loss = loss_of(found, query)
    made = torch.autograd.grad(loss, list(start.values()))
    return float(loss.detach()), dict(zip(start, made, strict=True))


def bowl(weights: Any, centre: Tensor) -> Tensor:
    """½ a (θ − c)² with a = 3."""
    return 1.5 * (weights["x"] - centre).square().sum()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_gradients_on_a_parabola_are_those_worked_by_hand(steps):
    """θ' − c = (1 − a α)^k (θ − c); the query's gradient a (θ' − d) goes back through each step."""
    theta, centre, query, rate, a = 2.0, 0.5, -1.0, 0.1, 3.0
    weights = {"x": torch.tensor([theta], dtype=torch.float64)}
    at = [torch.tensor([each], dtype=torch.float64) for each in (centre, query)]
    shrink = (1 - a * rate) ** steps
    moved = centre + shrink * (theta - centre)
    found = adapted(bowl, weights, at[0], rate, steps)
    assert float(found["x"]) == pytest.approx(moved)
    for second, factor in ((True, shrink), (False, 1.0)):
        loss, gradient = maml_gradient(bowl, weights, *at, rate, steps, second)
        assert loss == pytest.approx(1.5 * (moved - query) ** 2)
        assert float(gradient["x"]) == pytest.approx(a * (moved - query) * factor)


def test_second_order_is_the_derivative_of_adapting():
    """Against finite differences, on a loss that is no parabola."""

    def loss_of(weights: Any, data: tuple[Tensor, Tensor]) -> Tensor:
        return F.mse_loss(torch.tanh(data[0] @ weights["w"]), data[1])

    rng = torch.Generator().manual_seed(0)
    draw_ = [torch.randn(6, 3, generator=rng, dtype=torch.float64) for _ in range(2)]
    sets = [(each, torch.sin(each.sum(1))) for each in draw_]
    weights = {"w": torch.randn(3, generator=rng, dtype=torch.float64)}
    _, found = maml_gradient(loss_of, weights, *sets, 0.3, 3)
    for place in range(3):
        ends = []
        for sign in (1, -1):
            moved = weights["w"].clone()
            moved[place] += sign * 1e-5
            end = adapted(loss_of, {"w": moved}, sets[0], 0.3, 3)
            ends.append(float(loss_of(end, sets[1]).detach()))
        assert float(found["w"][place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4)


def test_reptile_goes_a_part_of_the_way_to_the_mean():
    begun = {"x": torch.tensor([1.0, 2.0])}
    ends = [{"x": torch.tensor([3.0, 2.0])}, {"x": torch.tensor([5.0, 0.0])}]
    found = reptile_step(begun, ends, 0.25)["x"]
    torch.testing.assert_close(found, torch.tensor([1 + 0.25 * 3, 2 - 0.25 * 1]))


def sine(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten and fifty points of a wave of drawn height and phase (Finn et al. 2017, section 5.1)."""
    height, phase = (torch.rand(2, generator=rng) * torch.tensor([4.9, 3.14])).tolist()
    x = torch.rand(60, 1, generator=rng) * 10 - 5
    y = (height + 0.1) * torch.sin(x - phase)
    return x[:10], y[:10], x[10:], y[10:]


def wave_loss(weights: Any, data: tuple[Tensor, Tensor]) -> Tensor:
    """A network of one hidden layer."""
    hidden = torch.tanh(F.linear(data[0], weights["a"], weights["b"]))
    return F.mse_loss(F.linear(hidden, weights["c"], weights["d"]), data[1])


@pytest.mark.parametrize("method", ["second", "first", "reptile"])
def test_waves_are_learnt_from_ten_points_after_meta_learning(method):
    rng = torch.Generator().manual_seed(1)
    weights = {
        "a": torch.randn(40, 1, generator=rng),
        "b": torch.randn(40, generator=rng),
        "c": torch.randn(1, 40, generator=rng) * 0.1,
        "d": torch.zeros(1),
    }

    def after(start: Any) -> float:
        own, losses = torch.Generator().manual_seed(99), []
        for _ in range(40):
            x, y, other_x, other_y = sine(own)
            end = adapted(wave_loss, start, (x, y), 0.02, 5)
            losses.append(float(wave_loss(end, (other_x, other_y)).detach()))
        return float(np.mean(losses))

    before = after(weights)
    for step in range(600):
        x, y, other_x, other_y = sine(rng)
        if method == "reptile":
            whole = torch.cat([x, other_x]), torch.cat([y, other_y])
            end = {n: e.detach() for n, e in adapted(wave_loss, weights, whole, 0.02, 8).items()}
            weights = reptile_step(weights, [end], 0.5 * (1 - step / 600))
            continue
        _, made = maml_gradient(
            wave_loss, weights, (x, y), (other_x, other_y), 0.02, 5, method == "second"
        )
        weights = {n: each - 0.005 * made[n].clamp(-5, 5) for n, each in weights.items()}
    assert after(weights) < 0.8 * before


# Texts


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """Forty sentences of each of six labels, told by their words."""
    folder = tmp_path_factory.mktemp("labels")
    words = ["weather rain", "music song", "table food", "film actor", "book author", "car road"]
    rows = [
        {"text": f"{number} {each} please", "label": each.split()[0], "source": "made"}
        for each in words
        for number in range(20)
    ]
    for row in rows:
        row["id"] = hashlib.sha256(row["text"].encode()).hexdigest()[:32]
    write_rows(folder / "train.parquet", rows)
    labels = tuple(sorted({row["label"] for row in rows}))
    write_task(folder, TextClassification(labels=labels))
    return folder


@pytest.fixture
def stage(small: Path) -> Meta:
    return Meta(
        start=str(small),
        held_out=("weather", "music", "table"),
        ways=3,
        shots=2,
        queries=3,
        passes=300,
        test_episodes=8,
        adapt_steps=4,
        max_tokens=16,
        lr=3e-3,
        seed=2,
    )


def pool(folder: Path, small: Path) -> tuple[Any, dict[str, list[Any]]]:
    task = TextClassification(labels=("book", "car", "film", "music", "table", "weather"))
    writer = trained_task_model(task)
    model = from_published(read_folder(small), writer.head(0.0), 16, 0)
    found: dict[str, list[Any]] = {label: [] for label in task.labels}
    for each in writer.examples(model, pq.read_table(folder / "train.parquet")):
        found[task.labels[each.target]].append(each)
    return model, found


def test_an_episode_has_its_labels_and_no_row_twice(labelled, small):
    _, examples = pool(labelled, small)
    label_of = {each.document: name for name, rows in examples.items() for each in rows}
    first = draw(examples, 3, 2, 4, 7, 0, "test")
    assert (len(first.support), len(first.query), first.cost) == (6, 12, 18)
    every = [each.document for each in (*first.support, *first.query)]
    assert len(set(every)) == 18
    by_way: dict[int, set[str]] = {}
    for each in (*first.support, *first.query):
        by_way.setdefault(each.target, set()).add(label_of[each.document])
    assert sorted(by_way) == [0, 1, 2] and all(len(names) == 1 for names in by_way.values())
    again, other = (draw(examples, 3, 2, 4, 7, number, "test") for number in (0, 1))
    assert [e.document for e in again.query] == [e.document for e in first.query]
    assert [e.document for e in other.query] != [e.document for e in first.query]


def training(examples: Any, inner: str) -> MetaTraining:
    adaptation = Adaptation(inner == "all", 3, 0.05, 0.5)
    return MetaTraining(examples, 3, 2, 3, adaptation, AdamW(), Constant(), 1e-3, 0)


def test_a_second_order_step_is_the_derivative_of_the_rule(labelled, small):
    """The gradient that MAML leaves for a weight of the body, against finite differences."""
    model, examples = pool(labelled, small)
    network = model.network
    network.requires_grad_(True)
    own = training(examples, "head")
    learner = MAMLLearner(network, MAML(order=2), own)
    episode = own.episode(0)
    learner.through_head(episode, own.adaptation, None)  # type: ignore[arg-type]
    names = [n for n, w in trainable(network).items() if w.grad is not None and w.dim() == 1]
    name = max(names, key=lambda n: float(network.get_parameter(n).grad.abs().max()))
    weight = network.get_parameter(name)
    place = int(weight.grad.abs().argmax())
    wanted, ends = float(weight.grad[place]), []

    def query_loss() -> float:
        with torch.no_grad():
            support, query = features(network, episode.support), features(network, episode.query)
        begun = {"weight": torch.zeros(3, support.shape[1]), "bias": torch.zeros(3)}
        data = (support, targets(episode.support, support))
        head = adapted(head_loss, begun, data, own.adaptation.head_lr, 3)
        return float(head_loss(head, (query, targets(episode.query, query))).detach())

    for sign in (1, -1):
        with torch.no_grad():
            weight[place] += sign * 1e-2
        ends.append(query_loss())
        with torch.no_grad():
            weight[place] -= sign * 1e-2
    assert wanted == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=0.05)


@pytest.mark.parametrize("inner", ["head", "all"])
def test_adapting_to_be_judged_changes_no_weight(labelled, small, inner):
    model, examples = pool(labelled, small)
    network = model.network
    network.requires_grad_(True)
    before = {n: w.detach().clone() for n, w in trainable(network).items()}
    episode = draw(examples, 3, 5, 5, 0, 0, "test")
    adaptation = Adaptation(inner == "all", 20, 0.005, 0.5)
    accuracy = adaptation.accuracy(network, episode)
    assert 0 <= accuracy <= 1
    assert all(torch.equal(w, before[n]) for n, w in trainable(network).items())
    known = Episode(episode.support, episode.support, 3)
    assert adaptation.accuracy(network, known) > 0.6  # what it adapted to


@pytest.mark.parametrize(
    "method",
    [
        "plain",
        "reptile",
        "maml",
        {"kind": "maml", "order": 1},
        {"kind": "maml", "order": 1, "inner": "all"},
    ],
    ids=["plain", "reptile", "maml", "first", "first-all"],
)
def test_every_method_learns_reads_as_many_rows_and_repeats(method, stage, labelled, tmp_path):
    own = replace(stage, method=method)
    works = [FakeWork({"rows": labelled}, tmp_path / name) for name in "ab"]
    facts = [own.run(work) for work in works]
    assert facts[0] == facts[1]
    files = [(work.folder / "model" / "model.safetensors").read_bytes() for work in works]
    assert files[0] == files[1]
    assert 300 <= facts[0]["passes"] < 380
    assert facts[0]["seen"] == ["book", "car", "film"]
    assert 0 <= facts[0]["after"]["accuracy"] <= 1 and facts[0]["headline"].startswith("new labels")
    losses = [each["loss"] for each in works[0].named("episode")]
    assert len(losses) == facts[0]["episodes"] and np.isfinite(losses).all()
    used = pq.read_table(works[0].folder / "model" / "rows.parquet")
    assert used.num_rows == facts[0]["rows"] == 60


def test_the_model_knows_the_labels_and_its_body_learns_others(stage, labelled, tmp_path):
    work = FakeWork({"rows": labelled}, tmp_path / "work")
    replace(stage, method="plain", passes=900).run(work)
    made = load_predictor(work.folder / "model")
    assert made.task.labels == ("book", "car", "film")
    table = pq.read_table(labelled / "train.parquet").to_pylist()
    known = [row for row in table if row["label"] in made.task.labels]
    answers = np.asarray(answer_all(made, known)["logits"]).argmax(1)
    right = [made.task.labels[n] == row["label"] for n, row in zip(answers, known, strict=True)]
    assert np.mean(right) > 0.9
    folder = tmp_path / "few"
    folder.mkdir()
    rows = [row for row in table if row["label"] in ("weather", "music")]
    for split, part in (("train", rows[::2]), ("validation", rows[1::2])):
        pq.write_table(
            pa.Table.from_pylist(part).select(SCHEMA.names).cast(SCHEMA),
            folder / f"{split}.parquet",
        )
    write_task(folder, TextClassification(labels=("music", "weather")))
    few = Train(start_from="meta", take="body", epochs=1, max_tokens=16, lr=1e-3, check_first="off")
    own = FakeWork({"rows": folder, "meta": work.folder / "model"}, tmp_path / "tuned")
    few.run(own)
    assert load_predictor(own.folder / "model").task.labels == ("music", "weather")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ways": 1}, "ways is 1"),
        ({"method": "mamml"}, "did you mean 'maml'"),
        ({"method": {"kind": "maml", "inner": "all"}}, "no second derivative"),
        ({"method": {"kind": "reptile", "rate": 2.0}}, "a rate above 0"),
        ({"adapt": "body"}, "head or all"),
        ({"lr": 2.0}, "lr is 2.0"),
    ],
)
def test_bad_settings_are_refused(stage, change, words):
    with pytest.raises(BadInput, match=words):
        replace(stage, **change).check()


def test_labels_that_there_are_not_are_refused(stage, labelled, tmp_path):
    with pytest.raises(BadInput, match="held_out: 'wether'"):
        replace(stage, held_out=("wether",)).foresee({"rows": labelled})
    work = FakeWork({"rows": labelled}, tmp_path / "work")
    with pytest.raises(BadInput, match="episodes of 4 labels"):
        replace(stage, ways=4).run(work)
    with pytest.raises(BadInput, match="with 28 rows each"):
        replace(stage, shots=19, queries=9).run(work)
    with pytest.raises(BadInput, match="held_out with 2 labels"):
        replace(stage, held_out=("weather", "music")).run(work)
