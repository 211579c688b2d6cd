"""``lmwright generate`` and ``lmwright chat``: a language model answers in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated

import numpy as np
import typer

from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.models.decode import Decoding
from lmwright.models.files.published import read_published
from lmwright.models.language import LanguageModel, language_model

Address = Annotated[
    str,
    typer.Argument(help="A model's folder, a .gguf file, asset:NAME/PATH, or hub:OWNER/NAME."),
]
Most = Annotated[int, typer.Option(help="At most so many tokens an answer.", min=1)]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0.0)]
TopK = Annotated[int, typer.Option(help="Choose among so many likeliest tokens; 0: all.", min=0)]
TopP = Annotated[float, typer.Option(help="Choose among the likeliest of this probability.")]
Beams = Annotated[int, typer.Option(help="Hypotheses that are kept; above 1 none is drawn.", min=1)]
Seed = Annotated[int, typer.Option(help="For what is drawn.")]


def generate(
    model: Address,
    prompt: Annotated[str, typer.Argument(help="The text to go on from; - is stdin.")],
    max_tokens: Most = 256,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    beams: Beams = 1,
    seed: Seed = 0,
) -> None:
    """Go on from a prompt; the text appears as it is made."""
    text = sys.stdin.read() if prompt == "-" else prompt
    opened = opened_model(model)
    ids = opened.prompt(text)
    decoding = decoding_of(opened, ids, max_tokens, temperature, top_k, top_p, beams)
    show(piece.text for piece in opened.answer(ids, decoding, stream(seed, "generate")))


def chat(
    model: Address,
    system: Annotated[str, typer.Option(help="What the model is told before all.")] = "",
    max_tokens: Most = 512,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 0.9,
    seed: Seed = 0,
) -> None:
    """Talk to a model: a line is a message, an empty line or the end of the input stops."""
    opened = opened_model(model)
    messages = [{"role": "system", "content": system}] if system else []
    rng = stream(seed, "chat")
    while said := asked():
        messages.append({"role": "user", "content": said})
        ids = opened.chat(messages)
        decoding = decoding_of(opened, ids, max_tokens, temperature, top_k, top_p, 1)
        answer = show(piece.text for piece in opened.answer(ids, decoding, rng))
        messages.append({"role": "assistant", "content": answer})


def opened_model(address: str) -> LanguageModel:
    """The language model at an address."""
    print(f"reading {address}", file=sys.stderr, flush=True)
    published = read_published(address)
    if left := published.described.left:
        print(f"not read: {left}", file=sys.stderr, flush=True)
    return language_model(published)


def decoding_of(
    model: LanguageModel,
    ids: np.ndarray,
    most: int,
    temperature: float,
    top_k: int,
    top_p: float,
    beams: int,
) -> Decoding:
    """How to choose tokens, within the room that the prompt leaves."""
    return Decoding(
        most=min(most, model.room(ids)),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        beams=beams,
        ends=model.ends,
    )


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
