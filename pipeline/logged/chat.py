"""Conversations through a tokenizer's chat template, cut into what the policy wrote and what the environment wrote."""

from dataclasses import dataclass
from typing import Any

import jinja2

from pipeline.errors import TbrmError
from pipeline.logged.fields import BadField, Messages


@dataclass(frozen=True)
class Segment:
    """A stretch of response text; `by_policy` false marks words of the environment (§2.2 of the paper)."""

    text: str
    by_policy: bool


def split_conversation(messages: Messages, tokenizer: Any) -> tuple[str, list[Segment]]:
    """(prompt, response segments): the prompt ends where the first assistant turn begins.

    What the template adds after an assistant turn up to and including the end-of-turn token belongs to the policy, all
    between that and the next assistant turn to the environment. Raises BadField for conversations without an assistant,
    or whose template rewrites earlier turns (then no sequence of tokens was ever sampled as it stands).
    """
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise BadField("messages", "no message of the role assistant: there is no response")
    if turns[0] == 0:
        raise BadField("messages", "the conversation begins with the assistant: there is no prompt")
    if any(messages[turn]["content"] == "" and not messages[turn].get("tool_calls") for turn in turns):
        raise BadField("messages", "an assistant message is empty")
    end = str(getattr(tokenizer, "eos_token", None) or "")
    prompt = render_chat(messages[: turns[0]], tokenizer, generate=True)
    segments: list[Segment] = []
    done = prompt
    for turn in turns:
        before = done if turn == turns[0] else render_chat(messages[:turn], tokenizer, generate=True)
        after = render_chat(messages[: turn + 1], tokenizer, generate=False)
        if not before.startswith(done) or not after.startswith(before):
            raise BadField(
                "messages", "the chat template changes earlier turns; give token ids and a response_mask instead"
            )
        if before != done:
            segments.append(Segment(before[len(done) :], by_policy=False))
        written = after[len(before) :]
        cut = written.rfind(end) + len(end) if end and end in written else len(written)
        segments.append(Segment(written[:cut], by_policy=True))
        done = before + written[:cut]
    return prompt, segments


def render_chat(messages: Messages, tokenizer: Any, generate: bool) -> str:
    """The text of `messages`; `generate` opens the assistant's next turn. Raises TbrmError, BadField."""
    if not getattr(tokenizer, "chat_template", None):
        raise TbrmError(
            "the log holds chat messages and the tokenizer has no chat template: give a --tokenizer that has one, "
            "or --map prompt=… to a field with the prompt as text"
        )
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
    except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
        raise BadField("messages", f"the chat template refuses them: {error}"[:300]) from error
