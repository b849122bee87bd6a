"""Times our search step against a plain PyTorch program of the same step; prints one JSON line.

    python benchmarks/pytorch_step.py                      # full size: 8 cells, 16 channels, 32x32
    python benchmarks/pytorch_step.py --cells 3 --nodes 2 --channels 4 --size 8 --batch 8

The PyTorch program is what a user would write from D-DARTS (section 3.2) and DARTS (section 2.3): eager,
channels first, one primitive after another, N + 1 forward passes for the marginal contributions, one
backward pass for the alphas and one for the weights, `torch.autocast` for bfloat16. Where the code stays
as simple, the quicker of two ways is chosen: a removed cell is not computed, the ablated passes
keep nothing for a backward pass, and no gradient is computed that no optimizer uses.

One backward pass gives the gradient of `L_CE + w_01 L_01`, in which the ablation loss is a constant
(`ablation.gradient = "none"`), so this is what both programs do; our step with the exact gradient is
a third figure. First both take one step from the same parameters, which our importer converts, on
the same images: losses, marginal contributions, and what the optimizers have kept of the gradients
(the first moments of Adam, the momentum of SGD) must agree, in float64 on a small network and in
float32 at the size that is timed. Then the steps run in turns.

On a CPU nothing else may run: PyTorch's threads wait for each other at the end of every operation, and
become thirty times slower when they have to share their cores (`load_before` shows whether they did).
"""

import os
import resource
import statistics

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from pytorch_supernet import Supernet, as_variables
from torch import nn
from torch.nn import functional as F

from ddarts_jax.genotypes.spaces import primitives_of
from ddarts_jax.searching import search
from ddarts_jax.searching.losses import EPSILON
from ddarts_jax.training import optim

# Largest allowed differences, relative to the largest entry: of losses and contributions, and of
# gradients, where the backward pass through many BatchNorms amplifies the rounding (the alphas'
# gradient of PyTorch in float32 is 5e-4 off its own in float64: 8 cells, 8 channels, 16x16).
_TOLERANCES = {"float64": (1e-9, 1e-9), "float32": (1e-4, 1e-2)}

# Both programs.


def batches(config, size):
    """Makes two batches of random images [B, H, W, 3] and labels: for the weights, for the alphas."""
    rng = np.random.default_rng(0)
    count = config.data.batch_size
    labels = np.arange(count) % harness.NUM_CLASSES
    return [(rng.normal(size=(count, size, size, 3)), labels) for _ in range(2)]


class PyTorch:
    """The PyTorch program: a supernet, its alphas and their optimizers.

    BatchNorm's running statistics, which no step reads, follow every forward pass.

    Args:
        config: the whole config.
        size: pixels per side of an image.
        dtype: of the computation.
        device: where it runs.
    """

    def __init__(self, config, size, dtype, device):
        torch.manual_seed(0)
        self.settings = config.search
        names, num_nodes = primitives_of(self.settings.space), self.settings.num_nodes
        net = Supernet(names, self.settings.num_cells, num_nodes, self.settings.channels)
        kind = torch.float64 if dtype == "float64" else torch.float32
        self.net = net.to(device, kind)
        num_edges = sum(range(2, 2 + num_nodes))
        self.alphas = [
            (1e-3 * torch.randn(num_edges, len(names), dtype=kind)).to(device).requires_grad_()
            for _ in range(self.settings.num_cells)
        ]
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")
        weights, alphas = self.settings.weights, self.settings.alphas
        self.weights_optimizer = torch.optim.SGD(
            self.net.parameters(),
            weights.learning_rate,
            momentum=weights.momentum,
            weight_decay=weights.weight_decay,
        )
        self.alphas_optimizer = torch.optim.Adam(
            self.alphas,
            alphas.learning_rate,
            betas=(alphas.b1, alphas.b2),
            weight_decay=alphas.weight_decay,
        )
        self.batches = [
            (
                torch.tensor(images.transpose(0, 3, 1, 2), dtype=kind, device=device),
                torch.tensor(labels, device=device),
            )
            for images, labels in batches(config, size)
        ]

    def loss(self, images, labels, gates, without=None):
        """Computes the cross-entropy on one batch."""
        with self.autocast:
            return F.cross_entropy(self.net(images, gates, without), labels)

    def step(self):
        """Takes one search step; returns its losses and the marginal contributions."""
        (images, labels), (alpha_images, alpha_labels) = self.batches

        gates = [torch.sigmoid(alphas) for alphas in self.alphas]
        loss = self.loss(alpha_images, alpha_labels, gates)
        with torch.no_grad():
            ablated = [
                self.loss(alpha_images, alpha_labels, gates, without=k) for k in range(len(gates))
            ]
        marginal = loss.detach() - torch.stack(ablated)
        mean = marginal.mean()
        ablation = (marginal - mean) / (mean.abs() + EPSILON)
        zero_one = torch.stack([-((cell_gates - 0.5) ** 2).mean() for cell_gates in gates])
        options = self.settings.ddarts
        w_01, w_ab = options.zero_one_weight, options.ablation.weight
        total = loss + w_01 * zero_one.sum() + w_ab * ablation.sum()
        self.alphas_optimizer.zero_grad()
        total.backward(inputs=self.alphas)
        self.alphas_optimizer.step()

        weights_loss = self.loss(images, labels, [torch.sigmoid(a.detach()) for a in self.alphas])
        self.weights_optimizer.zero_grad()
        weights_loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.settings.weights.clip)
        self.weights_optimizer.step()
        return {"loss": loss, "marginal_contribution": marginal, "weights_loss": weights_loss}

    def run(self):
        """Runs one step and waits for it; returns its metrics as arrays."""
        return {name: value.detach().cpu().numpy() for name, value in self.step().items()}

    def exported(self, momentum=False):
        """Returns the net's parameters, or SGD's momentum of each, as our variables."""
        tensors = self.net.state_dict()
        if momentum:
            kept = self.weights_optimizer.state
            tensors |= {
                name: kept[parameter]["momentum_buffer"]
                for name, parameter in self.net.named_parameters()
            }
        return as_variables(tensors)


