"""Compiles one grammar within bounds of time and memory; run as a script before the real compiling.

A short schema may take minutes to compile (an intersection of a hundred patterns), and a long chain
of rules more stack than there is, which no limit of llguidance's own ends. So a process tries it
first, whose processor time, memory and stack are bounded.
A request is JSON on standard input: the grammar, and the names of the special tokens in it. The
answer is JSON on standard output: what is wrong with the grammar, "" for nothing.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

SECONDS = 3
"""Processor time of compiling one grammar."""
MEMORY = 2 << 30
"""Bytes of address space of the process."""
STACK = 1 << 20
"""Bytes of its stack: half of the smallest that a thread is given, since a grammar that is compiled
here by recursion is compiled again in a thread of the server, which must not die of it."""


def main() -> None:
    """Compile the grammar of the request."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_STACK, (STACK, STACK))
    request = json.load(sys.stdin)
    import llguidance

    vocabulary: Any = Bytes(request["special"])
    matcher = llguidance.LLMatcher(
        llguidance.LLTokenizer(vocabulary, slices=[]),
        request["grammar"],
        log_level=0,
        limits=limits(),
    )
    if not matcher.is_error():
        matcher.compute_bitmask()
    json.dump({"error": matcher.get_error()}, sys.stdout)


def limits() -> Any:
    """The limits of llguidance: of a grammar, and of each step."""
    import llguidance

    return llguidance.LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=200_000,
        step_max_items=50_000,
        max_lexer_states=50_000,
        verbose_errors=False,
    )


class Bytes:
    """A vocabulary of single bytes and special tokens, as llguidance reads one."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, special: list[str]) -> None:
        names = [*special, "<end>"]
        self.tokens = [bytes([each]) for each in range(256)] + [each.encode() for each in names]
        self.special_token_ids = list(range(256, 256 + len(names)))
        self.eos_token_id = len(self.tokens) - 1

    def __call__(self, text: str) -> list[int]:
        """The ids of a text."""
        return list(text.encode())


if __name__ == "__main__":
    main()
