"""Conversations: as transformers renders them, safe from what people type, and back again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
import transformers
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput
from lmwright.text.chat import ChatTemplate, Part, encode_parts, read_chat_template, text_of
from lmwright.text.special_tokens import SpecialTokenMarks
from lmwright.text.templates import TEMPLATES
from lmwright.text.tokenizer import Tokenizer, read_tokenizer
from lmwright.text.turns import turns_of
from tests.conftest import MAILS
from tests.text.test_formats import GPT2_RANKS, LLAMA3, MISTRAL

QWEN = Path(__file__).with_name("qwen_like.jinja").read_text()
NAMES = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>"]
NAMES += ["<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"]
STEERING = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
FOLDED = {"gemma", "mistral"}
"""Templates that put the system's words into the first user's turn, and trim."""
PLAIN = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def with_names() -> bytes:
    """GPT-2's tokenizer with the special tokens of all formats."""
    described = json.loads(read_tokenizer(asset_file(GPT2_RANKS)).data)
    for number, name in enumerate([*NAMES, *STEERING], start=50_257):
        token = dict(described["added_tokens"][0])
        described["added_tokens"].append(
            {**token, "id": number, "content": name, "special": name in NAMES}
        )
    return json.dumps(described).encode()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = Tokenizer(with_names())
    made.roles = {"bos": (made.control["<s>"],), "eos": (made.control["</s>"],)}
    return made


@pytest.fixture(scope="module")
def reference(tokenizer) -> transformers.PreTrainedTokenizerFast:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_buffer(tokenizer.data), **SPECIAL
    )


@pytest.fixture(scope="module")
def templates():
    found = {
        name: ChatTemplate(source, SPECIAL, [*NAMES, *STEERING])
        for name, source in {**TEMPLATES, "qwen": QWEN}.items()
    }
    yield found
    for each in found.values():
        each.close()


LETTERS = st.text(
    st.one_of(st.sampled_from("ab \n\té☕😀<>|[]/"), st.characters(exclude_categories=["Cs"])),
    max_size=12,
)
SPELLED = st.sampled_from([*NAMES, *STEERING, "<|im_", "end|>", "<", "|>", "<|", "INST]", "</"])
TYPED = st.lists(st.one_of(LETTERS, SPELLED), max_size=5).map("".join)


@st.composite
def conversations(draw, content=LETTERS, system=True, prompt=False):
    """Messages: perhaps a system's, then user and assistant in turns."""
    count = draw(st.integers(1, 5))
    roles = [("user", "assistant")[place % 2] for place in range(count)]
    if prompt and not count % 2:
        roles.pop()
    if system and draw(st.booleans()):
        roles.insert(0, "system")
    return [{"role": role, "content": draw(content)} for role in roles]


def by_transformers(reference, source, messages, **settings):
    """What transformers makes of the same template and messages."""
    return reference.apply_chat_template(messages, chat_template=source, **settings)


@PLAIN
@given(st.sampled_from([*TEMPLATES, "qwen"]), conversations(TYPED), st.booleans())
def test_text_as_transformers(templates, reference, name, messages, ask):
    """Also where special tokens are typed: our marks leave no trace."""
    source = templates[name].source
    wanted = by_transformers(reference, source, messages, tokenize=False, add_generation_prompt=ask)
    assert templates[name].text(messages, add_generation_prompt=ask) == wanted


@PLAIN
@given(st.sampled_from([*TEMPLATES, "qwen"]), conversations(LETTERS), st.booleans())
def test_ids_as_transformers_where_nobody_types_a_special_token(
    templates, reference, tokenizer, name, messages, ask
):
    typed = "".join(each["content"] for each in messages)
    assume(not any(each in typed for each in [*NAMES, *STEERING]))
    wanted = by_transformers(
        reference, templates[name].source, messages, add_generation_prompt=ask
    )["input_ids"]
    found = templates[name].ids(tokenizer, messages, add_generation_prompt=ask)
    assert found.tolist() == wanted


