"""A local folder as an object store that breaks, or kills its process, at its k-th write."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Breaking(LocalFileSystem):
    """``breaking:///folder``: the write number ``left`` (or BREAK_AT) fails halfway through.

    With BREAK_KILLS the process is killed there. Halfway: of a plain upload half the bytes
    arrive; a conditional create, which object stores do in one step, is done or is not.
    """

    protocol = "breaking"
    left: ClassVar[int] = int(os.environ.get("BREAK_AT", "0"))
    count: ClassVar[int] = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)

    def break_now(self) -> bool:
        """Count one write; whether it is the one that breaks."""
        type(self).count += 1
        return type(self).count == type(self).left

    def fail(self) -> None:
        """Break, in the way that was asked for."""
        if os.environ.get("BREAK_KILLS"):
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(5, "the line was cut")

    def put_file(self, lpath: Any, rpath: Any, *rest: Any, **options: Any) -> None:
        """Upload, or upload half."""
        if self.break_now():
            half = Path(lpath).read_bytes()
            super().pipe_file(rpath, half[: len(half) // 2])
            self.fail()
        super().put_file(lpath, rpath, *rest, **options)

    def pipe_file(self, path: Any, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        """Create, or not."""
        if self.break_now():
            self.fail()
        super().pipe_file(path, value, mode=mode, **options)


fsspec.register_implementation("breaking", Breaking, clobber=True)
