"""Candidates become token ids: those of the log are kept, text is tokenized once and must decode back."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.logged.chat import Segment, render_chat, split_conversation
from pipeline.logged.fields import Bad, Candidate, Messages, Tokens
from pipeline.logged.raw import BadField
from pipeline.logged.spelling import Spelling
from pipeline.logged.stripped import ChatMarks
from pipeline.prompts import render
from pipeline.sampling.engines.base import LOGPROB_ABOVE_ZERO

TOKENS_OF_THE_LOG, TOKENIZED_TEXT = "log: token ids", "log: tokenized text"
_CHARACTERS_PER_TOKEN = 64  # of a text so long that counting its tokens is not worth the time
_PROMPT_TOKENS = 131_072  # a prompt may be as long as this even where responses must be shorter


@dataclass(frozen=True)
class TokenSettings:
    """How text becomes tokens."""

    tokenizer: Any
    template: str
    """`auto` takes logged prompts as they stand, and refuses those that no model saw so; `raw` takes them all;
    `restore` puts back the special tokens that decoding removed; qwen-math, r1 and chat render bare questions."""
    append_eos: bool
    """Close responses that ended by themselves with the end-of-sequence token, as they were sampled."""
    length_limit: int | None
    """Responses of at least this many tokens were cut by the sampler, where the log does not say it."""
    max_tokens: int
    """Longest response taken."""
    marks: ChatMarks | None = None
    """What the tokenizer's chat template writes around content."""
    stripped_by: str = ""
    """The system that decodes without special tokens, where the log is one of its logs."""

    @cached_property
    def spelling(self) -> Spelling:
        return Spelling(self.tokenizer)

    @cached_property
    def vocabulary(self) -> int:
        return len(self.tokenizer)


@dataclass(frozen=True)
class Tokenized:
    """A trajectory ready for the store. Lengths T of ids, mask and log-probs agree."""

    candidate: Candidate
    prompt_text: str
    prompt_ids: Tokens
    response_text: str
    response_ids: Tokens
    mask: npt.NDArray[np.bool_] | None
    logprobs: npt.NDArray[np.float32] | None
    finish_reason: str
    answer: str
    engine: str


@dataclass
class _Plan:
    """What of a candidate is text that has to be tokenized."""

    candidate: Candidate
    prompt: str | None
    segments: list[Segment]
    prompt_ids: Tokens | None
    """Those of the log, where the prompt is no text."""
    response_ids: Tokens | None
    prompt_text: str = ""
    response_text: str = ""
    """What the ids spell, without special tokens."""


def tokenize(found: Sequence[Candidate | Bad], settings: TokenSettings) -> list[Tokenized | Bad]:
    """Every candidate in order as a tokenized trajectory, or the reason why not; one tokenizer call for all texts."""
    plans = [each if isinstance(each, Bad) else _plan(each, settings) for each in found]
    texts: list[str] = []
    for plan in plans:
        if isinstance(plan, _Plan):
            texts += [plan.prompt] if plan.prompt is not None else []
            texts += [segment.text for segment in plan.segments]
    known = [plan for plan in plans if isinstance(plan, _Plan)]
    _spell(known, settings.spelling)
    encoded = _encode(list(dict.fromkeys(texts)), settings)
    return [plan if isinstance(plan, Bad) else _finish(plan, encoded, settings) for plan in plans]


def _spell(plans: Sequence[_Plan], spelling: Spelling) -> None:
    """Fill in the texts of what was logged as ids."""
    untold = [plan for plan in plans if plan.prompt_ids is not None and not isinstance(plan.candidate.prompt, str)]
    texts = spelling.texts([plan.prompt_ids for plan in untold if plan.prompt_ids is not None])
    for plan, text in zip(untold, texts, strict=True):
        plan.prompt_text = text
    said = [plan for plan in plans if plan.response_ids is not None]
    texts = spelling.texts([plan.response_ids for plan in said if plan.response_ids is not None], True)
    for plan, text in zip(said, texts, strict=True):
        plan.response_text = text