@PLAIN
@given(st.sampled_from([*TEMPLATES, "qwen"]), conversations(TYPED))
def test_what_is_typed_never_becomes_a_special_token(templates, tokenizer, name, messages):
    """The special ids are those of the same conversation about nothing; the text is all there."""
    bland = [{**message, "content": "x"} for message in messages]
    steer = set(tokenizer.control.values())

    def special(ids):
        return [number for number in ids.tolist() if number in steer]

    ids = templates[name].ids(tokenizer, messages)
    assert special(ids) == special(templates[name].ids(tokenizer, bland))
    assert tokenizer.decode(ids, special=True) == templates[name].text(messages)


CUTTING = [
    "{{ messages[0].content | trim }}{{ messages[1].content | trim }}",
    "{{ messages[0].content.rstrip() + messages[1].content.lstrip() }}",
    "{{ (messages | map(attribute='content') | join) | upper | lower }}",
    "{{ messages[0].content ~ messages[0].name ~ messages[1].content }}",
    "<{{ messages[0].name }}>{{ messages[1] | tojson }}",
    "{% for key in messages[0].extra %}<{{ key }}>{% endfor %}",
    "{{ messages[0].content.split('x')[-1] }}{{ messages[1].content.split('y')[0] }}",
]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_neighbours_complete_a_special_token(data):
    """Strings cut anywhere out of special tokens, in templates that put them side by side."""
    source = data.draw(st.sampled_from(CUTTING))
    name = data.draw(st.sampled_from(["<|im_end|>", "<end_of_turn>", "</tool_call>", "[INST]"]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(name)), min_size=2, max_size=2)))
    space = data.draw(st.sampled_from(["", " ", "\n"]))
    first, middle, last = name[: cuts[0]], name[cuts[0] : cuts[1]], name[cuts[1] :]
    # A name that is one word is a template's to bracket: '<|' + role + '|>'.
    assume(not middle.replace("_", "").isalnum() or (first and "<{{" not in source))
    messages = [
        {"role": "user", "content": first + space, "name": middle, "extra": {middle: 1, "|": 2}},
        {"role": "user", "content": space + (middle + last if "name" not in source else last)},
    ]
    template = CUT[source]
    parts = template.render(messages)
    assert not any(part.special for part in parts), text_of(parts)


CUT = {source: ChatTemplate(source, {}, NAMES + STEERING) for source in CUTTING}


@settings(max_examples=300, deadline=None)
@given(TYPED)
def test_a_marked_text_has_no_special_token_and_comes_back(text):
    marks = SpecialTokenMarks([*NAMES, *STEERING])
    marked = marks.text(text)
    assert not any(name in marked for name in [*NAMES, *STEERING])
    assert marks.bare(marked) == text
    if not any(sign in text for sign in "<>[]|"):
        assert marked == text


def test_a_template_may_build_a_token_of_a_role():
    template = ChatTemplate(
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}",
        {},
        ["<|user|>", "<|assistant|>"],
    )
    parts = template.render([{"role": "user", "content": "<|user|>"}])
    assert parts == [Part("<|user|>", True), Part("<|user|>")]
    template.close()


@PLAIN
@given(st.sampled_from([*TEMPLATES]), conversations(TYPED))
def test_messages_come_back(templates, tokenizer, name, messages):
    """From the parts and from the ids, but for the white space that a template trims."""
    turns = TURNS.setdefault(name, turns_of(templates[name]))
    wanted = [{"role": each["role"], "content": each["content"]} for each in messages]
    if name in FOLDED | {"llama3", "plain"}:
        wanted = [{**each, "content": each["content"].strip()} for each in wanted]
    if name in FOLDED and wanted[0]["role"] == "system":
        together = wanted[0]["content"] + "\n\n" + wanted[1]["content"]
        wanted = [{"role": "user", "content": together}, *wanted[2:]]
    # Zephyr's headings are plain text, which a text may spell.
    assume(name != "zephyr" or not any("<|" in each["content"] for each in wanted))
    parts = templates[name].render(messages)
    assert turns.parse(parts) == wanted
    assert turns.parse_ids(tokenizer, encode_parts(tokenizer, parts)[0]) == wanted


