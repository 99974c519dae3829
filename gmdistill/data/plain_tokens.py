"""Tokenizers as they stand: of decoders, whose rows need no frame.

Most are byte-level BPE: every text has tokens, and comes back from them. Many
have no padding token, and put a beginning token before a text or nothing.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from etils import epath

from gmdistill import errors
from gmdistill.data import tokenizing
from gmdistill.system import json_files

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"

NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


class PlainTokenizer(tokenizing.Tokenizer):
  """Texts to ids and back, with nothing added that the tokenizer does not.

  A control token's name in a text, such as `<|im_end|>`, is text like any
  other: nobody who writes a row ends a turn by it. `ids` with `control=True`
  reads it as the token.
  """

  def __init__(
    self,
    tokenizer: tokenizers.Tokenizer,
    special: Mapping[str, str] | None = None,
  ):
    """Copies `tokenizer`.

    Args:
      tokenizer: Of the library.
      special: Names of tokens by what they do (`NAMES`).
    """
    self.special = dict(special or {})  # before what the padding is asked of
    super().__init__(tokenizer)
    control = self._tokenizer.get_added_tokens_decoder().values()
    self.control_tokens = tuple(x.content for x in control if x.special)

  @classmethod
  def of_folder(cls, folder: epath.Path) -> "PlainTokenizer":
    """Reads the tokenizer of a Hugging Face directory.

    Raises:
      errors.InputError: it has none, or one of its files is damaged.
    """
    if not (folder / FILE).is_file():
      raise errors.InputError(
        f"{folder} has no {FILE}; save a slow tokenizer with use_fast=True."
      )
    try:
      read = tokenizers.Tokenizer.from_str((folder / FILE).read_text())
    except Exception as error:  # The library raises nothing narrower.
      raise errors.InputError(
        f"{folder / FILE} is not a tokenizer.json of the tokenizers library"
      ) from error
    fields = read_config(folder)
    if "eos_token" not in fields:
      fields["eos_token"] = _end_by_id(folder, read)
    return cls(read, {x: fields[x] for x in NAMES if fields.get(x)})

  @classmethod
  def of_json(cls, text: str, special: Mapping[str, str]) -> "PlainTokenizer":
    """Reads what `to_json` returns, and what its tokens do."""
    return cls(tokenizers.Tokenizer.from_str(text), special)

  def _complete(self, vocabulary: dict[str, int], padding: Any) -> None:
    """Pads by a token that it has: what is padded is masked, and not read."""
    names = [(padding or {}).get("pad_token")]
    names += [self.special.get(name) for name in ("pad_token", "eos_token")]
    known = [vocabulary[name] for name in names if name in vocabulary]
    self.pad_id = int(known[0]) if known else 0

  def _encoder(self) -> tokenizers.Tokenizer:
    encoder = super()._encoder()
    encoder.encode_special_tokens = True  # as text
    return encoder

  def special_id(self, name: str) -> int:
    """Returns the id of the token that is `bos`, `eos`, `pad` or `unk`.

    Raises:
      errors.InputError: the tokenizer has none.
    """
    token = self.special.get(f"{name}_token", "")
    if token not in self.tokens:
      raise errors.InputError(
        f"The tokenizer has no {name} token; name one as {name}_token in its "
        f"{CONFIG}"
      )
    return self.tokens.index(token)

  @property
  def config(self) -> str:
    """The text of a `tokenizer_config.json` that says what its tokens do.

    By its class it is read as it stands: those of Llama and GPT-2 may put a
    token before a text, or add one that the model's table has no row for.
    """
    told = {
      "tokenizer_class": "PreTrainedTokenizerFast",
      "model_input_names": ["input_ids", "attention_mask"],
      "clean_up_tokenization_spaces": False,
      **self.special,
    }
    return json.dumps(told, indent=2) + "\n"

  @property
  def generation_config(self) -> str:
    """The text of a `generation_config.json`: which tokens begin and end."""
    ids = {
      f"{name}_id": self.tokens.index(token)
      for name, token in self.special.items()
      if token in self.tokens
    }
    return json.dumps(ids, indent=2) + "\n"

  @functools.cached_property
  def beginning(self) -> list[int]:
    """What the tokenizer itself puts around a text; often nothing."""
    return list(self._tokenizer.encode("").ids)

  def ids(self, text: str, *, control: bool = False) -> list[int]:
    """Returns the ids of a text, without those that begin and end a row.

    `control`: whether a control token's name in it is that token.
    """
    self._tokenizer.encode_special_tokens = not control
    encoded = self._tokenizer.encode(text, add_special_tokens=False)
    return list(encoded.ids)

  @functools.cached_property
  def _puts_space(self) -> bool:
    """Whether it puts a space before every text, as Llama 2's does."""
    return self.decode(self.ids("a") * 2) == "a a"

  def ids_after(self, text: str) -> list[int]:
    """Returns the ids of a text that goes on with another."""
    starts = self._puts_space and text.startswith(" ")
    return self.ids(text[1:] if starts else text)

  def row(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Returns the ids of a row, with what the tokenizer puts around it, and the
    characters of the text that each stands for."""
    self._tokenizer.encode_special_tokens = True
    encoded = self._tokenizer.encode(text)
    return list(encoded.ids), list(encoded.offsets)

  def decode(self, ids: Sequence[int], *, control: bool = True) -> str:
    """Returns the text of ids; `control`: with the names of control tokens."""
    text: str = self._tokenizer.decode(
      [int(i) for i in ids], skip_special_tokens=not control
    )
    return text

  def require_rows(self, count: int, folder: epath.PathLike) -> None:
    """Checks that a table has a row for every id; it may have more.

    Raises:
      errors.InputError: it has fewer than there are ids.
    """
    if self.vocab_size > count:
      raise errors.InputError(
        f"{folder}: the tokenizer has ids up to {self.vocab_size - 1}, but the "
        f"model's table has {count} rows; they are not of one model."
      )


def _end_by_id(folder, tokenizer):
  """Returns the control token that a model's config names by its id, if any:
  the directories of GPT-2 name it nowhere else."""
  path = folder / "config.json"
  if not path.is_file():
    return None
  number = json_files.read(path, "copy or download it again.").get(
    "eos_token_id"
  )
  added = tokenizer.get_added_tokens_decoder()
  token = added.get(number) if type(number) is int else None
  return token.content if token is not None and token.special else None


def read_config(folder: epath.Path) -> dict[str, Any]:
  """Returns `tokenizer_config.json`, tokens by name; {} where there is none.

  Raises:
    errors.InputError: it is damaged.
  """
  path = folder / CONFIG
  if not path.is_file():
    return {}
  fields = json_files.read(path, "copy or download it again.")
  for name in NAMES:
    if isinstance(fields.get(name), dict):  # an added token, with its settings
      fields[name] = fields[name].get("content")
  return fields