def _bad(candidate: Candidate, error: BadField) -> Bad:
    return Bad(candidate.file, candidate.row, error.field, error.reason, error.value)


def _plan(candidate: Candidate, settings: TokenSettings) -> _Plan | Bad:
    try:
        prompt, segments = _texts(candidate, settings)
        asked = None if prompt is not None else _within_vocabulary("prompt_token_ids", candidate.prompt_ids, settings)
        said = candidate.response_ids
        said = None if said is None else _within_vocabulary("response_token_ids", said, settings)
    except BadField as error:
        return _bad(candidate, error)
    except RecursionError:
        return Bad(candidate.file, candidate.row, "messages", "values are nested too deeply")
    return _Plan(candidate, prompt, segments, asked, said)


def _texts(candidate: Candidate, settings: TokenSettings) -> tuple[str | None, list[Segment]]:
    """(prompt text unless its ids are given, response segments unless its ids are given)."""
    prompt = candidate.prompt
    response = candidate.response
    if candidate.response_ids is None and isinstance(response, list):
        asked: Messages = prompt if isinstance(prompt, list) else []
        if isinstance(prompt, str):
            asked = [{"role": "user", "content": prompt}]
        cut = candidate.finish_reason == "length"
        text, segments = split_conversation(
            [*asked, *response], settings.tokenizer, len(asked), tools=candidate.tools, cut=cut
        )
        _check_sizes(text, segments, settings)
        return text, segments
    if candidate.prompt_ids is not None:
        shown = None
    elif isinstance(prompt, list):
        shown = render_chat(prompt, settings.tokenizer, generate=True, tools=candidate.tools)
    elif prompt is None or prompt == "":
        raise BadField("prompt", "empty" if prompt == "" else "missing")
    else:
        shown = _shown(prompt, settings)
    if candidate.response_ids is not None:
        _check_sizes(shown, [], settings)
        return shown, []
    if not isinstance(response, str):
        raise BadField("response", "missing")
    if response == "":
        raise BadField("response", "empty: there is no action to learn from")
    _check_one_turn(response, settings)
    segments = [Segment(response, by_policy=True)]
    _check_sizes(shown, segments, settings)
    return shown, segments


def _shown(prompt: str, settings: TokenSettings) -> str:
    """The prompt that the model saw. Raises BadField where the log shows that it is another than the logged text."""
    marks = settings.marks
    if settings.template == "raw" or (marks is None and settings.template == "restore"):
        return prompt
    if marks is not None and settings.template == "restore":
        return marks.restored(prompt, settings.tokenizer) if marks.lost(prompt) else prompt
    if marks is not None and marks.without_tokens(prompt):
        raise BadField(
            "prompt",
            "was logged without the special tokens of the chat template, so no model ever saw it: --template restore "
            "puts them back, --template raw takes it as it stands",
            prompt,
        )
    if settings.template == "auto":
        if marks is not None and settings.stripped_by and marks.lost(prompt):
            raise BadField(
                "prompt",
                f"{settings.stripped_by} decodes prompts without special tokens, and the tokenizer's chat template "
                "has some: --template restore puts them back; --template raw takes prompts as they stand, which is "
                "right where the policy was asked without a chat template",
                prompt,
            )
        return prompt
    if settings.template == "chat":
        return render_chat([{"role": "user", "content": prompt}], settings.tokenizer, generate=True)
    return render(settings.template, prompt, settings.tokenizer)


def _check_one_turn(response: str, settings: TokenSettings) -> None:
    """Raise BadField for a text in which words of others follow those of the policy: nothing marks which they are."""
    eos, marks = settings.tokenizer.eos_token, settings.marks
    goes_on = bool(eos) and eos in response and bool(response.partition(eos)[2].replace(eos, "").strip())
    if goes_on or (marks is not None and marks.lost(response) and marks.several_turns(response)):
        raise BadField(
            "response",
            "holds several turns, and the log does not mark which words the environment wrote: log token ids with a "
            "mask, or messages",
            response,
        )


