"""Loading a predictor from its folder, of whichever kind and format it is."""

from __future__ import annotations

from pathlib import Path

from lmwright.core.bases import BASE, base_folder, bases_of
from lmwright.core.errors import BadInput, nearest
from lmwright.core.predictor import DESCRIPTION, Predictor
from lmwright.core.reading import read_json_object
from lmwright.core.settings import kind_of
from lmwright.core.task import read_task
from lmwright.old_format import description_of
from lmwright.tables import entries, module_at, module_of, resolve


def load_predictor(folder: Path) -> Predictor:
    """The predictor in a folder, of the kind that its ``model.json`` names."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise BadInput(f"no {DESCRIPTION} in {folder}", "a model's folder as lmwright writes it")
    description = description_of(read_json_object(path))
    kind = description.get("kind")
    if kind not in entries("models"):
        raise BadInput(
            f"{path}: no kind of model is called {kind!r}",
            "a kind that lmwright has",
            nearest(str(kind), entries("models")),
        )
    task = read_task(description.get("task"), str(path), resolve)
    found: Predictor = resolve("models", str(kind)).load(folder, task)
    return found


def modules_of(folder: Path) -> tuple[str, ...]:
    """Modules that load and run the predictor in a folder: its kind's, its task's, its members'.

    Those of a task are its own, and that by which text models answer it: any kind may use it.
    """
    found: list[str] = []
    for path in sorted(folder.rglob(DESCRIPTION)):
        description = description_of(read_json_object(path))
        task = description.get("task")
        if isinstance(task, dict):
            kind = str(task.get("kind"))
            found.append(module_of("tasks", kind))
            if place := resolve("tasks", kind).text_model:
                found.append(module_at(place))
        found.append(module_of("models", str(description.get("kind"))))
        found += base_modules(path.parent)
    return tuple(dict.fromkeys(found))


def base_modules(folder: Path) -> list[str]:
    """Modules that read what a predictor stands on and apply its tune, if it has a base."""
    if "tune" not in (about := read_json_object(folder / BASE) if bases_of(folder) else {}):
        return []
    # It takes torch, and most models stand on nothing.
    from lmwright.models.files.published import family_modules, published_in

    found = [module_of("tunes", kind_of(about["tune"]))]
    for content in bases_of(folder):
        base = base_folder(folder, content)
        ours = (base / DESCRIPTION).is_file()
        found += modules_of(base) if ours else family_modules(str(published_in(base)))
    return found
