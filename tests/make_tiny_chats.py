"""Makes tests/tiny_chats.json: conversations as `transformers` renders them.

Run once, where transformers is installed; the tests that read the file need it
not:

    python tests/make_tiny_chats.py
"""

import json
import pathlib

FILE = pathlib.Path(__file__).parent / "tiny_chats.json"

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

# A default system line, whitespace between tags, answers marked.
TURNS = """{% for message in messages %}
  {% if loop.first and message['role'] != 'system' %}
<|turn|>system
Be brief.<|end|>
  {% endif %}
  {% if message['role'] == 'assistant' %}
<|turn|>assistant
    {% generation %}
{{ message['content'] }}<|end|>
    {% endgeneration %}
  {% else %}
{{ '<|turn|>' + message['role'] + '\n' + message['content'] + '<|end|>' }}
  {% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|turn|>assistant
{% endif %}"""

# A beginning token, trimmed contents, tools as JSON.
HEADERS = """{{- bos_token }}
{%- if tools is not none %}
  {{- '[tools]' }}
  {%- for tool in tools %}{{ tool | tojson(indent=1) }}{% endfor %}
  {{- '[/tools]\n' }}
{%- endif %}
{%- for message in messages %}
  {{- '(' ~ message.role | upper ~ ') ' ~ message.content | trim ~ eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '(ASSISTANT) ' }}{% endif %}"""

# State across turns, loop controls, and a refusal.
PAIRS = """{% set state = namespace(system='', turns=0) %}
{% for message in messages %}
{% if message.role == 'system' %}
{% set state.system = message.content ~ ' ' %}
{% continue %}
{% endif %}
{% if (message.role == 'user') != (state.turns % 2 == 0) %}
{{ raise_exception('turns must alternate') }}
{% endif %}
{% set state.turns = state.turns + 1 %}
{% if message.role == 'user' %}
{{ bos_token ~ 'Q: ' ~ (state.system if state.turns == 1) ~ message.content -}}
{% else %}
{{ ' A: ' ~ message.content ~ eos_token -}}
{% endif %}
{% endfor %}"""

TEMPLATES = {"turns": TURNS, "headers": HEADERS, "pairs": PAIRS}

TALK = [
  {"role": "system", "content": "You are a clerk. "},
  {"role": "user", "content": '  What\'s 2 < 3 & "so"?\n'},
  {"role": "assistant", "content": "Yes \u2013 d\u00e9j\u00e0 vu."},
  {"role": "user", "content": "Thanks"},
]

TOOLS = [{"name": "add", "about": "a <b> \u00e9", "arguments": {"x": 1}}]

CONVERSATIONS = [
  dict(messages=TALK, ask=True),
  dict(messages=TALK[1:3], ask=False),
  dict(messages=TALK[:2], ask=True, tools=TOOLS),
]


def main() -> None:
  import tokenizers
  import transformers

  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), **SPECIAL
  )
  content = {
    name: [
      tokenizer.apply_chat_template(
        talk["messages"],
        tools=talk.get("tools"),
        chat_template=template,
        tokenize=False,
        add_generation_prompt=talk["ask"],
      )
      for talk in CONVERSATIONS
    ]
    for name, template in TEMPLATES.items()
  }
  FILE.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
  main()
