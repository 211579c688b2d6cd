"""LangChain's ``ChatOpenAI`` and ``OpenAI``."""

from __future__ import annotations

import asyncio
import json
from functools import cached_property, reduce
from operator import add
from typing import Any

import openai
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

from benchmarks.caller import CODE, GREETING, QUESTION, TOKENS, Checks, holds, main, same

PACKAGES = ("langchain-openai", "langchain-core", "openai")


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(description="the name of the city")
    days: int = Field(description="days ahead", ge=1, le=9)


@tool
def weather(city: str, days: int = 1) -> str:
    """The weather of a city."""
    return f"sunny in {city} in {days} days"


class Asked:
    """The client of one model, and its checks."""

    def __init__(self, url: str, model: str) -> None:
        self.common: dict[str, Any] = {
            "model": model,
            "base_url": url,
            "api_key": "none",
            "max_retries": 0,
            "temperature": 0,
            "max_tokens": TOKENS,
        }
        self.chat = ChatOpenAI(**self.common, seed=1, stream_usage=True)
        self.text = OpenAI(**self.common)

    @cached_property
    def plain(self) -> Any:
        return self.chat.invoke(GREETING)

    def is_plain(self) -> None:
        holds(isinstance(self.plain.content, str) and self.plain.content, self.plain)
        same(self.plain.response_metadata["finish_reason"], "stop")

    def is_asynchronous(self) -> None:
        same(asyncio.run(self.chat.ainvoke(GREETING)).content, self.plain.content)

    def streams(self) -> None:
        whole: Any = reduce(add, self.chat.stream(GREETING))
        same(whole.content, self.plain.content)
        same(whole.usage_metadata, self.plain.usage_metadata)

    def takes_several(self) -> None:
        found = self.chat.batch([GREETING, "Say goodbye."])
        same(found[0].content, self.plain.content)
        holds(found[1].content, found)

    def has_logprobs(self) -> None:
        found = self.chat.bind(logprobs=True, top_logprobs=2).invoke(GREETING)
        tokens = found.response_metadata["logprobs"]["content"]
        same("".join(each["token"] for each in tokens), found.content)
        holds(
            all(each["logprob"] <= 0 and len(each["top_logprobs"]) == 2 for each in tokens), tokens
        )

    def calls(self) -> None:
        forced = self.chat.bind_tools([weather], tool_choice="any", parallel_tool_calls=False)
        found: Any = forced.invoke(QUESTION)
        (call,) = found.tool_calls
        same(call["name"], "weather")
        holds("sunny" in weather.invoke(call["args"]), call)
        streamed: Any = reduce(add, forced.stream(QUESTION))
        same([each["args"] for each in streamed.tool_calls], [call["args"]])

    def calls_by_name(self) -> None:
        named = self.chat.bind_tools([weather], tool_choice="weather", strict=True)
        (call,) = named.invoke(QUESTION).tool_calls
        same(call["name"], "weather")

    def hears_results(self) -> None:
        forced = self.chat.bind_tools([weather], tool_choice="any", parallel_tool_calls=False)
        said: list[Any] = [HumanMessage(QUESTION)]
        said.append(forced.invoke(said))
        said += [weather.invoke(call) for call in said[-1].tool_calls]
        free = self.chat.bind_tools([weather], tool_choice="none")
        holds(free.invoke(said).content, said)

    def may_call(self) -> None:
        found: Any = self.chat.bind_tools([weather]).invoke(QUESTION)
        holds(found.content or found.tool_calls, found)

    def keeps_a_schema(self, **how: Any) -> None:
        made = self.chat.with_structured_output(Weather, **how)
        holds(isinstance(made.invoke(QUESTION), Weather), made)

    def streams_a_schema(self) -> None:
        made = self.chat.with_structured_output(Weather, method="json_schema")
        same(list(made.stream(QUESTION))[-1], made.invoke(QUESTION))

    def keeps_json(self) -> None:
        made = self.chat.with_structured_output(Weather, method="json_mode", include_raw=True)
        found: Any = made.invoke(f"{QUESTION} Answer as JSON with city and days.")
        holds(isinstance(json.loads(found["raw"].content), dict), found)

    def responds(self) -> None:
        common = {key: value for key, value in self.common.items() if key != "max_tokens"}
        chat = ChatOpenAI(**common, max_tokens=TOKENS, use_responses_api=True)
        same(chat.invoke(GREETING).text, self.plain.content)
        whole: Any = reduce(add, chat.stream(GREETING))
        same(whole.text, self.plain.content)

    def completes(self) -> None:
        found = self.text.invoke(CODE)
        holds(found, found)
        same("".join(self.text.stream(CODE)), found)
        several = self.text.generate([CODE, "import "]).generations
        same(several[0][0].text, found)

    def completes_with_logprobs(self) -> None:
        found = OpenAI(**self.common, logprobs=2).generate([CODE]).generations[0][0]
        told: Any = (found.generation_info or {})["logprobs"]
        same("".join(told["tokens"]), found.text)

    def names_a_fault(self) -> None:
        try:
            ChatOpenAI(**{**self.common, "model": "another"}).invoke(GREETING)
        except openai.NotFoundError:
            return
        raise ValueError("another model answers")


def checks(url: str, model: str) -> Checks:
    """What is exercised."""
    asked = Asked(url, model)
    return {
        "plain": asked.is_plain,
        "asynchronous": asked.is_asynchronous,
        "streamed": asked.streams,
        "several": asked.takes_several,
        "logprobs": asked.has_logprobs,
        "tools": asked.calls,
        "a tool by name, strict": asked.calls_by_name,
        "results of tools": asked.hears_results,
        "tools if it likes": asked.may_call,
        "structured by schema": lambda: asked.keeps_a_schema(method="json_schema"),
        "structured by schema, strict": lambda: asked.keeps_a_schema(strict=True),
        "structured by a tool": lambda: asked.keeps_a_schema(method="function_calling"),
        "structured, streamed": asked.streams_a_schema,
        "structured as any JSON": asked.keeps_json,
        "responses": asked.responds,
        "completions": asked.completes,
        "completions with logprobs": asked.completes_with_logprobs,
        "a fault": asked.names_a_fault,
    }


if __name__ == "__main__":
    main(PACKAGES, checks)
