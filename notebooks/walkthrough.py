# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Gradient matching from scratch
#
# Can two made-up examples train a classifier as well as two dozen real
# sentences? *Data set distillation* learns such examples. This notebook builds
# one way to do it, **gradient matching** (Zhao, Mopuri and Bilen 2021, *Dataset
# Condensation with Gradient Matching*, ICLR), in plain JAX on toy text. Only
# the last section imports `gmdistill`, to show that the package computes the
# same gradient.
#
# The idea in one sentence: *if the synthetic examples push a student's
# parameters in the same direction as the real data, then training on them leads
# to the same place.*

# %%
# %matplotlib inline
from collections.abc import Callable

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

# Double precision, so that two gradients can be compared to many digits.
jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## 1. Text becomes numbers
#
# Twelve sentences about cooking, twelve about the weather, and eight more of
# each kind, held out, to measure what a student has learned.

# %%
COOKING = """
stir the soup and add salt
bake the bread in the oven
onions and garlic in the pan
add butter to the hot pan
the sauce needs pepper and salt
stir the butter into the sauce
bake the onions with butter
garlic bread with the soup
the bread is hot from the oven
add garlic and pepper to the soup
the hot sauce needs onions
taste the soup and add pepper
""".strip().split("\n")
WEATHER = """
the wind brings rain and clouds
snow fell on the hills
the storm brings thunder and rain
a cold wind came from the hills
the sun is warm today
clouds and fog on the hills
the rain fell in the night
thunder in the cold night
the fog is cold today
a warm wind and the sun
snow and clouds today
a storm came in the night
""".strip().split("\n")
HELD_OUT_COOKING = """
add onions to the sauce
bake the garlic with salt
the soup needs butter
hot bread with butter
stir the onions in the pan
taste the sauce and add garlic
the oven is hot
pepper and salt on the bread
""".strip().split("\n")
HELD_OUT_WEATHER = """
the storm brings snow
rain in the hills today
a cold fog in the night
the sun and the clouds
the wind came from the hills
thunder on the hills
the night is warm
a cold wind and rain
""".strip().split("\n")

# %% [markdown]
# A vocabulary is the list of words, and a sentence is the list of its words'
# places in it. Sentences differ in length, so each is padded to `LENGTH` and a
# *mask* tells words from padding. Labels are rows of *probabilities*, here all
# on one class.
#
# Shapes stand in the names: B sentences, L positions, D numbers a word, H
# hidden units, C classes, V words.

# %%
LENGTH, WIDTH, HIDDEN, CLASSES = 8, 32, 16, 2

words = sorted({w for s in COOKING + WEATHER for w in s.split()})
vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *words])}


def encode(sentences: list[str]) -> tuple[jax.Array, jax.Array]:
  ids_BxL = np.zeros((len(sentences), LENGTH), int)
  for row, sentence in enumerate(sentences):
    ids = [vocabulary.get(word, 1) for word in sentence.split()]
    ids_BxL[row, : len(ids)] = ids
  return jnp.asarray(ids_BxL), jnp.asarray(ids_BxL != 0)


def one_hot(rows: int) -> jax.Array:
  return jnp.repeat(jnp.eye(CLASSES), rows, axis=0)  # in class order


ids_BxL, mask_BxL = encode(COOKING + WEATHER)
labels_BxC = one_hot(len(COOKING))
held_out_ids, held_out_mask = encode(HELD_OUT_COOKING + HELD_OUT_WEATHER)
held_out_labels = one_hot(len(HELD_OUT_COOKING))
print(len(vocabulary), "words;", COOKING[0], "->", ids_BxL[0])

# %% [markdown]
# Words are discrete, and a gradient cannot change a word a little. So
# everything happens one step later, among *embeddings*: a frozen table gives
# each word a vector, and it is vectors that will be learned. Here the table is
# random; in earnest it comes from a pretrained model.

# %%
table_VxD = jax.random.normal(jax.random.key(0), (len(vocabulary), WIDTH))
x_BxLxD = table_VxD[ids_BxL]

# %% [markdown]
# ## 2. A student, and its loss
#
# The *student* is the network to be trained: the mean of the word vectors, one
# tanh layer, one linear head. In JAX it is a function of its parameters, and
# the parameters are a dictionary of arrays.


# %%
def init_student(key: jax.Array) -> dict:
  def layer(key: jax.Array, inputs: int, outputs: int) -> dict:
    kernel = jax.random.normal(key, (inputs, outputs)) / inputs**0.5
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}

  keys = jax.random.split(key)
  return {
    "hidden": layer(keys[0], WIDTH, HIDDEN),
    "head": layer(keys[1], HIDDEN, CLASSES),
  }


