"""Conversations through a tokenizer's chat template, cut into what the policy wrote and what the environment wrote."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jinja2

from pipeline.errors import TbrmError
from pipeline.logged.fields import Messages, Tools
from pipeline.logged.raw import BadField

_SHORT = 2**22
"""Turns of the assistant times characters of the conversation, as JSON: what rendering up to each turn may cost."""
_MAX_TURNS = 2**14
_MAX_TOLD = 2**26
"""Turns of the assistant times characters of the tools' definitions, which are rendered with each."""
_STUB: Messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
_REFUSALS = (
    *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, OverflowError, RecursionError),
)
"""What a template raises on messages that it does not expect."""
_CHANGES = "the chat template changes earlier turns; give token ids and a response_mask instead"


@dataclass(frozen=True)
class Segment:
    """A stretch of response text; `by_policy` false marks words of the environment (§2.2 of the paper)."""

    text: str
    by_policy: bool


def split_conversation(
    messages: Messages, tokenizer: Any, given: int = 0, tools: Tools | None = None, cut: bool = False
) -> tuple[str, list[Segment]]:
    """(prompt, response segments): the prompt ends where the first assistant turn begins after the `given` messages,
    which are part of it, whoever wrote them. With `cut` the last turn was cut off, and so did not end its turn.

    What the template adds after an assistant turn up to and including the end-of-turn token belongs to the policy, all
    between that and the next assistant turn to the environment. Raises BadField for conversations without an assistant,
    or whose template rewrites earlier turns (then no sequence of tokens was ever sampled as it stands).

    A short conversation is rendered up to each turn, as the policy saw it. In a long one that would cost the square of
    its length: there each turn is rendered after a conversation of two words, and what comes out, put together, must be
    the whole conversation's text.
    """
    turns = [place for place, message in enumerate(messages) if place >= given and message["role"] == "assistant"]
    _check_turns(messages, turns, tools)
    prompt = render_chat(messages[: turns[0]], tokenizer, generate=True, tools=tools)
    end = str(getattr(tokenizer, "eos_token", None) or "")
    first = render_chat(messages[: turns[0] + 1], tokenizer, generate=False, tools=tools)
    written, rest = _continued(prompt, first, end)
    segments = [Segment(written, by_policy=True)]
    done = prompt + written
    short = len(turns) == 1 or len(turns) * len(json.dumps(messages, default=str)) <= _SHORT
    stub_done = "" if short else _done(render_chat(_STUB, tokenizer, generate=False, tools=tools), end)
    ends = [len(done)]
    for before, turn in pairwise(turns):
        context, shown = (messages[: before + 1], done) if short else (_STUB, stub_done)
        asked = render_chat([*context, *messages[before + 1 : turn]], tokenizer, generate=True, tools=tools)
        answered = render_chat([*context, *messages[before + 1 : turn + 1]], tokenizer, generate=False, tools=tools)
        if not asked.startswith(shown):
            raise BadField("messages", _CHANGES)
        if asked != shown:
            segments.append(Segment(asked[len(shown) :], by_policy=False))
        written, rest = _continued(asked, answered, end)
        segments.append(Segment(written, by_policy=True))
        done = asked + written if short else ""
        ends.append(ends[-1] + len(asked) - len(shown) + len(written))
    if not short:
        text = prompt + "".join(segment.text for segment in segments)
        _check_whole(
            messages, turns, text, ends, rest, functools.partial(render_chat, tokenizer=tokenizer, tools=tools)
        )
    _check_thoughts([messages[turn] for turn in turns], segments)
    if cut:
        segments[-1] = Segment(_cut(segments[-1].text, messages[turns[-1]], end), by_policy=True)
    return prompt, segments


def _check_thoughts(turns: Messages, segments: list[Segment]) -> None:
    """Raise BadField where the template leaves out the reasoning of a turn: the policy wrote that too."""
    written = (segment.text for segment in segments if segment.by_policy)
    for turn, text in zip(turns, written, strict=True):
        thought = turn.get("reasoning_content")
        if isinstance(thought, str) and thought.strip() not in text:
            raise BadField(
                "messages", "the chat template leaves out `reasoning_content`, which the policy wrote as well"
            )


def _cut(text: str, message: dict[str, Any], end: str) -> str:
    """The text of a turn that was cut off: without what the template adds after its content."""
    content = str(message["content"]).rstrip()
    if content and not message.get("tool_calls") and content in text:
        return text[: text.rfind(content) + len(content)]
    return text.removesuffix(end) if end else text


def _check_turns(messages: Messages, turns: list[int], tools: Tools | None) -> None:
    if not turns:
        raise BadField("messages", "no message of the role assistant: there is no response")
    if len(turns) > _MAX_TURNS:
        raise BadField("messages", f"{len(turns):,} messages of the assistant, more than {_MAX_TURNS:,}")
    if tools and len(turns) * (size := len(json.dumps(tools, default=str))) > _MAX_TOLD:
        raise BadField("tools", f"{size:,} characters, which the chat template repeats in {len(turns):,} turns")
    if turns[0] == 0:
        raise BadField("messages", "the conversation begins with the assistant: there is no prompt")
    if any(messages[turn]["content"] == "" and not messages[turn].get("tool_calls") for turn in turns):
        raise BadField("messages", "an assistant message is empty")


def _continued(asked: str, answered: str, end: str) -> tuple[str, str]:
    """What the policy wrote, up to its last end-of-turn token, and what the template adds after that."""
    if not answered.startswith(asked):
        raise BadField("messages", _CHANGES)
    written = answered[len(asked) :]
    cut = len(_done(written, end))
    return written[:cut], written[cut:]


def _done(text: str, end: str) -> str:
    return text[: text.rfind(end) + len(end)] if end and end in text else text


def _check_whole(
    messages: Messages, turns: list[int], text: str, ends: list[int], rest: str, rendered: Callable[..., str]
) -> None:
    """The whole conversation, and its first half, quarter and so on, must read as put together."""
    if rendered(messages[: turns[-1] + 1], generate=False) != text + rest:
        raise BadField("messages", _CHANGES)
    half = len(turns) // 2
    while half:
        if not rendered(messages[: turns[half - 1] + 1], generate=False).startswith(text[: ends[half - 1]]):
            raise BadField("messages", _CHANGES)
        half //= 2


def render_chat(messages: Messages, tokenizer: Any, generate: bool, tools: Tools | None = None) -> str:
    """The text of `messages`; `generate` opens the assistant's next turn. Raises TbrmError, BadField."""
    if not getattr(tokenizer, "chat_template", None):
        raise TbrmError(
            "the log holds chat messages and the tokenizer has no chat template: give a --tokenizer that has one, "
            "or --map prompt=… to a field with the prompt as text"
        )
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate, tools=tools)
    except _REFUSALS as error:
        raise BadField("messages", f"the chat template refuses them: {error}"[:300]) from error