def _check_sizes(prompt: str | None, segments: Sequence[Segment], settings: TokenSettings) -> None:
    characters = sum(len(segment.text) for segment in segments)
    if characters > settings.max_tokens * _CHARACTERS_PER_TOKEN:
        raise BadField("response", f"{characters:,} characters, far beyond --max-tokens {settings.max_tokens}")
    longest = max(settings.max_tokens, _PROMPT_TOKENS)
    if prompt is not None and len(prompt) > longest * _CHARACTERS_PER_TOKEN:
        raise BadField("prompt", f"{len(prompt):,} characters, far beyond {longest:,} tokens")


def _encode(texts: list[str], settings: TokenSettings) -> dict[str, Tokens | None]:
    """Text -> token ids, None where they do not decode to the same text again."""
    if not texts:
        return {}
    tokenizer, spelling = settings.tokenizer, settings.spelling
    only_ids = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
    ids: list[list[int]] = tokenizer(texts, verbose=False, **only_ids)["input_ids"]
    arrays = [np.asarray(each, dtype=np.int32) for each in ids]
    if spelling.by_bytes:
        back = [spelling.text(each) for each in arrays]
    else:
        back = tokenizer.batch_decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return {text: each if same == text else None for text, each, same in zip(texts, arrays, back, strict=True)}


def _finish(plan: _Plan, encoded: dict[str, Tokens | None], settings: TokenSettings) -> Tokenized | Bad:
    try:
        return _tokenized(plan, encoded, settings)
    except BadField as error:
        return _bad(plan.candidate, error)


def _tokenized(plan: _Plan, encoded: dict[str, Tokens | None], settings: TokenSettings) -> Tokenized:
    candidate = plan.candidate
    if plan.prompt is not None:
        prompt_ids = _decodable(encoded, plan.prompt, "prompt")
        prompt_text = plan.prompt
    else:
        assert plan.prompt_ids is not None
        prompt_ids = plan.prompt_ids
        prompt_text = candidate.prompt if isinstance(candidate.prompt, str) else plan.prompt_text
    if not len(prompt_ids):
        raise BadField("prompt", "empty: a response needs a state to start from")
    if plan.response_ids is not None:
        response_ids = plan.response_ids
        mask, logprobs = candidate.mask, candidate.logprobs
        _check_aligned(mask, logprobs, response_ids)
        response_text = _checked_text(candidate.response, plan, settings.spelling)
        if mask is not None and mask.any() and not mask[-1]:  # behind the policy's last token is padding, or nobody's
            end = len(mask) - int(mask[::-1].argmax())
            response_ids, mask, logprobs = response_ids[:end], mask[:end], None if logprobs is None else logprobs[:end]
            response_text = settings.spelling.text(response_ids, skip_special_tokens=True)
        finish = candidate.finish_reason or _guessed_finish(response_ids, settings)
    else:
        response_ids, mask, finish = _from_segments(plan, encoded, settings)
        response_text, logprobs = _without_specials(plan, response_ids, settings), candidate.logprobs
        _check_aligned(mask, logprobs, response_ids)
    _check_lengths(response_ids, mask, logprobs, settings)
    return Tokenized(
        candidate=candidate,
        prompt_text=prompt_text,
        prompt_ids=prompt_ids,
        response_text=response_text,
        response_ids=response_ids,
        mask=None if mask is None or bool(mask.all()) else mask,
        logprobs=logprobs,
        finish_reason=finish,
        answer=candidate.answer if isinstance(candidate.answer, str) else _decoded_answer(candidate.answer, settings),
        engine=TOKENS_OF_THE_LOG if candidate.response_ids is not None else TOKENIZED_TEXT,
    )


def _without_specials(plan: _Plan, ids: Tokens, settings: TokenSettings) -> str:
    """The response for people and verifiers, whose text may hold the template's special tokens."""
    text = "".join(segment.text for segment in plan.segments)
    specials = (str(settings.tokenizer.eos_token or ""), *(settings.marks.used if settings.marks else ()))
    if not any(special and special in text for special in specials):
        return text
    return settings.spelling.text(ids, skip_special_tokens=True)