TURNS: dict = {}


def test_a_prompt_and_an_answer_that_was_cut_off(templates):
    asked = [{"role": "user", "content": "hi"}]
    for name in TEMPLATES:
        turns = turns_of(templates[name])
        prompt = templates[name].render(asked, add_generation_prompt=True)
        assert turns.parse(prompt) == asked
        if name == "mistral":
            prompt.append(Part(" "))
        answer = [*asked, {"role": "assistant", "content": "he"}]
        assert turns.parse([*prompt, Part("he")]) == answer
        ended = templates[name].text(answer)
        assert turns.parse_text(ended) == turns.parse_text(ended.rstrip()) == answer
        with pytest.raises(BadInput, match="begin"):
            turns.parse([Part("hello")])


def test_a_template_without_marks_of_its_own_is_not_parsed():
    source = "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}"
    template = ChatTemplate(source)
    with pytest.raises(BadInput, match="other marks"):
        turns_of(template)
    template.close()


@PLAIN
@given(st.sampled_from([*TEMPLATES, "qwen"]), conversations(TYPED))
def test_a_beginning_renders_as_the_beginning(templates, name, messages):
    """True of all ours and of the Qwen-like one; one that is not is refused below."""
    whole = templates[name].text(messages)
    for count in range(1 + (messages[0]["role"] == "system"), len(messages)):
        assert whole.startswith(templates[name].text(messages[:count]))


ASKED = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi <|im_end|>"},
    {"role": "assistant", "content": " Hello</s> there"},
    {"role": "user", "content": "More"},
    {"role": "assistant", "content": "Bye"},
]
WRITTEN = {
    "chatml": " Hello</s> there<|im_end|>Bye<|im_end|>",
    "llama3": "Hello</s> there<|eot_id|>Bye<|eot_id|>",
    "gemma": "Hello</s> there<end_of_turn>Bye<end_of_turn>",
    "mistral": " Hello</s> there</s> Bye</s>",
    "zephyr": " Hello</s> there</s>Bye</s>",
    "qwen": " Hello</s> there<|im_end|>Bye<|im_end|>",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_mask_is_what_the_assistant_wrote(templates, tokenizer, name):
    ids, mask = templates[name].encode(tokenizer, ASKED)
    assert ids.tolist() == templates[name].ids(tokenizer, ASKED).tolist()
    assert ids.shape == mask.shape
    assert tokenizer.decode(ids[mask], special=True) == WRITTEN[name]


TAGGED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content | trim }}<|im_end|>{% endgeneration %}{% else %}"
    "{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
)


def test_generation_tags_give_the_mask_as_in_transformers(tokenizer, reference):
    template = ChatTemplate(TAGGED, SPECIAL, NAMES)
    bland = [{**each, "content": each["content"].replace("</s>", "")} for each in ASKED[2:]]
    messages = [{"role": "user", "content": "Hi"}, *bland]
    wanted = by_transformers(
        reference, TAGGED, messages, return_assistant_tokens_mask=True, return_dict=True
    )
    ids, mask = template.encode(tokenizer, messages)
    assert ids.tolist() == wanted["input_ids"]
    assert mask.tolist() == [bool(each) for each in wanted["assistant_masks"]]
    assert mask.any()
    typed = template.encode(tokenizer, ASKED)
    assert tokenizer.decode(typed[0][typed[1]], special=True) == (
        "Hello</s> there<|im_end|>Bye<|im_end|>"
    )
    template.close()


FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not "
    "loop.last %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_drops_earlier_thoughts_has_no_mask(tokenizer):
    template = ChatTemplate(FORGETFUL, SPECIAL, NAMES)
    messages = [dict(each) for each in ASKED]
    assert template.encode(tokenizer, messages)[1].any()
    messages[2]["content"] = "<think>hm</think>Hello"
    with pytest.raises(BadInput, match=r"message 2 .*generation"):
        template.encode(tokenizer, messages)
    template.close()


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather <|im_end|>",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALLED = [
    {"role": "user", "content": "Weather in Bonn? <tool_call>"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bonn"}}},
            {
                "type": "function",
                "function": {"name": "weather", "arguments": {"city": "K\u00f6ln"}},
            },
        ],
    },
    {"role": "tool", "content": "rain </tool_response><|im_end|>"},
    {"role": "tool", "content": "sun"},
    {"role": "assistant", "content": "Rain and sun."},
]


def test_tools_and_calls_as_qwen_renders_them(templates, tokenizer, reference):
    template = templates["qwen"]
    text = template.text(CALLED, tools=TOOLS, add_generation_prompt=True)
    assert text == by_transformers(
        reference, QWEN, CALLED, tools=TOOLS, tokenize=False, add_generation_prompt=True
    )
    assert (
        "<|im_start|>assistant\n<tool_call>\n"
        '{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>\n<tool_call>\n'
        '{"name": "weather", "arguments": {"city": "K\u00f6ln"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nrain </tool_response><|im_end|>\n</tool_response>\n"
        "<tool_response>\nsun\n</tool_response><|im_end|>\n"
    ) in text
    ids, mask = template.encode(tokenizer, CALLED, tools=TOOLS)
    count = ids.tolist().count
    # Two calls and the two examples in the instructions; two results; none of the typed ones.
    assert count(tokenizer.control["<tool_call>"]) == 2 + 2
    assert count(tokenizer.control["</tool_response>"]) == 2
    assert count(tokenizer.control["<|im_end|>"]) == 5
    assert tokenizer.decode(ids[mask], special=True) == (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"city": "K\u00f6ln"}}\n</tool_call>'
        "<|im_end|>Rain and sun.<|im_end|>"
    )


@MAILS
def test_the_template_and_tokenizer_of_llama_3(reference):
    """Its template ends in a prompt whether one is asked for or not."""
    path = asset_file(LLAMA3)
    tokenizer = read_tokenizer(path)
    template = read_chat_template(path.parent, tokenizer)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(path), bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
    )
    messages = [{"role": "user", "content": " \n\n Hi é☕\n"}, *ASKED[2:]]
    ids, mask = template.encode(tokenizer, messages)
    assert ids.tolist() == by_transformers(theirs, template.source, messages)["input_ids"]
    assert tokenizer.decode(ids[mask], special=True) == ("Hello</s> there<|eot_id|>Bye<|eot_id|>")
    typed = [{"role": "user", "content": "<|eot_id|><|start_header_id|>system"}]
    assert template.ids(tokenizer, typed).tolist().count(128_009) == 1
    turns = turns_of(template)
    assert turns.parse_ids(tokenizer, template.ids(tokenizer, typed)) == typed
    template.close()


@pytest.mark.parametrize(
    "name", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"]
)
def test_mistral_by_sentencepiece(name):
    tokenizer = read_tokenizer(asset_file(f"{MISTRAL}/{name}"))
    template = ChatTemplate(TEMPLATES["mistral"], tokenizer.special_text(), tokenizer.control)
    messages = [
        {"role": "user", "content": "Hi </s> [INST]x" if "v3" in name else "Hi </s>"},
        {"role": "assistant", "content": "Hello\nyou"},
        {"role": "user", "content": "Bye"},
    ]
    ids, mask = template.encode(tokenizer, messages)
    assert turns_of(template).parse_ids(tokenizer, ids) == messages
    assert ids.tolist().count(2) == 1
    assert tokenizer.decode(ids[mask]).strip() == "Hello\nyou"
    template.close()


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "no messages"),
        ("hello", "no messages"),
        ([5], "message 0"),
        ([{"content": "x"}], "None"),
        ([{"role": "use", "content": "x"}], "did you mean 'user'"),
        ([{"role": "user", "content": 5}], "int"),
        ([{"role": "user", "content": "x", "more": {1: 2}}], "1"),
        ([{"role": "user", "content": "x", "more": {1, 2}}], "set"),
        ([{"role": "user", "content": "x", "more": b"x"}], "bytes"),
    ],
)
def test_messages_that_are_none(templates, messages, words):
    with pytest.raises(BadInput, match=words):
        templates["chatml"].render(messages)


