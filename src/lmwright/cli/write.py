"""``lmwright generate`` and ``lmwright chat``: generation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from lmwright.cli.open import STORE, StoreOption
from lmwright.core.errors import BadInput
from lmwright.hosted.chat import open_hosted
from lmwright.models.answering import place_to_answer
from lmwright.models.core.device import check_placement
from lmwright.models.loading import is_model_address, load_text_model
from lmwright.models.placement import refuse_unplaced
from lmwright.models.text_model import TextModel, TextPredictor
from lmwright.serve.load import load_version
from lmwright.serve.version_model import WRITING, VersionModel
from lmwright.store.open import existing_store
from lmwright.text.generation import GenerationConfig, Generator, SamplingParams, is_hosted

Address = Annotated[
    str,
    typer.Argument(
        help="A model's folder, a .gguf file, asset:NAME/PATH, hub:OWNER/NAME, "
        "hosted:MODEL@https://HOST/v1, or a version of the store: NAME@ALIAS or its hash."
    ),
]
MaxTokens = Annotated[int, typer.Option(help="At most so many tokens an answer.", min=1)]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0.0)]
TopK = Annotated[int, typer.Option(help="Choose among so many likeliest tokens; 0: all.", min=0)]
TopP = Annotated[float, typer.Option(help="Choose among the likeliest of this probability.")]
Beams = Annotated[int, typer.Option(help="Hypotheses that are kept; above 1 none is drawn.", min=1)]
MinP = Annotated[float, typer.Option(help="Choose among those so likely beside the likeliest.")]
TypicalP = Annotated[float, typer.Option(help="Choose among the most typical of this probability.")]
Alpha = Annotated[float, typer.Option(help="Above 0: contrastive search among the --top-k.")]
Groups = Annotated[int, typer.Option(help="Groups of beams that avoid one another.", min=1)]
Diversity = Annotated[float, typer.Option(help="What a token costs that another group took.")]
Repetition = Annotated[float, typer.Option(help="Above 1: known tokens are less likely.")]
Ban = Annotated[list[str], typer.Option(help="A phrase that is not written. May be repeated.")]
Require = Annotated[list[str], typer.Option(help="A phrase that is written (with --beams).")]
DeviceName = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
PrecisionName = Annotated[
    str,
    typer.Option(
        "--precision",
        help="auto, fp32, bf16, int8, int4; auto: int8 if its outputs, measured once, are close.",
    ),
]
KvName = Annotated[
    str, typer.Option("--kv", help="fp32 or int8: what keys and values of tokens are kept in.")
]
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
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    beams: Beams = 1,
    min_p: MinP = 0.0,
    typical_p: TypicalP = 1.0,
    penalty_alpha: Alpha = 0.0,
    beam_groups: Groups = 1,
    diversity_penalty: Diversity = 0.0,
    repetition_penalty: Repetition = 1.0,
    ban: Ban = [],  # noqa: B006
    require: Require = [],  # noqa: B006
    seed: Seed = 0,
    source: Annotated[
        str, typer.Option("--from", help="A translator's prompt is in this language (fr, fr_XX).")
    ] = "",
    target: Annotated[str, typer.Option("--to", help="A translator answers in this one.")] = "",
    key_from: KeyFrom = "",
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    kv: KvName = "fp32",
    store: StoreOption = STORE,
) -> None:
    """Go on from a prompt, or translate it; the text appears as it is made."""
    text = sys.stdin.read() if prompt == "-" else prompt
    generator = open_generator(model, key_from, device, precision, kv, store)
    if (ban or require) and not isinstance(generator, TextModel):
        raise BadInput("phrases for a hosted model", "a model of this machine", "leave them out")
    params = SamplingParams(
        max_tokens,
        temperature,
        top_k,
        top_p,
        beams,
        generation_config=GenerationConfig(repetition_penalty=repetition_penalty),
        min_p=min_p,
        typical_p=typical_p,
        beam_groups=beam_groups,
        diversity_penalty=diversity_penalty,
        penalty_alpha=penalty_alpha,
        banned=generator.phrases(ban, alone=True) if isinstance(generator, TextModel) else (),
        required=generator.phrases(require, alone=False)
        if isinstance(generator, TextModel)
        else (),
    )
    if source or target:
        generator = translator(generator, source, target)
    if message:
        show(generator.reply([{"role": "user", "content": text}], params, seed))
    else:
        show(generator.complete(text, params, seed))


def chat(
    model: Address,
    system: Annotated[str, typer.Option(help="What the model is told before all.")] = "",
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 0.9,
    seed: Seed = 0,
    key_from: KeyFrom = "",
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    kv: KvName = "fp32",
    store: StoreOption = STORE,
) -> None:
    """Talk to a model: a line is a message, an empty line or the end of the input stops."""
    params = SamplingParams(max_tokens, temperature, top_k, top_p)
    generator = open_generator(model, key_from, device, precision, kv, store)
    messages = [{"role": "system", "content": system}] if system else []
    while line := read_line():
        messages.append({"role": "user", "content": line})
        answer = show(generator.reply(messages, params, seed))
        messages.append({"role": "assistant", "content": answer})
        seed += 1  # or an answer would be drawn as the one before it was


def open_generator(
    address: str, key_from: str, device: str, precision: str, kv: str, store: Path
) -> Generator:
    """The local or hosted model at an address, or of a version of the store; ``key_from`` names
    the variable with its key."""
    if is_hosted(address):
        refuse_unplaced(device, precision, address, kv)
        return open_hosted(address, key_from)
    if key_from:
        raise BadInput("a key for a model of this machine", "a hosted model", "leave it out")
    say(f"reading {address}")
    check_placement(device, precision, kv)
    model = load_text_model(address, say) if is_model_address(address) else own(address, store)
    place_to_answer(model, device, precision, say, kv)
    return model


def own(name: str, store: Path) -> TextModel:
    """The language model of a version, which reads a prompt as the version in service does.

    BadInput where it is none, or made for a task of its own.
    """
    loaded = load_version(existing_store(store), name)
    writes = WRITING.intersection(loaded.task.contracts)
    if not writes or not isinstance(loaded.predictor, TextPredictor):
        raise BadInput(
            f"{name} is a {loaded.predictor.kind} model for {loaded.task.kind}",
            "a model that goes on from texts, or answers conversations",
            "ask it with lmwright predict",
        )
    return VersionModel(loaded)


def translator(generator: Generator, source: str, target: str) -> Generator:
    """A local model as a translator between two languages; BadInput for a hosted one."""
    if not isinstance(generator, TextModel):
        raise BadInput("a language for a hosted model", "words", "say it in the prompt")
    return generator.for_languages(source, target)


def say(line: str) -> None:
    """Print a line on stderr, beside the text."""
    print(line, file=sys.stderr, flush=True)


def read_line() -> str:
    """The next line of the user; empty at the end of the input."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip()
    except UnicodeDecodeError:
        raise BadInput("a line that is not UTF-8", "text in UTF-8") from None


def show(chunks: Iterable[str]) -> str:
    """Print chunks as they come; returns the whole."""
    whole = []
    for chunk in chunks:
        print(chunk, end="", flush=True)
        whole.append(chunk)
    print(flush=True)
    return "".join(whole)