def _decodable(encoded: dict[str, Tokens | None], text: str, field: str) -> Tokens:
    ids = encoded[text]
    if ids is None:
        raise BadField(field, "does not survive the tokenizer: its tokens decode to another text", text)
    return ids


def _within_vocabulary(field: str, ids: Tokens | None, settings: TokenSettings) -> Tokens:
    assert ids is not None
    if len(ids) and int(ids.max()) >= settings.vocabulary:
        raise BadField(
            field,
            f"token id {int(ids.max())} is outside the vocabulary of {settings.vocabulary}: another tokenizer made it",
        )
    return ids


def _checked_text(text: object, plan: _Plan, spelling: Spelling) -> str:
    """The response for people and verifiers. A logged text that the ids do not spell means another tokenizer."""
    plain, ids = plan.response_text, plan.response_ids
    if not isinstance(text, str) or text.strip() == plain.strip():
        return plain
    if ids is None or text.strip() != spelling.text(ids).strip():
        raise BadField(
            "response_token_ids", "decode to another text than the logged response: another tokenizer?", text
        )
    return plain


def _from_segments(
    plan: _Plan, encoded: dict[str, Tokens | None], settings: TokenSettings
) -> tuple[Tokens, npt.NDArray[np.bool_], str]:
    """(ids, mask, finish reason) of a response that was logged as text."""
    parts = [_decodable(encoded, segment.text, "response") for segment in plan.segments]
    ids = np.concatenate(parts)
    mask = np.repeat([segment.by_policy for segment in plan.segments], [len(part) for part in parts])
    limit = settings.length_limit
    finish = plan.candidate.finish_reason or ("length" if limit is not None and len(ids) >= limit else "stop")
    eos = settings.tokenizer.eos_token_id
    if settings.append_eos and finish == "stop" and eos is not None and len(ids) and ids[-1] != eos:
        ids = np.append(ids, np.int32(eos))
        mask = np.append(mask, True)
    return ids, mask, finish


def _guessed_finish(ids: Tokens, settings: TokenSettings) -> str:
    if settings.length_limit is not None:
        return "length" if len(ids) >= settings.length_limit else "stop"
    return "stop"


def _check_aligned(mask: npt.NDArray[np.bool_] | None, logprobs: npt.NDArray[np.float32] | None, ids: Tokens) -> None:
    if mask is not None and len(mask) != len(ids):
        raise BadField("response_mask", f"{len(mask)} values for {len(ids)} response tokens")
    if logprobs is not None and len(logprobs) != len(ids):
        raise BadField("behavior_logprobs", f"{len(logprobs)} values for {len(ids)} response tokens")


def _check_lengths(
    ids: Tokens,
    mask: npt.NDArray[np.bool_] | None,
    logprobs: npt.NDArray[np.float32] | None,
    settings: TokenSettings,
) -> None:
    if not len(ids):
        raise BadField("response_token_ids", "empty: there is no action to learn from")
    if len(ids) > settings.max_tokens:
        raise BadField("response", f"{len(ids):,} tokens, more than --max-tokens {settings.max_tokens}")
    if mask is not None and not mask.any():
        raise BadField("response_mask", "marks no token as the policy's: there is nothing to learn from")
    if logprobs is None:
        return
    written = logprobs if mask is None else logprobs[mask]
    if not np.isfinite(written).all() or bool((written > LOGPROB_ABOVE_ZERO).any()):
        raise BadField("behavior_logprobs", "a log-probability is not a number, infinite or above 0")


def _decoded_answer(ids: list[int], settings: TokenSettings) -> str:
    if any(not 0 <= each < settings.vocabulary for each in ids):
        raise BadField("answer", "holds token ids outside the vocabulary", ids)
    return settings.tokenizer.decode(ids, skip_special_tokens=True)
