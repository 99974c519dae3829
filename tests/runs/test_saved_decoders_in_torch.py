"""Saved language models answer elsewhere as here, where torch is installed."""

import jax
import numpy as np
import pytest
import tiny_language
from etils import epath

from gmdistill.data import batches, chat, plain_tokens
from gmdistill.runs.commands import shared
from gmdistill.runs.config import assembly, settings
from gmdistill.students import generation

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")

NEW = 6
TEXTS = ["good bad world", "positive", "sports business science yes no"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A LoRA student that is far from its base, and its directory."""
  root = tmp_path_factory.mktemp("saved")
  config = settings.recipe(tiny_language.get_config(root, "answers"))
  setup = assembly.setup(config)
  params = setup.problem.init(jax.random.key(0))
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: x + 0.5 * rng.standard_normal(x.shape, np.float32), params
  )
  folder = shared.save_of_run(
    epath.Path(root / "student"), setup, params, config
  )
  return setup, params, folder, config.student.pretrained


def answers_here(setup, params, stops):
  tokenizer = setup.corpus.tokenizer
  prompts = [tokenizer.ids(text) for text in TEXTS]
  ids = generation.answers(
    setup.problem, params, prompts, stops=stops, num_tokens=NEW
  )
  return prompts, ids


def test_greedy_answers_are_those_of_transformers(saved):
  setup, params, folder, _ = saved
  prompts, ours = answers_here(setup, params, [])
  model = transformers.AutoModelForCausalLM.from_pretrained(str(folder))
  for prompt, expected in zip(prompts, ours, strict=True):
    ids = model.generate(
      torch.tensor([prompt]),
      attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
      do_sample=False,
      max_new_tokens=NEW,
      eos_token_id=None,
    )
    assert ids[0, len(prompt) :].tolist() == expected
  # The token that ends an answer is known without being told.
  ends = setup.corpus.tokenizer.special_id("eos")
  assert model.generation_config.eos_token_id == ends


def test_a_saved_student_has_its_bases_template_and_tokens(saved):
  setup, _, folder, base = saved
  tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
  talk = [{"role": "user", "content": "good world"}]
  ours = chat.ChatTemplate.of_folder(epath.Path(base)).render(talk, ask=True)
  theirs = tokenizer.apply_chat_template(
    talk, tokenize=False, add_generation_prompt=True
  )
  assert theirs == ours
  for text in TEXTS:
    own = setup.corpus.tokenizer.ids(text)
    assert tokenizer.encode(text, add_special_tokens=False) == own


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_class_of_tokenizers_adds_tokens_there(family, saved, tmp_path):
  tokenizer = saved[0].corpus.tokenizer
  (tmp_path / "config.json").write_text(f'{{"model_type": "{family}"}}')
  (tmp_path / plain_tokens.FILE).write_text(tokenizer.to_json())
  (tmp_path / plain_tokens.CONFIG).write_text(tokenizer.config)
  read = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
  assert len(read) == tokenizer.vocab_size
  assert read(TEXTS[0]).input_ids == tokenizer.row(TEXTS[0])[0]
  assert read.eos_token_id == tokenizer.special_id("eos")


def test_the_evaluation_harness_reads_what_we_do(saved):
  pytest.importorskip("lm_eval")
  from lm_eval.api import instance
  from lm_eval.models import huggingface

  setup, params, folder, _ = saved
  tokenizer = setup.corpus.tokenizer
  harness = huggingface.HFLM(
    pretrained=str(folder), device="cpu", batch_size=2, dtype="float32"
  )

  def requests(kind, arguments):
    return [
      instance.Instance(kind, {}, one, i) for i, one in enumerate(arguments)
    ]

  pairs = [(text, " yes no") for text in TEXTS]
  theirs = harness.loglikelihood(requests("loglikelihood", pairs))
  for (text, answer), (logs, _) in zip(pairs, theirs, strict=True):
    before, after = tokenizer.ids(text), tokenizer.ids(answer)
    ids = np.array([before + after])
    counts = np.arange(1, ids.shape[1])[None] >= len(before)
    tokens = batches.Tokens(ids[:, 1:], counts.astype(np.float32))
    batch = batches.Batch(
      ids[:, :-1], np.ones_like(ids[:, :-1], bool), tokens=tokens
    )
    nats = float(setup.problem.loss(params, batch)) * len(after)
    np.testing.assert_allclose(-logs, nats, rtol=1e-4)
  until = {"until": ["</s>"], "max_gen_toks": NEW, "do_sample": False}
  texts = harness.generate_until(
    requests("generate_until", [(text, dict(until)) for text in TEXTS])
  )
  _, ours = answers_here(setup, params, [tokenizer.special_id("eos")])
  assert texts == [tokenizer.decode(ids, control=False) for ids in ours]