def apply_student(
  params: dict, x_BxLxD: jax.Array, mask_BxL: jax.Array
) -> jax.Array:
  mask_BxLx1 = mask_BxL[..., None]
  mean_BxD = (x_BxLxD * mask_BxLx1).sum(axis=1) / mask_BxLx1.sum(axis=1)
  hidden, head = params["hidden"], params["head"]
  hidden_BxH = jnp.tanh(mean_BxD @ hidden["kernel"] + hidden["bias"])
  return hidden_BxH @ head["kernel"] + head["bias"]  # logits [B, C]


# %% [markdown]
# The loss is the cross-entropy in its *soft* form: it accepts any
# probabilities as labels, so real and synthetic examples go the same way.


# %%
def loss(
  params: dict, x_BxLxD: jax.Array, mask_BxL: jax.Array, labels_BxC: jax.Array
) -> jax.Array:
  logits_BxC = apply_student(params, x_BxLxD, mask_BxL)
  return -(labels_BxC * jax.nn.log_softmax(logits_BxC)).sum(axis=-1).mean()


student = init_student(jax.random.key(1))
loss(student, x_BxLxD, mask_BxL, labels_BxC)  # about log 2: it knows nothing

# %% [markdown]
# ## 3. What the real data say
#
# `jax.grad(loss)` gives the direction in which the loss grows: a dictionary
# shaped like the parameters. It is taken for each class alone. In the mean over
# both classes, what is peculiar to one would partly cancel.
#
# The synthetic set is an array of embeddings, here a single example for each
# class, started from noise. Its labels are fixed.


# %%
def of_class(array: jax.Array, c: int) -> jax.Array:
  return array.reshape(CLASSES, -1, *array.shape[1:])[c]


synthetic_MxLxD = 0.1 * jax.random.normal(
  jax.random.key(2), (CLASSES, LENGTH, WIDTH)
)
synthetic_mask = jnp.ones((CLASSES, LENGTH), bool)
synthetic_labels = one_hot(1)

real = (x_BxLxD, mask_BxL, labels_BxC)
cooking_grads = jax.grad(loss)(student, *(of_class(a, 0) for a in real))
jax.tree.map(jnp.shape, cooking_grads)

# %% [markdown]
# ## 4. How far apart are two gradients?
#
# One minus the cosine of the angle: 0 for the same direction, 2 for opposite
# ones. The length does not count, since the step size scales it anyway. Zhao et
# al. take one cosine for the incoming weights of each neuron, that is, for
# each *column* of a kernel; a bias counts as one vector. The distance is the
# mean over all of them.
#
# A gradient can be exactly zero, and the root in the norm has an infinite slope
# there. The *guard* replaces a zero square by one **before** the root. Choosing
# with `where` afterwards would still differentiate the bad branch and make NaN.


# %%
def one_minus_cosine(a: jax.Array, b: jax.Array) -> jax.Array:
  square_a, square_b = (a * a).sum(axis=0), (b * b).sum(axis=0)
  safe = (square_a > 0) & (square_b > 0)
  norm_a = jnp.sqrt(jnp.where(safe, square_a, 1.0))
  norm_b = jnp.sqrt(jnp.where(safe, square_b, 1.0))
  gap = 1.0 - jnp.where(safe, (a * b).sum(axis=0), 0.0) / (norm_a * norm_b)
  return jnp.where((square_a == 0) & (square_b == 0), 0.0, gap)


def distance(grads: dict, other_grads: dict) -> jax.Array:
  gaps = jax.tree.map(one_minus_cosine, grads, other_grads)
  return jnp.concatenate([gap.ravel() for gap in jax.tree.leaves(gaps)]).mean()


def naive(a: jax.Array, b: jax.Array) -> jax.Array:
  cosine = (a * b).sum() / jnp.sqrt((a * a).sum() * (b * b).sum())
  return jnp.where((a == 0).all(), 1.0, 1.0 - cosine)  # too late


zero, one = jnp.zeros(3), jnp.ones(3)
print("guarded", jax.grad(one_minus_cosine)(zero, one))
print("naive  ", jax.grad(naive)(zero, one))

# %% [markdown]
# ## 5. A gradient through a gradient
#
# The outer loss says how badly the synthetic gradients match the real ones at
# one student. It contains `jax.grad(loss)`, and we want *its* gradient with
# respect to the synthetic embeddings: `jax.grad` of a function that calls
# `jax.grad`. JAX needs nothing more to be told.


# %%
student_gradient = jax.grad(loss)


def outer_loss(
  synthetic_MxLxD: jax.Array,
  params: dict,
  gradient: Callable = student_gradient,
) -> jax.Array:
  synthetic = (synthetic_MxLxD, synthetic_mask, synthetic_labels)
  total = 0.0
  for c in range(CLASSES):
    synthetic_grads = gradient(params, *(of_class(a, c) for a in synthetic))
    real_grads = jax.grad(loss)(params, *(of_class(a, c) for a in real))
    total += distance(synthetic_grads, real_grads)
  return total / CLASSES