class Jax:
    """Our compiled step from the PyTorch program's parameters; `compiling` says what it took.

    Args:
        config: the whole config.
        size: pixels per side of an image.
        dtype: of the computation.
        plain: the PyTorch program.
    """

    def __init__(self, config, size, dtype, plain: PyTorch):
        dataset = harness.blank_dataset((size, size, 3))
        net, _, _ = search.build(config, dataset, dtype)
        alphas = np.stack([cell.numpy(force=True) for cell in plain.alphas])
        init, step = search.search_step(net, config.search, total_steps=1000)
        self.state = init(*optim.at_least_float32((plain.exported(), alphas), dtype))
        self.batches = [
            (jnp.asarray(images, dtype), jnp.asarray(labels))
            for images, labels in batches(config, size)
        ]
        jitted = jax.jit(step, donate_argnums=0)
        # The default may be TensorFloat-32, which is less precise than float32.
        with jax.default_matmul_precision("highest" if dtype == "float32" else None):
            self.compiled, self.compiling = harness.compile_timed(
                lambda: jitted.lower(self.state, jax.random.key(0), *self.batches)
            )
        memory = self.compiled.memory_analysis()
        peak = memory.argument_size_in_bytes + memory.output_size_in_bytes
        peak += memory.temp_size_in_bytes - memory.alias_size_in_bytes
        self.compiling["memory_mb"] = round(peak / 1e6)

    def run(self):
        """Runs one step and waits for it; returns its metrics as arrays."""
        self.state, metrics = self.compiled(self.state, jax.random.key(0), *self.batches)
        return jax.device_get(jax.block_until_ready((self.state, metrics))[1])


# The comparison.


def difference(ours, theirs):
    """Finds the largest difference between the entries of two trees, relative to the largest entry."""
    pairs = [
        (np.asarray(a), np.asarray(b))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    ]
    return float(
        max(np.abs(a - b).max() for a, b in pairs) / max(np.abs(b).max() for _, b in pairs)
    )


def differences(ours: Jax, plain: PyTorch):
    """Lets both take their first step, and compares the results.

    Returns:
        Relative differences of the losses, the marginal contributions, the alphas' gradient (by the
        first moments of Adam: with the weight decay in it) and the weights' (by the momentum of SGD).
    """
    metrics, expected = ours.run(), plain.run()
    found = {name: difference(metrics[name], expected[name]) for name in expected}
    moments = [plain.alphas_optimizer.state[cell]["exp_avg"] for cell in plain.alphas]
    moments = np.stack([cell.numpy(force=True) for cell in moments])
    found["alphas_gradient"] = difference(
        optax.tree.get(ours.state.alphas_optimizer, "mu"), moments
    )
    found["weights_gradient"] = difference(
        optax.tree.get(ours.state.weights_optimizer, "trace"), plain.exported(momentum=True).weights
    )
    return found


