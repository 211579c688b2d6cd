"""Chat templates that have their models call tools, each in a syntax, as published ones do."""

from __future__ import annotations

from pathlib import Path

HERMES = (Path(__file__).parents[1] / "text" / "qwen_like.jinja").read_text()
MISTRAL = """\
{%- if tools %}{{- '[AVAILABLE_TOOLS]' ~ (tools | tojson) ~ '[/AVAILABLE_TOOLS]' }}{% endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{{- '[INST]' ~ message.content ~ '[/INST]' }}
    {%- elif message.tool_calls %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in message.tool_calls %}
            {%- if call.id | length != 9 %}{{- raise_exception('ids of nine') }}{% endif %}
            {{- {'name': call.function.name, 'arguments': call.function.arguments,
                 'id': call.id} | tojson ~ (']' if loop.last else ', ') }}
        {%- endfor %}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS]' ~ message.content ~ '[/TOOL_RESULTS]' }}
    {%- else %}{{- message.content }}{% endif %}
{%- endfor %}"""
MISTRAL_NAMED = """\
{%- if tools %}{{- '[AVAILABLE_TOOLS]' ~ (tools | tojson) ~ '[/AVAILABLE_TOOLS]' }}{% endif %}
{%- for message in messages %}
    {%- for call in message.tool_calls or [] %}
        {{- '[TOOL_CALLS]' ~ call.function.name ~ '[ARGS]' ~ (call.function.arguments | tojson) }}
    {%- endfor %}
    {{- '[INST]' ~ message.content ~ '[/INST]' }}
{%- endfor %}"""
LLAMA = """\
{%- if tools %}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary of arguments}.' }}
    {{- tools | tojson }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' }}
    {%- if 'tool_calls' in message %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' ~ call.name ~ '", "parameters": ' ~ (call.arguments | tojson) ~ '}' }}
    {%- else %}{{- message.content }}{% endif %}
    {{- '<|im_end|>' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}"""
THINKING = HERMES + "{%- if enable_thinking is defined and enable_thinking %}<think>\n{% endif %}"
SILENT = "{%- for m in messages %}{{ m.content }}{{ tools }}{% endfor %}"
"""Reads tools, and says in no known syntax how to call them."""

TEMPLATES = {
    "hermes": HERMES,
    "mistral": MISTRAL,
    "mistral-named": MISTRAL_NAMED,
    "llama": LLAMA,
}
MARKERS = ["[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"]
"""Tokens that are special, so that no reader is shown them."""
TAGS = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
"""Tokens of the vocabulary that are text to a reader."""
