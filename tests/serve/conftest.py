"""A tiny language model and a server for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lmwright.models.files.published import read_published
from lmwright.models.text_model import TextModel, language_model
from tests.serve.talking import Talk, talking, write_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Iterator[TextModel]:
    model = language_model(read_published(str(model_folder)))
    yield model
    assert model.template is not None
    model.template.close()


@pytest.fixture(scope="module")
def talk(model: TextModel) -> Iterator[Talk]:
    with talking(model) as talk:
        yield talk
