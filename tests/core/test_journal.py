"""Journals, JSON files and hashes hold paths whose bytes are not UTF-8."""

import json

from lmwright.core.durable import write_json
from lmwright.core.hashing import canonical, hash_json
from lmwright.core.journal import Journal, read_journal

PATH = "/data/caf\udce9/Größe.csv"


def test_a_path_that_is_not_utf_8_is_read_back(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.record("source read", path=PATH)
    journal.close()
    assert next(read_journal(tmp_path / "journal.jsonl"))["path"] == PATH
    write_json(tmp_path / "v.json", {"path": PATH, PATH: 1})
    assert json.loads((tmp_path / "v.json").read_text("utf-8")) == {"path": PATH, PATH: 1}


def test_hashes_tell_such_paths_apart_and_spell_others_as_ever():
    assert json.loads(canonical(PATH)) == PATH
    assert hash_json("caf\udce9") != hash_json("caf\udce8")
    assert hash_json("caf\udce9") != hash_json("caf\\udce9")
    assert canonical({"b": "Größe", "a": 1}) == '{"a":1,"b":"Größe"}'.encode()
