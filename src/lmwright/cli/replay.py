"""``lmwright replay``: play a kept test set as traffic, give some labels back, let the loop react.

It is a replay, and called so: real texts with known labels, sent to a real server on this machine
over HTTP, in a seeded order, each once.
"""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import pyarrow as pa
import typer

from lmwright.cli.open import STORE, StoreOption
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, LmwrightError
from lmwright.core.random import stream
from lmwright.core.task import Loss, Task, feedback_loss, role_columns
from lmwright.data.corpus import read_split, read_task_of
from lmwright.loop.controller import ENDS
from lmwright.loop.promote import Promote
from lmwright.metrics.intervals import mean_interval, wilson
from lmwright.plan.recipe import open_recipe
from lmwright.report.metrics import called
from lmwright.serve.traffic import traffic_folder
from lmwright.store.open import open_store
from lmwright.store.progress import Lines
from lmwright.store.store import Store
from lmwright.store.versions import current, read_version

REFUSED = {400, 413, 422}
"""Answers that say that a text itself is at fault, as one longer than the server's limit."""


@dataclass
class Played:
    """What a replay sent and got: counts, and the loss of each answer by version.

    ``lost`` texts had no answer; ``refused`` ones had one that says what is wrong with them.
    The loss is the one called ``loss``, from 0 to ``largest``; ``right_or_wrong`` where it is 1
    for a wrong answer and 0 for a right one.
    """

    sent: int = 0
    lost: int = 0
    refused: list[str] = field(default_factory=list)
    fed_back: int = 0
    loss: str = ""
    largest: float = 1.0
    right_or_wrong: bool = False
    by_version: dict[str, list[float]] = field(default_factory=dict)
    states: list[dict[str, Any]] = field(default_factory=list)

    @property
    def decided(self) -> bool:
        """Whether the loop has swapped or kept."""
        return any(state["at"] in ENDS for state in self.states)

    def scored(self) -> dict[str, Any]:
        """The share of right answers by version, or the mean loss by its name, with intervals."""
        return {
            version: {"texts": len(losses), **self.score(losses)}
            for version, losses in self.by_version.items()
        }

    def score(self, losses: list[float]) -> dict[str, Any]:
        """The score of one version's answers, by its name."""
        if self.right_or_wrong:
            right = len(losses) - sum(losses)
            return {"accuracy": wilson(right, len(losses)).to_json()}
        return {self.loss: mean_interval(np.array(losses), 0.0, self.largest).to_json()}


def replay(
    recipe: Annotated[Path, typer.Argument(help="The recipe whose model is served.")],
    test_set: Annotated[
        list[str], typer.Option(help="The test set that is played; may be repeated.")
    ],
    texts: Annotated[int, typer.Option(help="At most so many texts.")] = 2400,
    after: Annotated[int, typer.Option(help="Texts to play after the loop has decided.")] = 300,
    labelled: Annotated[float, typer.Option(help="Share of answers that get a label back.")] = 0.8,
    seconds: Annotated[float, typer.Option(help="Give up waiting after so long.")] = 600.0,
    seed: Annotated[int, typer.Option(help="For the order and for which labels come back.")] = 0,
    store: StoreOption = STORE,
) -> None:
    """Play a kept test set as traffic and let the loop react; ends with code 0 either way."""
    opened, known = open_store(store), open_recipe(recipe, [])
    promote = next((step for step in known.steps if isinstance(step.stage, Promote)), None)
    if promote is None:
        raise BadInput(f"{recipe} has no stage promote", "a recipe that puts a model in service")
    alias = f"{known.name}@{cast(Promote, promote.stage).alias}"
    task, rows = test_rows(opened, alias, test_set, texts, seed)
    lines = Lines()
    server = Server(alias, recipe, opened)
    try:
        lines.line(f"replay: {len(rows)} texts of {' and '.join(test_set)} go to {alias}")
        played = play(server, task, rows, after, labelled, seconds, lines, seed)
    finally:
        server.stop()
    path = traffic_folder(opened, alias) / "replay.json"
    write_json(path, {"test_sets": test_set, **vars(played), "scored": played.scored()})
    tell(played, lines)


def test_rows(
    store: Store, alias: str, test_sets: list[str], texts: int, seed: int
) -> tuple[Task, list[dict[str, Any]]]:
    """The task, and rows of test sets kept out of the first training, mixed in seeded order."""
    version = current(store, alias)
    if version is None:
        raise BadInput(f"nothing is behind {alias}", "a promoted version", "run the recipe first")
    rows = store.artifact(read_version(store, version.hash)["artifacts"]["rows"])
    task = read_task_of(rows)
    names = [column.name for column in role_columns(task, "input", "target")]
    found: list[dict[str, Any]] = []
    for test_set in test_sets:
        found += read_split(rows, f"test-{test_set}").select(names).to_pylist()
    order = stream(seed, "replay", *test_sets).permutation(len(found))[:texts]
    return task, [found[place] for place in order]