meta_gradient = jax.grad(outer_loss)(synthetic_MxLxD, student)
meta_gradient.shape  # one number for each number of the synthetic set

# %% [markdown]
# Is it right? Move the set a little along some direction, both ways: the loss
# must change by as much as the gradient says.

# %%
direction = jax.random.normal(jax.random.key(3), synthetic_MxLxD.shape)
measured = (
  outer_loss(synthetic_MxLxD + 1e-6 * direction, student)
  - outer_loss(synthetic_MxLxD - 1e-6 * direction, student)
) / 2e-6
print(f"{measured:.8f} measured, {jnp.vdot(meta_gradient, direction):.8f} told")

# %% [markdown]
# ## 6. Distillation
#
# The gradients should match not at one student only but wherever training may
# lead. So a student is trained on the real data as usual and, at each point of
# its way, Adam moves the synthetic set. After 25 steps comes a new student with
# other random parameters: the set must not be fitted to one of them.

# %%
OUTER_STEPS, STEPS_A_STUDENT, RATE = 500, 25, 0.5
adam = optax.adam(0.005)


@jax.jit
def step(
  synthetic: jax.Array, adam_state: optax.OptState, params: dict
) -> tuple:
  value, grads = jax.value_and_grad(outer_loss)(synthetic, params)
  updates, adam_state = adam.update(grads, adam_state)
  synthetic = optax.apply_updates(synthetic, updates)
  student_grads = jax.grad(loss)(params, *real)
  params = jax.tree.map(lambda p, g: p - RATE * g, params, student_grads)
  return synthetic, adam_state, params, value


start_MxLxD, adam_state, losses = (
  synthetic_MxLxD,
  adam.init(synthetic_MxLxD),
  [],
)
for t in range(OUTER_STEPS):
  if t % STEPS_A_STUDENT == 0:
    params = init_student(jax.random.fold_in(jax.random.key(4), t))
  synthetic_MxLxD, adam_state, params, value = step(
    synthetic_MxLxD, adam_state, params
  )
  losses.append(float(value))

# %% [markdown]
# Each step is a faint dot, each student's mean a dark one. New students are the
# hardest to agree with, so the dots jump up every 25 steps. The loss does not
# reach zero: one example cannot agree with twelve at every neuron of every
# student.

# %%
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(losses, ".", markersize=2, alpha=0.3, color="tab:blue")
means = np.reshape(losses, (-1, STEPS_A_STUDENT)).mean(axis=1)
middles = (np.arange(len(means)) + 0.5) * STEPS_A_STUDENT
axes.plot(middles, means, ".-", color="tab:blue")
axes.set(xlabel="outer step", ylabel="distance (log)", yscale="log")
plt.show()

# %% [markdown]
# ## 7. Is the set any good?
#
# New students, never seen above, are trained on the set and asked about the
# held-out sentences; for comparison, others on as many real sentences, drawn at
# random, and on all of them. Each bar is a mean over 100 students, each line
# their standard deviation.


# %%
def held_out_accuracy(
  key: jax.Array, x_BxLxD: jax.Array, mask_BxL: jax.Array, labels_BxC: jax.Array
) -> jax.Array:
  def sgd(params: dict, _: None) -> tuple[dict, None]:
    grads = jax.grad(loss)(params, x_BxLxD, mask_BxL, labels_BxC)
    return jax.tree.map(lambda p, g: p - RATE * g, params, grads), None

  params, _ = jax.lax.scan(sgd, init_student(key), length=200)
  logits = apply_student(params, table_VxD[held_out_ids], held_out_mask)
  return (logits.argmax(axis=-1) == held_out_labels.argmax(axis=-1)).mean()


def one_real_a_class(key: jax.Array) -> tuple:
  row_key, key = jax.random.split(key)
  rows = len(COOKING)
  chosen = jax.random.randint(row_key, (CLASSES,), 0, rows)
  chosen = chosen + rows * jnp.arange(CLASSES)
  return key, *(array[chosen] for array in real)


synthetic = (synthetic_MxLxD, synthetic_mask, synthetic_labels)
keys = jax.random.split(jax.random.key(5), 100)
accuracies = {
  "1 real\na class": lambda key: held_out_accuracy(*one_real_a_class(key)),
  "1 synthetic\na class": lambda key: held_out_accuracy(key, *synthetic),
  "all 12 real\na class": lambda key: held_out_accuracy(key, *real),
}
accuracies = {n: jax.jit(jax.vmap(f))(keys) for n, f in accuracies.items()}

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
heights = [100 * a.mean() for a in accuracies.values()]
deviations = [100 * a.std() for a in accuracies.values()]
colors = ["silver", "tab:blue", "silver"]
bars = axes.bar(list(accuracies), heights, yerr=deviations, color=colors)
axes.bar_label(bars, fmt="%.0f", label_type="center")
axes.axhline(50, color="black", linewidth=0.8, linestyle=":", zorder=0)
axes.set(ylabel="held-out accuracy, %", ylim=(0, 105))
plt.show()

