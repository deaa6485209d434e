"""A tiny causal language model whose tokenizer has a chat template, and end tokens that it does emit."""

import json

from tests.helpers.tiny_decoder import write_decoder

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['user', 'assistant'] %}{{ raise_exception('no such role') }}{% endif %}"
    "{{ message['role'][0] }} {{ message['content'] }} </s> {% endfor %}{% if add_generation_prompt %}a {% endif %}"
)


def write_chat(folder, template=TEMPLATE, **config):
    """Write the language model of tests.helpers.tiny_decoder, special tokens named; template None: without one."""
    write_decoder(folder, head=False, **config)
    content = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    content |= {} if template is None else {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    return folder


def write_jsonl(path, rows):
    """Write one JSON object a line and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
