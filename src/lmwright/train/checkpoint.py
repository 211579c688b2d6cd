"""Checkpoints: whole or absent, and honest about where they were made."""

from __future__ import annotations

import platform
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmwright.core.durable import TEMPORARY, commit_folder, sweep, write_json
from lmwright.core.errors import LmwrightError, Refused
from lmwright.core.hashing import tree
from lmwright.core.reading import read_json_object
from lmwright.machine.probe import cpu_class
from lmwright.models.core.device import DEFAULT, device_name
from lmwright.models.files.weights import read_tensors, write_tensors
from lmwright.train.loop import Record, State, read_state
from lmwright.train.optim import Kept, trainable

KEPT = 2


class Checkpoints:
    """The last two checkpoints of a run, in a folder that survives a kill."""

    def __init__(self, folder: Path, data: str, record: Record) -> None:
        """``data`` is a digest of what is learnt from; a checkpoint of other data is refused."""
        self.folder, self.data, self.record = folder, data, record
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)

    def save(
        self,
        state: State,
        network: nn.Module,
        optimizer: Kept,
        best: Mapping[str, Tensor],
    ) -> None:
        """Write what the run needs to go on, of weights those that learn; only two are kept."""
        target = self.folder / f"step-{state.step:09d}"
        beside = self.folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        write_tensors(beside / "weights.safetensors", trainable(network))
        write_tensors(beside / "best.safetensors", best)
        write_tensors(beside / "moments.safetensors", optimizer.state())
        about = {
            "state": state.to_json(),
            "environment": environment() | placed(network),
            "data": self.data,
            "files": tree(beside),
        }
        write_json(beside / "checkpoint.json", about)
        shutil.rmtree(target, ignore_errors=True)
        commit_folder(beside, target)
        for old in self.found()[KEPT:]:
            shutil.rmtree(old)

    def resume(self, network: nn.Module, optimizer: Kept) -> tuple[State, dict[str, Tensor]] | None:
        """Put the newest whole checkpoint into network and optimizer: its state and best weights.

        One that is damaged is passed over, with an event in the journal. Refused if the data
        have changed; an event if machine, threads or library are others, since then the bits
        may differ from those of an uninterrupted run.
        """
        for folder in self.found():
            try:
                about, tensors = self.read(folder)
            except LmwrightError as error:
                self.record("checkpoint damaged", name=folder.name, reason=str(error))
                continue
            if about["data"] != self.data:
                raise Refused(
                    f"the checkpoint {folder.name} was made on other data or settings",
                    "the same data",
                    f"remove {self.folder} to start anew",
                )
            self.warn_if_elsewhere(about["environment"], environment() | placed(network))
            restore(network, optimizer, tensors)
            own = trainable(network)
            best = {name: each.to(own[name].device) for name, each in tensors["best"].items()}
            return read_state(about["state"]), best
        return None

    def found(self) -> list[Path]:
        """The checkpoints' folders, newest first."""
        return sorted(self.folder.glob("step-*"), reverse=True)

    def read(self, folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """A checkpoint's description and tensors; LmwrightError if it is not what was written."""
        about = read_json_object(folder / "checkpoint.json")
        there = tree(folder)
        there.pop("checkpoint.json", None)
        if there != about.get("files"):
            raise LmwrightError("its files are not those that were written")
        parts = ("weights", "best", "moments")
        return about, {part: read_tensors(folder / f"{part}.safetensors") for part in parts}

    def warn_if_elsewhere(self, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Say in the journal how this environment differs from the checkpoint's."""
        other = {name: [then.get(name), now[name]] for name in now if then.get(name) != now[name]}
        if other:
            self.record("environment differs", differences=other)


def environment() -> dict[str, Any]:
    """What, beside the data, the bits of a step depend on: by the class products are chosen."""
    return {
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "class": cpu_class(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def placed(network: nn.Module) -> dict[str, str]:
    """Where the network runs and in what, on which the bits of a step depend too."""
    placement = getattr(network, "placement", DEFAULT)
    return {"device": device_name(placement.device), "precision": placement.precision}


@torch.no_grad()
def restore(network: nn.Module, optimizer: Kept, tensors: dict[str, dict[str, Tensor]]) -> None:
    """Put a checkpoint's weights and moments where they were."""
    for name, weight in trainable(network).items():
        weight.copy_(tensors["weights"][name])
    optimizer.restore(tensors["moments"])
