"""The peak of a piece of work, and the limit of the machine."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from lmwright.core.journal import read_journal
from lmwright.store import memory
from lmwright.store.memory import Peak, group_limits, machine_memory, peak_memory, resident
from lmwright.store.run import run_recipe
from lmwright.store.store import Store
from tests.store.test_run import recipe

LARGE = 300_000_000


def test_a_peak_is_of_what_came_after_it_began() -> None:
    """Of pages of the system's own: an allocator that another test has set keeps what is freed."""
    first = Peak()
    with mmap.mmap(-1, LARGE) as held:
        for place in range(0, LARGE, mmap.PAGESIZE):
            held[place] = 1
        taken = first.bytes()
        assert taken >= LARGE
    second = Peak()
    if second.own:
        assert second.bytes() < taken - LARGE // 2
        assert abs(second.bytes() - (resident("VmRSS") or 0)) < LARGE // 10
    else:
        assert second.bytes() == peak_memory()


def test_where_a_peak_cannot_be_reset_it_is_not_called_the_stage_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "nowhere")
    assert not Peak().own
    assert Peak().bytes() == peak_memory()
    store = Store(tmp_path)
    run = run_recipe(recipe(), store)
    events = read_journal(store.folder / "runs" / run.name / "journal.jsonl")
    ends = [event for event in events if event["event"] == "stage ended"]
    assert [event["peak_of_stage"] for event in ends] == [False, False]
    assert all(event["peak_bytes"] > 0 for event in ends)


@pytest.mark.parametrize(
    ("line", "file", "folder"),
    [
        ("0::/box\n", "memory.max", "box"),
        ("0::/\n", "memory.max", "."),
        ("3:cpu,memory:/outer/box\n0::/\n", "memory.limit_in_bytes", "memory/outer"),
        ("3:memory:/host/of/ours\n", "memory.limit_in_bytes", "memory"),
    ],
    ids=["version 2", "root", "version 1, the one above", "in a container"],
)
def test_the_limit_of_the_control_group_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, file: str, folder: str
) -> None:
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "self")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(line)
    (tmp_path / "groups" / folder).mkdir(parents=True)
    path = tmp_path / "groups" / folder / file
    path.write_text("max\n")
    assert group_limits() == []
    assert machine_memory() > 123_000_000
    path.write_text("123000000\n")
    assert group_limits() == [123_000_000]
    assert machine_memory() == 123_000_000
