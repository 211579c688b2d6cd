"""LlamaIndex's ``OpenAILike``."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

from benchmarks.caller import CODE, GREETING, QUESTION, TOKENS, Checks, holds, main, same

PACKAGES = ("llama-index-llms-openai-like", "llama-index-core", "openai")


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(description="the name of the city")
    days: int = Field(description="days ahead", ge=1, le=9)


def weather(city: str, days: int = 1) -> str:
    """The weather of a city."""
    return f"sunny in {city} in {days} days"


def said(text: str) -> list[ChatMessage]:
    """A conversation of one message."""
    return [ChatMessage(role="user", content=text)]


class Asked:
    """The client of one model, and its checks."""

    def __init__(self, url: str, model: str) -> None:
        self.common: dict[str, Any] = {
            "model": model,
            "api_base": url,
            "api_key": "none",
            "max_retries": 0,
            "temperature": 0,
            "max_tokens": TOKENS,
            "context_window": 2048,
            "is_chat_model": True,
            "is_function_calling_model": True,
        }
        self.chat, self.text = self.made(), self.made(is_chat_model=False)
        self.tool = FunctionTool.from_defaults(weather)

    def made(self, **more: Any) -> OpenAILike:
        return OpenAILike(**{**self.common, **more})

    @cached_property
    def plain(self) -> str:
        return self.chat.chat(said(GREETING)).message.content or ""

    def is_plain(self) -> None:
        holds(self.plain, self.plain)
        same(self.chat.complete(GREETING).text, self.plain)

    def is_asynchronous(self) -> None:
        same(asyncio.run(self.chat.achat(said(GREETING))).message.content, self.plain)

    def streams(self) -> None:
        parts = [each.delta or "" for each in self.chat.stream_chat(said(GREETING))]
        same("".join(parts), self.plain)

    def has_logprobs(self) -> None:
        found = self.made(logprobs=True, top_logprobs=2).chat(said(GREETING))
        tokens: Any = found.logprobs
        same("".join(each[0].token for each in tokens), self.plain)
        holds(all(len(each) == 2 and each[0].logprob <= 0 for each in tokens), tokens)

    def calls(self) -> None:
        asked: dict[str, Any] = {"user_msg": QUESTION, "tool_required": True}
        whole = self.chat.chat_with_tools([self.tool], **asked)
        (call,) = self.chat.get_tool_calls_from_response(whole)
        same(call.tool_name, "weather")
        holds("sunny" in weather(**call.tool_kwargs), call)
        *_, last = self.chat.stream_chat_with_tools([self.tool], **asked)
        (streamed,) = self.chat.get_tool_calls_from_response(last)
        same(streamed.tool_kwargs, call.tool_kwargs)

    def may_call(self) -> None:
        found = self.chat.chat_with_tools([self.tool], user_msg=QUESTION)
        holds(found.message.blocks, found)

    def keeps_a_schema(self, **how: Any) -> None:
        found = self.made(**how).as_structured_llm(Weather).chat(said(QUESTION)).raw
        holds(isinstance(found, Weather), found)

    def completes(self) -> None:
        found = self.text.complete(CODE).text
        holds(found, found)
        same("".join(each.delta or "" for each in self.text.stream_complete(CODE)), found)

    def completes_with_logprobs(self) -> None:
        found = self.made(is_chat_model=False, logprobs=True, top_logprobs=2).complete(CODE)
        tokens: Any = found.logprobs
        same("".join(each[0].token for each in tokens), found.text)


def checks(url: str, model: str) -> Checks:
    """What is exercised."""
    asked = Asked(url, model)
    return {
        "plain": asked.is_plain,
        "asynchronous": asked.is_asynchronous,
        "streamed": asked.streams,
        "logprobs": asked.has_logprobs,
        "tools": asked.calls,
        "tools if it likes": asked.may_call,
        "structured by schema": lambda: asked.keeps_a_schema(should_use_structured_outputs=True),
        "structured by a tool": asked.keeps_a_schema,
        "completions": asked.completes,
        "completions with logprobs": asked.completes_with_logprobs,
    }


if __name__ == "__main__":
    main(PACKAGES, checks)
