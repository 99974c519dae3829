"""The kinds of student, by the name that a config gives them."""

from typing import Any

from gmdistill.students import encoders, small

KINDS: dict[str, Any] = {
  "transformer": encoders.Transformer,
  "bilstm": small.BiLSTM,
  "textcnn": small.TextCNN,
}