# %% [markdown]
# The dotted line is chance. Two synthetic examples do nearly what 24 sentences
# do, though nobody ever wrote them. What words do they hold? None exactly:
# their vectors lie between those of words. But these words point most in the
# direction in which each example differs from the other.

# %%
unit_VxD = table_VxD / jnp.linalg.norm(table_VxD, axis=1, keepdims=True)
mean_MxD = synthetic_MxLxD.mean(axis=1)
names = list(vocabulary)
for c, label in enumerate(["cooking", "weather"]):
  order = jnp.argsort(-unit_VxD @ (mean_MxD[c] - mean_MxD[1 - c]))
  print(f"{label}: {', '.join(names[i] for i in order[:8])}")

# %% [markdown]
# ## 8. The same in the package
#
# `gmdistill` keeps real and synthetic data in one type, `gd.Batch`, and
# asks a student for two functions, `init` and `loss`, in how many groups rows
# come, and which of its tensors is what: here a part named `head`, and a body.
# So our toy fits in as it is; in earnest this is `gd.Problem` around a
# transformer.

# %%
import gmdistill as gd

RULES = ("mixed", "reverse", "linearize")


class ToyProblem:
  groups, roles = CLASSES, gd.Roles()

  def init(self, key: jax.Array) -> dict:
    return init_student(key)

  def loss(self, params: dict, batch: gd.Batch) -> jax.Array:
    inputs = batch.inputs
    if jnp.issubdtype(inputs.dtype, jnp.integer):
      inputs = table_VxD[inputs]
    return loss(params, inputs, batch.mask, batch.labels)


# %% [markdown]
# First the engine. `gd.grad` stands in for `jax.grad` in the inner
# loss. Its rules differ in how the second derivative is computed: `reverse` is
# what JAX did above, the other two run forward over the first gradient and
# save memory or work in large students. The numbers are the same.

# %%
expected = jax.grad(outer_loss)(start_MxLxD, student)
for rule in RULES:
  found = jax.grad(outer_loss)(start_MxLxD, student, gd.grad(loss, rule))
  np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)
  print(f"{rule:9} differs by {abs(found - expected).max():.1e}")

# %% [markdown]
# Then the whole objective, `gd.gradient_matching`. It adds to
# the comparison class by class one of the sums over classes; a weight of 0
# leaves just ours. The trajectory is section 6: one training step between two
# matches, a new student after 25. Of the two real batches that it reads, the
# first is matched and the second trains the student.

# %%
problem = ToyProblem()
along = gd.trajectory(optax.sgd(RATE), max_age=STEPS_A_STUDENT, steps_between=1)
batch = gd.Batch(ids_BxL, mask_BxL, labels_BxC)
both = gd.Real(jax.tree.map(lambda x: jnp.stack([x, x]), batch))


def package_gradient(rule: str) -> tuple:
  objective = gd.gradient_matching(
    along, distance_kind="neuron_cosine", sum_weight=0.0, rule=rule
  )
  key = jax.random.key(1)  # the student's of section 2
  state = objective.init(problem, key, jnp.float32(0))

  def package_loss(synthetic_MxLxD: jax.Array) -> tuple:
    made = gd.Batch(synthetic_MxLxD, synthetic_mask, synthetic_labels)
    made = gd.SyntheticSet(made)
    return objective.loss(problem, made, state, both, key)

  return jax.jit(jax.grad(package_loss, has_aux=True))(start_MxLxD)


for rule in RULES:
  found, (older, metrics) = package_gradient(rule)
  np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)
  print(f"{rule:9} differs by {abs(found - expected).max():.1e}")

# %% [markdown]
# The student of the package has taken the same training step, too.

# %%
grads = jax.grad(loss)(student, *real)
jax.tree.map(
  lambda p, p0, g: np.testing.assert_allclose(p, p0 - RATE * g, rtol=1e-9),
  older.params,
  student,
  grads,
)
print("age", older.age, {k: f"{v:.3f}" for k, v in metrics.items()})

# %% [markdown]
# From here on the package adds what a toy does not need: many students at a
# time, learned labels and step sizes, other objectives,
# checkpoints, baselines and a report. Read `gmdistill/sets/synthetic.py` and
# `gmdistill/objectives/gradient_matching.py` next.