def check(found, dtype):
    """Refuses differences that rounding does not explain."""
    losses, gradients = _TOLERANCES[dtype]
    for name, value in found.items():
        tolerance = gradients if name.endswith("gradient") else losses
        if not value <= tolerance:
            raise SystemExit(f"the programs differ in {dtype}: {name} by {value:.1e} > {tolerance}")


def small_differences(space, cells=3, nodes=2):
    """Finds the `differences` in float64, of a small network; 2 of 3 cells reduce."""
    options = {"cells": cells, "nodes": nodes, "channels": 4, "batch": 4, "space": space}
    config, size = harness.search_config(options | {"gradient": "none"}), 8
    config.search.weights.clip = 1e9  # PyTorch divides by the norm + 1e-6 where it clips
    with jax.enable_x64(True):
        plain = PyTorch(config, size, "float64", torch.device("cpu"))
        return differences(Jax(config, size, "float64", plain), plain)


def peak_memory(config, size, dtype, device):
    """Measures the most bytes that the PyTorch program holds, including its state.

    On a CPU this is the growth of the process's largest resident size: nothing larger may have run
    before.
    """

    def resident():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before = resident()
    PyTorch(config, size, dtype, device).run()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resident() - before


def compared(arguments, device):
    """Checks that both programs agree, then makes those that are timed.

    Returns:
        The programs by name, and the differences that were found.
    """
    options, size = vars(arguments), arguments.size
    config = harness.search_config(options | {"gradient": "none"})
    small = small_differences(arguments.space)
    check(small, "float64")

    def pair(dtype):
        plain = PyTorch(config, size, dtype, device)
        return {"jax": Jax(config, size, dtype, plain), "pytorch": plain}

    programs = pair("float32")
    large = differences(programs["jax"], programs["pytorch"])
    check(large, "float32")
    if arguments.dtype != "float32":
        programs = pair(arguments.dtype)
    exact = harness.search_config(options | {"gradient": "full"})
    programs["jax_exact_gradient"] = Jax(exact, size, arguments.dtype, programs["pytorch"])
    return programs, {"difference_small_float64": small, "difference_float32": large}


def main():
    """Compares, measures and prints."""
    parser = harness.parser(__doc__, *harness.SIZES, "batch", "repeats", "dtype", "space")
    arguments = parser.parse_args()
    if arguments.size % 4:
        parser.error(f"--size is {arguments.size}; it must be a multiple of 4")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.dtype == "bfloat16" and device.type == "cpu":
        parser.error("--dtype bfloat16 needs a GPU, and PyTorch finds none")
    torch.backends.cudnn.benchmark = True  # chooses the quickest convolutions in the first steps
    torch.backends.cudnn.allow_tf32 = False
    # JAX would take three quarters of a GPU's memory at once, and leave too little for PyTorch.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")

    config = harness.search_config(vars(arguments) | {"gradient": "none"})
    memory = peak_memory(config, arguments.size, arguments.dtype, device)
    programs, results = compared(arguments, device)
    runs = {name: program.run for name, program in programs.items()}
    harness.in_turns(runs, 1)
    seconds = harness.in_turns(runs, arguments.repeats)
    details = {name: getattr(program, "compiling", {}) for name, program in programs.items()}
    details["pytorch"] = {"memory_mb": round(memory / 1e6)}
    medians = {name: statistics.median(column) for name, column in seconds.items()}
    for name, column in seconds.items():
        timed = {"step_s": round(medians[name], 4), "spread_s": harness.spread(column)}
        results[name] = timed | details[name]
    ratios = [theirs / ours for theirs, ours in zip(seconds["pytorch"], seconds["jax"])]
    results |= {
        "ratio": round(medians["pytorch"] / medians["jax"], 2),
        "ratio_spread": harness.spread(ratios, 2),
        "threads": torch.get_num_threads(),
    }
    harness.report("pytorch_step", vars(arguments), results, packages=["torch"])


if __name__ == "__main__":
    main()
