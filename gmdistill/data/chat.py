"""Conversations as texts: a model's chat template, rendered in a sandbox.

Templates come with a model and run code of their own, so they get jinja2's
immutable sandbox, with the filters and functions that they are written for.
"""

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from etils import epath

from gmdistill import errors
from gmdistill.data import plain_tokens

FILE = "chat_template.jinja"

Message = Mapping[str, Any]  # {"role": ..., "content": ...}


class _Answers(jinja2.ext.Extension):
  """The tag around what the assistant says: `{% generation %}`."""

  tags = {"generation"}

  def parse(self, parser: Any) -> Any:
    line = next(parser.stream).lineno
    body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
    call = self.call_method("_whole")
    return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

  def _whole(self, caller: Callable[[], str]) -> str:
    return caller()


class ChatTemplate:
  """How a model was shown conversations."""

  def __init__(self, source: str, special: Mapping[str, str] | None = None):
    """Reads a template.

    Args:
      source: In jinja2's language.
      special: The names of tokens that it may use, such as `bos_token`.

    Raises:
      errors.InputError: it is no template.
    """
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True,
      lstrip_blocks=True,
      extensions=[_Answers, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _as_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    self.source, self.special = source, dict(special or {})
    try:
      self._template = environment.from_string(source)
    except jinja2.TemplateError as error:
      raise errors.InputError(
        f"the chat template cannot be read ({_line(error)}); mend it, or give "
        "rows of prompt and completion."
      ) from error

  @classmethod
  def of_folder(cls, folder: epath.Path) -> "ChatTemplate":
    """Reads the template of a Hugging Face directory.

    Raises:
      errors.InputError: it has none, or one that is none.
    """
    fields = plain_tokens.read_config(folder)
    source = fields.get("chat_template")
    if isinstance(source, list):  # several, by name
      named = {x.get("name"): x.get("template") for x in source}
      source = named.get("default")
    if (folder / FILE).is_file():
      source = (folder / FILE).read_text()
    if not isinstance(source, str):
      raise errors.InputError(
        f"{folder} has no chat template ({FILE}); use a model that was trained "
        "on conversations, or give rows of prompt and completion."
      )
    names = plain_tokens.NAMES
    return cls(source, {x: fields[x] for x in names if fields.get(x)})

  def render(
    self, messages: Sequence[Message], *, ask: bool = False, **fields: Any
  ) -> str:
    """Returns the text of a conversation, as `transformers` renders it.

    Args:
      messages: In order, each with its role and content.
      ask: Whether the assistant's next turn begins at the end.
      fields: Whatever else the template reads, such as `tools`.

    Raises:
      errors.InputError: the template refuses the conversation.
    """
    given = {"tools": None, "documents": None, **self.special, **fields}
    try:
      return self._template.render(
        messages=messages, add_generation_prompt=ask, **given
      )
    except Exception as error:  # whatever its code raises
      raise errors.InputError(
        f"the chat template refuses these messages ({_line(error)}); change "
        "the conversation, or give rows of prompt and completion."
      ) from error

  def ids(
    self,
    tokenizer: plain_tokens.PlainTokenizer,
    messages: Sequence[Message],
    *,
    ask: bool = False,
    **fields: Any,
  ) -> list[int]:
    """Returns the ids of a conversation.

    Control tokens are the template's alone: where a message holds the name of
    one, its ids are those of any other text. Conversations without such names
    have the ids of the rendered text.
    """
    names = tokenizer.control_tokens
    mark = _unused(messages)
    hidden = _replaced(
      messages, {name: f"{mark}{i}{mark}" for i, name in enumerate(names)}
    )
    rendered = self.render(hidden, ask=ask, **fields)
    ids: list[int] = []
    # Between two marks stands a number; the rest is template and plain text.
    for i, piece in enumerate(rendered.split(mark)):
      if i % 2:
        ids += tokenizer.ids(names[int(piece)])
      else:
        ids += tokenizer.ids(piece, control=True)
    return ids


def _unused(messages):
  """Returns a character that no message holds, of those without meaning."""
  text = json.dumps(messages, ensure_ascii=False, default=str)
  return next(c for c in map(chr, range(0xE000, 0xF8FF)) if c not in text)


def _replaced(value, marks):
  """Returns messages with the names in their texts replaced, longest first."""
  if isinstance(value, str):
    for name in sorted(marks, key=len, reverse=True):
      value = value.replace(name, marks[name])
    return value
  if isinstance(value, Mapping):
    return {key: _replaced(x, marks) for key, x in value.items()}
  if isinstance(value, list | tuple):
    return [_replaced(x, marks) for x in value]
  return value


def _line(error):
  return " ".join(str(error).split())[:120] or type(error).__name__


def _refuse(message):
  raise jinja2.TemplateError(message)


def _now(pattern):
  return datetime.datetime.now().strftime(pattern)


def _as_json(
  value, ensure_ascii=False, indent=None, separators=None, sort_keys=False
):
  # Not jinja2's own, which escapes what HTML does not allow.
  return json.dumps(
    value,
    ensure_ascii=ensure_ascii,
    indent=indent,
    separators=separators,
    sort_keys=sort_keys,
  )
