"""A byte-level tokenizer with the special tokens and the chat template of Qwen's kind (ChatML), in miniature."""

from typing import Any

from tokenizers import AddedToken

from tests.support.byte_tokenizer import save_byte_tokenizer

TEMPLATE = (
    "{%- if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content }}\n{% endif %}"
    "# Tools{% for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}<|im_end|>{{ '\n' }}"
    "{% elif messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>{{ '\n' }}"
    "{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>{{ '\n' }}"
    "{% elif m.role == 'tool' %}<|im_start|>user\n<tool_response>{{ m.content }}</tool_response><|im_end|>{{ '\n' }}"
    "{% elif m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content.strip() }}\n</think>\n\n{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function.name }}"
    "{{ call.function.arguments | tojson }}</tool_call>{% endfor %}<|im_end|>{{ '\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chatml_folder(folder: Any) -> str:
    """Path of `folder`, with the tokenizer in it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(save_byte_tokenizer(folder))
    tokenizer.add_special_tokens(
        {"eos_token": "<|im_end|>", "additional_special_tokens": [AddedToken("<|im_start|>", special=True)]}
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)