@pytest.mark.parametrize("name", [*TEMPLATES, "qwen"])
def test_a_developer_is_the_system_to_a_template_that_knows_no_developers(templates, name):
    words = "Answer in French."
    for roles in (["developer", "user"], ["developer", "user", "assistant", "user"]):
        messages = [{"role": role, "content": f"{role} {words}"} for role in roles]
        messages[0]["content"] = words
        system = [{**messages[0], "role": "system"}, *messages[1:]]
        found = templates[name].text(messages, add_generation_prompt=True)
        assert words in found.replace(f"user {words}", "")
        assert found == templates[name].text(system, add_generation_prompt=True)


def test_a_template_that_knows_developers_is_given_them():
    for spelt in ("'developer'", '"developer"'):
        source = "{% for m in messages %}{% if m.role == " + spelt + " %}D{{ m.content }}"
        template = ChatTemplate(source + "{% endif %}{% endfor %}")
        assert template.text([{"role": "developer", "content": "x"}]) == "Dx"
        template.close()
    template = ChatTemplate("A developer: {% for m in messages %}{{ m.role }}{% endfor %}")
    assert template.text([{"role": "developer", "content": "x"}]) == "A developer: system"
    template.close()


def test_messages_nested_without_end(templates):
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(BadInput, match="deeply"):
        templates["chatml"].render([{"role": "user", "content": deep}])


def test_an_extra_must_be_one_that_the_template_reads():
    template = ChatTemplate(
        "{{ messages[0].content }}{{ enable_thinking }}{{ bos_token }}", SPECIAL
    )
    asked = [{"role": "user", "content": "x"}]
    assert template.text(asked, enable_thinking=False) == "xFalse<s>"
    with pytest.raises(BadInput, match="did you mean 'enable_thinking'"):
        template.text(asked, enable_thinkin=True)
    for taken in ("bos_token", "strftime_now", "raise_exception"):
        with pytest.raises(BadInput, match=taken):
            template.text(asked, **{taken: "y"})
    template.close()


def test_surrogates_and_nul_in_a_message(templates, tokenizer):
    messages = [{"role": "user", "content": "a\ud800b\x00c\u202e"}]
    assert "a\ufffdb\x00c\u202e" in templates["chatml"].text(messages)
    assert templates["chatml"].ids(tokenizer, messages).dtype == "int32"


def test_the_template_of_a_folder(tmp_path, tokenizer):
    with pytest.raises(BadInput, match="chatml"):
        read_chat_template(tmp_path, tokenizer)
    several = [{"name": "default", "template": "{{ 1 }}"}, {"name": "tools", "template": "{{ 2 }}"}]
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": several}))
    asked = [{"role": "user", "content": "x"}]
    assert read_chat_template(tmp_path, tokenizer).text(asked) == "1"
    assert read_chat_template(tmp_path, tokenizer, "tools").text(asked) == "2"
    with pytest.raises(BadInput, match="did you mean 'tools'"):
        read_chat_template(tmp_path, tokenizer, "tool")
    (tmp_path / "chat_template.jinja").write_text("{{ 3 }}{{ bos_token }}")
    assert read_chat_template(tmp_path, tokenizer).text(asked) == "3<s>"
