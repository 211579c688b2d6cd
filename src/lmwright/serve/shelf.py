"""Published models of one server: loaded when asked for, unloaded where memory is short."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from lmwright.models.core.device import PACKED
from lmwright.models.network.network import Network
from lmwright.models.text_model import TextModel
from lmwright.serve.engine import Busy

Load = Callable[[], TextModel]


@dataclass
class Entry:
    """A model by how it is loaded; ``users`` hold it, ``used`` counts up to its last use.

    ``stamp`` is what its files were known by when it was loaded.
    """

    load: Load
    stamp: object = None
    model: TextModel | None = None
    users: int = 0
    used: int = 0
    bytes: int = 0


class Shelf:
    """Models by name, the weights of all that are loaded within ``most_bytes`` (0: no bound).

    Where a model is asked for and the bound would be passed, the one unused for longest goes, as
    long as nobody uses it. Models are loaded one at a time; methods may be called by any thread.
    """

    def __init__(self, loads: Mapping[str, Load], most_bytes: int = 0) -> None:
        self.entries = {name: Entry(load) for name, load in loads.items()}
        self.most_bytes = most_bytes
        self.uses = 0
        self.loading = threading.RLock()  # as what an adapter stands on is loaded with it
        self.changed = threading.Lock()

    def take(self, name: str) -> TextModel:
        """A model, kept until :meth:`give`; loaded first where it is not.

        Busy where those in use leave no room for it; what loading raises is passed on.
        """
        entry = self.entries[name]
        with self.changed:
            if entry.model is not None:
                return self.used(entry)
        with self.loading:
            with self.changed:
                if entry.model is not None:
                    return self.used(entry)
                self.make_room(entry)
            model = entry.load()
            with self.changed:
                others = [e.model for e in self.entries.values() if e.model is not None]
                entry.model, entry.bytes = model, weight_bytes(model, others)
                try:
                    self.make_room(entry)
                except Busy:
                    self.unload(entry)
                    raise
                return self.used(entry)

    def renew(self, name: str, load: Load, stamp: object) -> None:
        """Have a model loaded anew when it is next asked for, if its stamp is another one.

        Those who use the former one keep it.
        """
        with self.changed:
            entry = self.entries.setdefault(name, Entry(load, stamp))
            if entry.stamp != stamp:
                self.unload(entry)
                entry.stamp = stamp

    def give(self, name: str) -> None:
        """Keep a model no longer."""
        with self.changed:
            self.entries[name].users -= 1

    def used(self, entry: Entry) -> TextModel:
        """Take note of a use."""
        assert entry.model is not None
        self.uses += 1
        entry.users, entry.used = entry.users + 1, self.uses
        return entry.model

    @property
    def loaded_bytes(self) -> int:
        """The weights of all that are loaded."""
        return sum(entry.bytes for entry in self.entries.values() if entry.model is not None)

    def make_room(self, wanted: Entry) -> None:
        """Unload until the wanted model, of the size that is known of it, is within the bound."""
        more = 0 if wanted.model is not None else wanted.bytes
        while self.most_bytes and self.loaded_bytes + more > self.most_bytes:
            idle = [
                entry
                for entry in self.entries.values()
                if entry is not wanted and entry.model is not None and not entry.users
            ]
            if not idle:
                if any(entry.users for entry in self.entries.values()):
                    raise Busy(5)
                return  # a model that is larger than the bound is served alone
            self.unload(min(idle, key=lambda entry: entry.used))

    def unload(self, entry: Entry) -> None:
        """Let a model go."""
        if entry.model is not None and entry.model.template is not None:
            entry.model.close()
        entry.model = None

    def close(self) -> None:
        """Let all models go."""
        with self.changed:
            for entry in self.entries.values():
                self.unload(entry)


def weight_bytes(model: TextModel, others: Iterable[TextModel] = ()) -> int:
    """The memory of a model's weights that others do not have too: as they are, and a byte for each
    where they are packed."""
    known = {each.data_ptr() for other in others for each in weights_of(other)}
    own = {each.data_ptr(): each for each in weights_of(model)}
    weights = [each for place, each in own.items() if place not in known]
    placement = getattr(model.network, "placement", None)
    packed = placement is not None and placement.precision in PACKED
    plain = sum(each.numel() * each.element_size() for each in weights)
    return plain + packed * sum(each.numel() for each in weights)


def weights_of(model: TextModel) -> list[Tensor]:
    """The weights of a model, of our core or another's."""
    network = model.network
    return list((network if isinstance(network, Network) else network.model).parameters())
