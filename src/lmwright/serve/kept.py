"""The services of a server that keep a route."""

from __future__ import annotations

from dataclasses import dataclass

from lmwright.serve.request import RequestFault
from lmwright.serve.service import Service, Services


@dataclass(frozen=True)
class Kept:
    """The services of a server that keep one route, in their order."""

    services: Services
    keeping: tuple[Service, ...]

    def named(self, name: str | None) -> Service:
        """The one that a request names, the first where it names none.

        RequestFault: no such model, and one whose task has not this route.
        """
        if name is not None and (found := self.services.named(name)) not in self.keeping:
            raise RequestFault(
                404, f"{found.alias} does not keep this route; /v1/predict answers", "model"
            )
        return self.services.named(name, self.keeping)
