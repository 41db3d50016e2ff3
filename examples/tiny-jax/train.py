"""Train a small network on the CPU with JAX: checkpoints, resuming, progress, and a clean end when asked to stop.

    python train.py                                  # by itself: checkpoints in ./checkpoints
    RECONCILER_CONFIG=config.json python train.py    # as a job; the manifest's `config` arrives in that file

Config (all optional): steps, batch, width, depth, learning_rate, checkpoint_every, report_every, keep, seed.
The task is regression on data made on the fly, so that the example needs no download: the batch of a step depends on
the seed and the step only, and a resumed run therefore continues exactly as the interrupted one would have gone on.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

try:
    from runtime import api
except ImportError:  # by itself, from a checkout: the package lies two directories up
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from runtime import api

DEFAULTS: dict[str, Any] = {
    "steps": 3000,
    "batch": 512,
    "width": 256,
    "depth": 4,
    "learning_rate": 0.02,
    "checkpoint_every": 200,
    "report_every": 20,
    "keep": 3,
    "seed": 0,
}
FEATURES = 16

Params = list[dict[str, jax.Array]]


def initial(key: jax.Array, width: int, depth: int) -> Params:
    """One weight float32[in, out] and bias float32[out] per layer; the last layer has one output."""
    sizes = [FEATURES, *[width] * depth, 1]
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"w": jax.random.normal(one, (n_in, n_out)) * jnp.sqrt(2.0 / n_in), "b": jnp.zeros(n_out)}
        for one, n_in, n_out in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def predict(params: Params, x: jax.Array) -> jax.Array:
    """x: float32[batch, FEATURES] -> float32[batch]."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return (x @ params[-1]["w"] + params[-1]["b"])[:, 0]


def batch_of(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Points and the smooth function of them that the network is to learn."""
    x = jax.random.normal(key, (size, FEATURES))
    y = jnp.sin(2.0 * x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + 0.1 * jnp.sum(x[:, 3:] ** 2, axis=1)
    return x, y


def loss_of(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean squared error."""
    return jnp.mean((predict(params, x) - y) ** 2)


def make_step(batch: int, learning_rate: float) -> Any:
    """One compiled step of gradient descent: (params, momentum, key) -> (params, momentum, loss)."""

    @jax.jit
    def step(params: Params, momentum: Params, key: jax.Array) -> tuple[Params, Params, jax.Array]:
        x, y = batch_of(key, batch)
        loss, gradient = jax.value_and_grad(loss_of)(params, x, y)
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
        scale = jnp.minimum(1.0, 1.0 / norm)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + scale * g, momentum, gradient)
        params = jax.tree.map(lambda p, m: p - learning_rate * m, params, momentum)
        return params, momentum, loss

    return step


def save(step: int, state: tuple[Params, Params], *, keep: int) -> None:
    """A checkpoint of params and momentum, complete or not there."""
    with api.checkpoint(step, keep=keep) as path:
        leaves = jax.tree.leaves(state)
        np.savez(Path(path, "state.npz"), step=step, **{f"leaf{i}": leaf for i, leaf in enumerate(leaves)})
    print(f"step {step}: checkpoint written", flush=True)


def load(path: str, like: tuple[Params, Params]) -> tuple[int, tuple[Params, Params]]:
    """Step and state of a checkpoint; `like` gives the structure. Raises ValueError when the shapes differ."""
    leaves, structure = jax.tree.flatten(like)
    with np.load(Path(path, "state.npz")) as file:
        found = [file[f"leaf{i}"] for i in range(len(leaves))]
        step = int(file["step"])
    if [leaf.shape for leaf in found] != [leaf.shape for leaf in leaves]:
        raise ValueError(f"the checkpoint {path} is of another network: width or depth has changed")
    return step, jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in found])


def train(config: dict[str, Any]) -> int:
    """Run to the last step, or until asked to stop. The exit code."""
    unknown = sorted(set(config) - set(DEFAULTS))
    if unknown:
        print(f"unknown config: {', '.join(unknown)}; known are {', '.join(DEFAULTS)}", file=sys.stderr)
        return 2
    config = {**DEFAULTS, **config}
    api.install_stop_handler()
    root = jax.random.key(config["seed"])
    params = initial(jax.random.fold_in(root, 2**31 - 1), config["width"], config["depth"])
    state = (params, jax.tree.map(jnp.zeros_like, params))
    start, newest = 0, api.resume()
    if newest:
        start, state = load(newest, state)
        print(f"resuming from step {start} ({newest})", flush=True)
    else:
        print("starting from step 0", flush=True)
    one_step = make_step(config["batch"], config["learning_rate"])
    saved, step, total = start, start, config["steps"]
    begin = time.monotonic()
    while step < total:
        *new, loss = one_step(*state, jax.random.fold_in(root, step))
        state, step = (new[0], new[1]), step + 1
        if step % config["report_every"] == 0 or step == total:
            rate = (step - start) / (time.monotonic() - begin)
            api.report(step, total, loss=loss, steps_per_s=rate)
        stopping = api.stopping()
        if step % config["checkpoint_every"] == 0 or step == total or stopping:
            save(step, state, keep=config["keep"])
            saved = step
        if step % 200 == 0:
            print(f"step {step}/{total} loss {float(loss):.4f}", flush=True)
        if stopping:
            print(f"asked to stop; the checkpoint of step {saved} is complete", flush=True)
            return 0
    print(f"done: {total} steps, the last checkpoint is of step {saved}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(train(api.config()))
