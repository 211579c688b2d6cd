"""The syntaxes of calls, in the order in which a template is looked at."""

from __future__ import annotations

from lmwright.serve.calls.hermes import HermesCalls
from lmwright.serve.calls.llama import LlamaCalls
from lmwright.serve.calls.mistral import MistralCalls
from lmwright.serve.calls.mistral_named import MistralNamedCalls
from lmwright.serve.calls.syntax import Syntax

SYNTAXES: dict[str, Syntax] = {
    "hermes": HermesCalls(),
    "mistral": MistralCalls(),
    "mistral-named": MistralNamedCalls(),
    "llama": LlamaCalls(),
}


def syntax_of(template: str) -> Syntax | None:
    """The syntax that a chat template has its models write; None for one that is not known."""
    return next((each for each in SYNTAXES.values() if each.is_of(template)), None)
