"""Conversations cut into turns: in a long one as in a short one, at a cost in proportion to its length."""

import functools
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from pipeline.logged import chat
from pipeline.logged.chat import Segment, split_conversation
from pipeline.logged.fields import BadField, Messages
from tests.support.byte_tokenizer import save_byte_tokenizer

PLAIN = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FIRST_SYSTEM = "{% if messages[0]['role'] != 'system' %}<|system|>be brief<eos>\n{% endif %}" + PLAIN
TOOLS = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1]['role'] != 'tool' %}<|user|>{% endif %}<r>{{ m['content'] }}</r>"
    "{% if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}<eos>\n{% endif %}"
    "{% else %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_END = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FORGETS_THOUGHTS = (
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
COUNTS = (
    "{{ messages | length }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NUMBERS = (
    "{% for m in messages %}<|{{ m['role'] }} {{ loop.index }}|>{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant {{ messages | length + 1 }}|>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(save_byte_tokenizer(tmp_path_factory.mktemp("chat")))


def turns(number: int, tools: bool = False) -> Messages:
    found: Messages = [{"role": "system", "content": "rules"}] if tools else []
    for turn in range(number):
        found.append({"role": "user", "content": f"question {turn}"})
        if tools:
            found.append({"role": "assistant", "content": f"<think>t</think>call {turn}"})
            found += [{"role": "tool", "content": f"result {turn}{part}"} for part in "ab"]
        found.append({"role": "assistant", "content": f"answer {turn}"})
    return found


@pytest.mark.parametrize("template", [PLAIN, FIRST_SYSTEM, TOOLS, NO_END])
@pytest.mark.parametrize("tools", [False, True])
def test_a_long_conversation_is_cut_as_a_short_one(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, template: str, tools: bool
) -> None:
    tokenizer.chat_template = template
    asked = turns(5, tools)
    prompt, segments = split_conversation(asked, tokenizer)
    assert prompt.endswith("assistant|>") or prompt.endswith("[assistant]")
    assert [s.text for s in segments if s.by_policy][-1] == "answer 4" + ("" if template == NO_END else "<eos>")
    monkeypatch.setattr(chat, "_SHORT", 0)
    assert split_conversation(asked, tokenizer) == (prompt, segments)


def test_roles_that_must_alternate(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer.chat_template = ALTERNATING
    monkeypatch.setattr(chat, "_SHORT", 0)
    prompt, segments = split_conversation(turns(3), tokenizer)
    assert prompt == "<|user|>question 0<eos><|assistant|>"
    assert segments[1] == Segment("<|user|>question 1<eos><|assistant|>", by_policy=False)


@pytest.mark.parametrize("short", [0, chat._SHORT])
@pytest.mark.parametrize("template", [FORGETS_THOUGHTS, COUNTS])
def test_a_template_that_changes_earlier_turns_is_refused(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, template: str, short: int
) -> None:
    tokenizer.chat_template = template
    monkeypatch.setattr(chat, "_SHORT", short)
    asked = turns(4)
    asked[1]["content"] = "<think>forgotten</think>answer 0"
    with pytest.raises(BadField, match="changes earlier turns"):
        split_conversation(asked, tokenizer)


def test_a_long_conversation_whose_turns_depend_on_their_place_is_refused_not_cut_wrongly(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.chat_template = NUMBERS
    assert "".join(s.text for s in split_conversation(turns(3), tokenizer)[1]).count("<|assistant ") == 2
    monkeypatch.setattr(chat, "_SHORT", 0)
    with pytest.raises(BadField):
        split_conversation(turns(3), tokenizer)


def test_what_is_rendered_grows_with_the_conversation(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer.chat_template = PLAIN
    monkeypatch.setattr(chat, "_SHORT", 2**14)
    render = chat.render_chat

    def characters(number: int) -> int:
        rendered = 0

        def counting(messages: Messages, tokenizer: Any, generate: bool, tools: Any = None) -> str:
            nonlocal rendered
            text = render(messages, tokenizer, generate, tools)
            rendered += len(text)
            return text

        with monkeypatch.context() as patch:
            patch.setattr(chat, "render_chat", counting)
            split_conversation(turns(number), tokenizer)
        return rendered

    few, many = characters(100), characters(800)
    assert many < 9 * few
    assert functools.reduce(max, (characters(n) for n in (2, 10, 30))) < 20 * 2**14, (
        "short ones cost no more than allowed"
    )


def test_more_turns_than_anybody_had(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer.chat_template = PLAIN
    monkeypatch.setattr(chat, "_MAX_TURNS", 10)
    with pytest.raises(BadField, match="11 messages of the assistant"):
        split_conversation(turns(11), tokenizer)