class Server:
    """``lmwright serve`` in a process of its own, on a free port of this machine."""

    def __init__(self, alias: str, recipe: Path, store: Store) -> None:
        command = [sys.executable, "-m", "lmwright.cli.main", "serve", alias, "--port", "0"]
        command += ["--recipe", str(recipe), "--store", str(store.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline() if self.process.stdout else ""
        if "http://" not in line:
            self.process.wait(30)
            raise LmwrightError("the server did not start", "see its message above")
        self.port = int(line.strip().rpartition(":")[2])
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """One request; status 0 when there was no answer.

        LmwrightError where there will be none any more.
        """
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"} if data else {}
        try:
            self.connection.request(method, path, data, headers)
            response = self.connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            self.connection.close()
            code = self.process.poll()
            if code is not None:
                raise LmwrightError(
                    f"the server ended with {code} in the middle of the replay",
                    "an end after the last text",
                    "see its message above; what it served is in the log of the traffic",
                ) from None
            return 0, {}

    def stop(self) -> None:
        """Drain and end."""
        self.connection.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        if self.process.stdout:
            self.process.stdout.close()


def play(
    server: Server,
    task: Task,
    rows: list[dict[str, Any]],
    after: int,
    labelled: float,
    seconds: float,
    lines: Lines,
    seed: int,
) -> Played:
    """Send texts, four a request; slowly while a retraining has need of the processor."""
    played = Played()
    chance = stream(seed, "replay labels")
    waiting = iter(rows)
    began, left = time.monotonic(), len(rows)
    state = server.ask("GET", "/v1/loop")[1] or {"at": "observed"}
    while left > 0 and time.monotonic() - began < seconds:
        if state["at"] == "training" and played.decided:
            return played  # the loop has decided once; what it learns next is for another day
        busy = state["at"] in {"training", "gated"}
        batch = [row for _, row in zip(range(1 if busy else 4), waiting, strict=False)]
        if not batch:
            break
        send(server, task, batch, labelled, chance, played)
        left -= len(batch)
        before, state = played.decided, look(server, state, played, lines)
        if played.decided and not before:
            left = min(left, after)
        lines.progress("replay", played.sent, len(rows), f"{state['at']}, {played.lost} lost")
        if busy:
            time.sleep(0.5)
    while state["at"] in {"training", "gated"} and not played.decided:
        if time.monotonic() - began > seconds:
            break
        time.sleep(0.5)  # the texts ran out before the training did
        state = look(server, state, played, lines)
        lines.progress("replay", played.sent, len(rows), f"{state['at']}, no texts left")
    return played


def look(server: Server, state: dict[str, Any], played: Played, lines: Lines) -> dict[str, Any]:
    """The loop's state; a change is shown and kept, an end also that was over between two looks."""
    now: dict[str, Any] = server.ask("GET", "/v1/loop")[1] or state
    ended = now.get("ended")
    changes = [{**now, **ended}] if ended and ended != state.get("ended") else []
    if now["at"] != [state, *changes][-1]["at"]:
        changes.append(now)
    for change in changes:
        lines.line(f"loop: {change['at']} – {change.get('reason') or change.get('version')}")
        played.states.append({**change, "sent": played.sent, "last_window": None})
    return now


def send(
    server: Server,
    task: Task,
    batch: list[dict[str, Any]],
    labelled: float,
    chance: Any,
    played: Played,
) -> None:
    """One request, and feedback for some of its answers."""
    inputs, targets = (
        [{column.name: row[column.name] for column in role_columns(task, role)} for row in batch]
        for role in ("input", "target")
    )
    status, answer = server.ask("POST", "/v1/predict", {"inputs": inputs})
    if status in REFUSED and len(batch) > 1:  # one row of them is at fault; the others are not
        for row in batch:
            send(server, task, [row], labelled, chance, played)
        return
    played.sent += len(batch)
    if status in REFUSED:
        played.refused.append(str(answer.get("error", {}).get("message", status)))
        return
    if status != 200:
        played.lost += len(batch)
        return
    name, loss = loss_of(task, batch, answer["answers"])
    played.loss, played.largest = name, loss.largest
    played.right_or_wrong = name == task.abstains_by
    played.by_version.setdefault(answer["version"], []).extend(loss.values.tolist())
    for result, target in zip(answer["answers"], targets, strict=True):
        if chance.random() < labelled:
            body = {"id": answer["id"], "index": result["index"], **target}
            played.fed_back += server.ask("POST", "/v1/feedback", body)[0] == 201


def loss_of(task: Task, rows: list[dict[str, Any]], told: list[dict[str, Any]]) -> tuple[str, Loss]:
    """The loss of each answer by which a replay counts, and its name.

    It is the one that says whether an answer is wrong, where the task has such a loss.
    """
    columns = {
        column.name: pa.array([row[column.name] for row in rows], column.arrow)
        for column in role_columns(task, "input", "target")
    }
    name = task.abstains_by or feedback_loss(task)
    return name, task.measures(pa.table(columns), task.heard(told)).losses[name]


def tell(played: Played, lines: Lines) -> None:
    """The outcome in a few lines."""
    lines.line(
        f"replay: {played.sent} texts sent, {played.lost} lost, {played.fed_back} labels given back"
    )
    if played.refused:
        lines.line(
            f"  {len(played.refused)} texts were refused, the last one: {played.refused[-1]}"
        )
    for version, entry in played.scored().items():
        lines.line(f"  version {version}: {in_words(entry)} of {entry['texts']} texts")
    if not played.decided:
        lines.line("  the loop did not come to a decision")


def in_words(entry: dict[str, Any]) -> str:
    """A version's score with its interval."""
    name, value = next((name, value) for name, value in entry.items() if name != "texts")
    estimate, low, high = (value[each] for each in ("estimate", "low", "high"))
    if name == "accuracy":
        return f"{estimate:.1%} right [{low:.1%}, {high:.1%}]"
    return f"mean {called(name)} {estimate:.3f} [{low:.3f}, {high:.3f}]"
