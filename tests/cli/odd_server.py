"""``lmwright serve`` with a model that hangs, or takes the engine down, when a text says so."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

from lmwright.cli import main, serve
from lmwright.core.task import Answers
from lmwright.serve import server
from tests.serve.fake import Counting, Words, loaded


class Odd(Counting):
    """The fake, with two more misbehaviours."""

    def answers(self, batch: Sequence[Words]) -> Answers:
        if any("HANG" in item.text for item in batch):
            threading.Event().wait()
        if any("DIE" in item.text for item in batch):
            raise SystemExit("asked to die")
        return super().answers(batch)


def odd(*_: Any) -> Any:
    one = loaded()
    one.predictor = Odd()
    return one


if __name__ == "__main__":
    serve.load_version = odd
    serve.STEP_SECONDS, server.WRITE_SECONDS = 0.5, 1
    sys.exit(main.main(sys.argv[1:]))
