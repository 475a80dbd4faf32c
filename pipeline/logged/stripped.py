"""Prompts that were decoded without special tokens: what a chat template leaves then, and the way back.

verl, TRL and others log `user\\nWhat is 1+1?\\nassistant\\n` for a prompt that the model saw as
`<|im_start|>user\\nWhat is 1+1?<|im_end|>\\n<|im_start|>assistant\\n`.
"""

from dataclasses import dataclass
from typing import Any

from pipeline.errors import TbrmError
from pipeline.logged.chat import render_chat
from pipeline.logged.fields import Messages
from pipeline.logged.raw import BadField

_SIGNS = ("qKx7", "vZj3", "wYb9")
"""Words that stand for content in the renderings of a template."""
_THINK = "<think>"
"""Some templates, or options of them, open the assistant's turn with this; it is no special token."""


@dataclass(frozen=True)
class ChatMarks:
    """What a tokenizer's chat template writes around content."""

    specials: tuple[str, ...]
    """Special tokens of the tokenizer, the longest first."""
    used: tuple[str, ...]
    """Those of a conversation."""
    opening: str
    """What stands before a user's first words when these tokens are removed."""
    closing: str
    """What stands between a user's words and the assistant's."""
    again: str
    """What stands between the assistant's words and the user's next."""
    system: tuple[str, str]
    """What stands before the system's words, and between these and the user's."""

    def removed(self, text: str) -> str:
        for special in self.specials:
            text = text.replace(special, "")
        return text

    def lost(self, prompt: str) -> bool:
        """Whether none of the template's tokens is in `prompt`."""
        return bool(self.used) and not any(special in prompt for special in self.used)

    def without_tokens(self, prompt: str) -> bool:
        """Whether `prompt` is plainly what the template leaves when its special tokens are removed."""
        name, after = self.opening.strip().rpartition("\n")[2], self.closing.strip()
        if not (name and after and self.lost(prompt)):
            return False
        begins = prompt.startswith(name) or f"\n{name}" in prompt
        return begins and self._end(prompt) is not None

    def _end(self, prompt: str) -> int | None:
        """Where the assistant's turn is opened at the end of `prompt`."""
        place = prompt.rfind(self.closing) if self.closing.strip() else -1
        rest = prompt[place + len(self.closing) :]
        return place if place > 0 and (not rest.strip() or rest.startswith(_THINK)) else None

    def several_turns(self, response: str) -> bool:
        """Whether `response` goes on with words of others and of the assistant again."""
        if not (self.again.strip() and self.closing.strip()):
            return False
        place = response.find(self.again)
        return place > 0 and self.closing in response[place + len(self.again) :]

    def restored(self, prompt: str, tokenizer: Any) -> str:
        """`prompt` as the template writes it. Raises BadField where that is not certain."""
        end = self._end(prompt)
        if end is None:
            raise BadField("prompt", "does not end where the chat template opens the assistant's turn", prompt[-200:])
        messages = self._messages(prompt[:end])
        shown = render_chat(messages, tokenizer, generate=True)
        plain = self.removed(shown)
        if not prompt.startswith(plain.rstrip("\n")) or prompt[len(plain) :].strip() not in ("", _rest(prompt, plain)):
            raise BadField("prompt", "the chat template writes it in other words: another tokenizer's?", prompt[:200])
        return shown + prompt[len(plain) :]

    def _messages(self, body: str) -> Messages:
        before, between = self.system
        if before.strip() and body.startswith(before) and between in body:
            told, _, asked = body[len(before) :].partition(between)
            messages = [{"role": "system", "content": told}]
        elif body.startswith(self.opening):
            asked, messages = body[len(self.opening) :], []
        else:
            raise BadField("prompt", "does not begin as the chat template does", body[:200])
        if any(mark.strip() and mark in asked for mark in (self.closing, self.again, between)):
            raise BadField(
                "prompt", "may be one turn or several: without its special tokens nobody can tell", body[:200]
            )
        return [*messages, {"role": "user", "content": asked}]


def _rest(prompt: str, plain: str) -> str:
    rest = prompt[len(plain) :].strip()
    return rest if rest.startswith(_THINK) else ""


def chat_marks(tokenizer: Any) -> ChatMarks | None:
    """The marks of a tokenizer's template; None where it has none that special tokens are part of."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    specials = {*map(str, tokenizer.all_special_tokens), *(str(each) for each in added if each.special)}
    longest = tuple(sorted(specials - {""}, key=lambda special: (-len(special), special)))
    one, two, three = _SIGNS
    user, more = {"role": "user", "content": one}, {"role": "user", "content": three}
    try:
        asked = render_chat([user], tokenizer, generate=True)
        going_on = render_chat([user, {"role": "assistant", "content": two}, more], tokenizer, generate=True)
    except (TbrmError, BadField):
        return None
    used = tuple(special for special in longest if special in asked)
    marks = ChatMarks(longest, used, "", "", "", ("", ""))
    opening, found, closing = marks.removed(asked).partition(one)
    if not (used and found):
        return None
    _, _, later = marks.removed(going_on).partition(two)
    again = later.partition(three)[0]
    try:
        told = marks.removed(render_chat([{"role": "system", "content": two}, user], tokenizer, generate=True))
    except BadField:  # templates that know no system
        told = ""
    before, _, after = told.partition(two)
    return ChatMarks(longest, used, opening, closing, again, (before, after.partition(one)[0]))
