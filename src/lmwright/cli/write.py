"""``lmwright generate`` and ``lmwright chat``: a language model answers in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from lmwright.core.errors import BadInput
from lmwright.models.authors import Author, author_at
from lmwright.models.decode import Decoding
from lmwright.models.hosted import is_hosted
from lmwright.models.language import LanguageModel

Address = Annotated[
    str,
    typer.Argument(
        help="A model's folder, a .gguf file, asset:NAME/PATH, hub:OWNER/NAME, "
        "or hosted:MODEL@https://HOST/v1."
    ),
]
Most = Annotated[int, typer.Option(help="At most so many tokens an answer.", min=1)]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0.0)]
TopK = Annotated[int, typer.Option(help="Choose among so many likeliest tokens; 0: all.", min=0)]
TopP = Annotated[float, typer.Option(help="Choose among the likeliest of this probability.")]
Beams = Annotated[int, typer.Option(help="Hypotheses that are kept; above 1 none is drawn.", min=1)]
Seed = Annotated[int, typer.Option(help="For what is drawn.")]
KeyFrom = Annotated[
    str, typer.Option(help="The variable of the environment that holds a hosted model's key.")
]


def generate(
    model: Address,
    prompt: Annotated[str, typer.Argument(help="The text to go on from; - is stdin.")],
    message: Annotated[
        bool, typer.Option("--message", help="The prompt is a message, which the model answers.")
    ] = False,
    max_tokens: Most = 256,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    beams: Beams = 1,
    seed: Seed = 0,
    source: Annotated[
        str, typer.Option("--from", help="A translator's prompt is in this language (fr, fr_XX).")
    ] = "",
    target: Annotated[str, typer.Option("--to", help="A translator answers in this one.")] = "",
    key_from: KeyFrom = "",
) -> None:
    """Go on from a prompt, or translate it; the text appears as it is made."""
    how = Decoding(max_tokens, temperature, top_k, top_p, beams)
    text = sys.stdin.read() if prompt == "-" else prompt
    author = opened(model, key_from)
    if source or target:
        author = translator(author, source, target)
    if message:
        show(author.reply([{"role": "user", "content": text}], how, seed))
    else:
        show(author.complete(text, how, seed))


def chat(
    model: Address,
    system: Annotated[str, typer.Option(help="What the model is told before all.")] = "",
    max_tokens: Most = 512,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 0.9,
    seed: Seed = 0,
    key_from: KeyFrom = "",
) -> None:
    """Talk to a model: a line is a message, an empty line or the end of the input stops."""
    how = Decoding(max_tokens, temperature, top_k, top_p)
    author = opened(model, key_from)
    messages = [{"role": "system", "content": system}] if system else []
    while said := asked():
        messages.append({"role": "user", "content": said})
        answer = show(author.reply(messages, how, seed))
        messages.append({"role": "assistant", "content": answer})
        seed += 1  # or an answer would be drawn as the one before it was


def opened(address: str, key_from: str) -> Author:
    """Whatever writes at an address."""
    if not is_hosted(address):
        say(f"reading {address}")
    return author_at(address, key_from, say)


def translator(author: Author, source: str, target: str) -> Author:
    """A model of this machine for two languages; BadInput for one behind an endpoint."""
    if not isinstance(author, LanguageModel):
        raise BadInput("a language for a hosted model", "words", "say it in the prompt")
    return author.between(source, target)


def say(line: str) -> None:
    """A line beside the text."""
    print(line, file=sys.stderr, flush=True)


def asked() -> str:
    """The next line of the person who talks; empty at the end."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip()
    except UnicodeDecodeError:
        raise BadInput("a line that is not UTF-8", "text in UTF-8") from None


def show(pieces: Iterable[str]) -> str:
    """Print pieces as they come; returns the whole."""
    whole = []
    for piece in pieces:
        print(piece, end="", flush=True)
        whole.append(piece)
    print(flush=True)
    return "".join(whole)
