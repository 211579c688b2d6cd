"""The stage ``prompt``: rows that a language model is shown, chosen and kept as an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.core.hashing import hash_json
from lmwright.core.stage import RowStatistics, Stage, Use, Work, WorkEstimate
from lmwright.core.stamp import reachable
from lmwright.core.task import PoolingTask, Task
from lmwright.data.corpus import read_split, read_task_of, task_modules, write_used_rows
from lmwright.evals.predictions import answers_to
from lmwright.hosted.chat import open_hosted
from lmwright.metrics.calibration import Calibration
from lmwright.models.files.published import check_address, content_of, describe, located
from lmwright.models.loading import language_modules
from lmwright.models.network.anatomy import anatomy
from lmwright.tasks.prompted import Prompted, Sampling, opened
from lmwright.tasks.shown import Select, check_shown, choose
from lmwright.text.few_shot import TEMPLATE, FewShotPrompt
from lmwright.text.generation import is_hosted

GIVEN = "prompted"
CHARACTERS_A_TOKEN = 4
WRITTEN = 8
"""Read tokens that a written one costs: it is read alone, a prompt's tokens together."""


@dataclass(frozen=True, kw_only=True)
class Prompt(Stage):
    """Make a predictor of a language model by showing it rows with their right answers.

    ``model`` is an address as in the stage zero-shot, ``key_from`` the variable with the key of a
    hosted one. ``shown`` training rows stand behind the ``instruction``, each by the ``template``;
    ``select`` says which: drawn so that each stratum keeps its share (``random``), as many of each
    stratum (``balanced``), or for each text the ``nearest`` by BM25 of ``pool`` rows that are kept
    with the predictor. ``samples`` answers a row are read, each of at
    most ``max_new_tokens``. ``calibration_rows`` calibrate the prompt (0: none).
    """

    model: str
    key_from: str = ""
    instruction: str = ""
    template: str = TEMPLATE
    shown: int = 8
    select: Select = "random"
    pool: int = 500
    max_characters: int = 500
    samples: int = 1
    max_new_tokens: int = 16
    calibration_rows: int = 100

    def needs(self) -> tuple[str, ...]:
        """The rows."""
        return ("rows",)

    def gives(self) -> tuple[str, ...]:
        """One model."""
        return (GIVEN,)

    def asks(self) -> tuple[str, ...]:
        """Rows to show, and rows to calibrate by."""
        return ("rows/train", "rows/calibration")

    def reads(self) -> dict[str, str]:
        """The language model, if it is of this machine."""
        return {} if is_hosted(self.model) else {self.model: content_of(self.model)}

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """The task of the rows, and the family of the model."""
        return (*task_modules(inputs["rows"]), *self.family())

    def family(self) -> tuple[str, ...]:
        """The modules of the model's family, if it is of this machine."""
        return () if is_hosted(self.model) else language_modules(self.model)

    @classmethod
    def uses(cls, settings: Mapping[str, Any], place: str) -> tuple[Use, ...]:
        """The calibration rows."""
        if place != "rows/calibration" or not settings["calibration_rows"]:
            return ()
        return (Use("calibrated", GIVEN, "", settings["calibration_rows"], settings["seed"]),)

    def check(self) -> None:
        """BadInput for an address, a template or a number that is none."""
        self.prompt()
        for name in ("samples", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}", "at least 1")
        check_shown(self.shown, self.select, self.pool)
        if self.calibration_rows < 0:
            raise BadInput(f"calibration_rows is {self.calibration_rows}", "0 or more")
        if is_hosted(self.model):
            open_hosted(self.model, self.key_from)
        else:
            check_address(self.model)

    def estimate(self, known: RowStatistics) -> WorkEstimate | None:
        """The calibration rows, each behind the shown ones, in tokens of the training's model.

        A prompt's tokens cost as many of those as its model is larger, a written one ``WRITTEN``
        times as much. None for a hosted model, whose speed no probe here can tell.
        """
        if is_hosted(self.model):
            return None
        found = describe(self.model)
        head = found.heads.get("lm") or next(iter(found.heads.values()), None)
        size = 4 * anatomy(found.spec, head).parameters
        most = max(1, self.max_characters // CHARACTERS_A_TOKEN)
        read = self.shown * known.tokens("rows/train", most)
        read += known.tokens("rows/calibration", most) + len(self.instruction) / CHARACTERS_A_TOKEN
        texts = min(self.calibration_rows, known.rows("rows/calibration"))
        asked = texts * self.samples * (read + WRITTEN * self.max_new_tokens)
        path = located(self.model)
        files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        return WorkEstimate(
            read_tokens=asked * size / max(1, known.model_bytes()),
            disk=sum(each.stat().st_size for each in files),
            further_bytes=size,
        )

    def prompt(self) -> FewShotPrompt:
        """The prompt without its rows."""
        return FewShotPrompt(self.instruction, self.template, self.max_characters)

    def run(self, work: Work) -> dict[str, Any]:
        """Choose the rows, calibrate, and write the predictor with the rows that it shows."""
        task = read_task_of(work.inputs["rows"])
        train = read_split(work.inputs["rows"], "train")
        shown, rows = choose(task, train, self.shown, self.select, self.pool, self.seed)
        asked = Sampling(self.model, self.key_from, self.samples, self.max_new_tokens, self.seed)
        hosted = is_hosted(self.model)
        source = None if hosted else located(self.model)
        # A family's code is part of what the model says, and later stages reach none of it.
        code = "" if hosted else hash_json(reachable([], self.family())[0])
        made = Prompted(task, self.prompt(), shown, asked, opened(asked), source, code=code)
        made.calibration = self.calibration(work, task, made)
        out = work.out(GIVEN)
        made.save(out)
        write_used_rows(task, rows, out)
        known = made.calibration
        temperature = None if known is None else known.temperature
        return {"model": self.model, "shown": len(shown.pool), "temperature": temperature}

    def calibration(self, work: Work, task: Task, made: Prompted) -> Calibration | None:
        """The calibration of the prompt's answers; None where the task has no use for one."""
        if not self.calibration_rows or not isinstance(task, PoolingTask):
            return None
        rows = read_split(work.inputs["rows"], "calibration", self.calibration_rows, self.seed)
        answers = answers_to(made, task, rows, lambda done, total: work.progress(done, total))
        return replace(Calibration.fit(task, rows, answers, risk=1.0), threshold=0.0)
