"""Times our search step against a plain PyTorch program of the same step; prints one JSON line.

    python benchmarks/pytorch_step.py                      # full size: 8 cells, 16 channels, 32x32
    python benchmarks/pytorch_step.py --cells 3 --nodes 2 --channels 4 --size 8 --batch 8

The PyTorch program is what a user would write from D-DARTS (section 3.2) and DARTS (section 2.3): eager,
channels first, one primitive after another, N + 1 forward passes for the marginal contributions, one
backward pass for the alphas and one for the weights, `torch.autocast` for bfloat16. Where that costs
nothing in plainness it is the quicker of two ways: a removed cell is not computed, the ablated passes
keep nothing for a backward pass, and no gradient is computed that no optimizer uses.

One backward pass gives the gradient of `L_CE + w_01 L_01`, in which the ablation loss is a constant
(`ablation.gradient = "none"`), so this is what both programs do; our step with the exact gradient is
a third figure. First both take one step from the same parameters, which our importer carries over, on
the same images: losses, marginal contributions, and what the optimizers have kept of the gradients
(the first moments of Adam, the momentum of SGD) must agree, in float64 on a small network and in
float32 at the size that is timed. Then the steps run in turns.

On a CPU nothing else may run: PyTorch's threads wait for each other at the end of every operation, and
become thirty times slower when they have to share their cores. The load of the minute before is given.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
import torch
from torch import nn
from torch.nn import functional as F

from ddarts_jax.configuration import default_config
from ddarts_jax.genotypes.spaces import SPACES
from ddarts_jax.searching import search
from ddarts_jax.searching.losses import EPSILON
from ddarts_jax.tasks.importing import load_torch
from ddarts_jax.training import optim

_NUM_CLASSES = 10
# Largest differences that are let through, relative to the largest entry: of losses and contributions,
# and of gradients, in which the backward pass through many BatchNorms enlarges the rounding (the
# alphas' gradient of PyTorch in float32 is 5e-4 off its own in float64: 8 cells, 8 channels, 16x16).
_TOLERANCES = {"float64": (1e-9, 1e-9), "float32": (1e-4, 1e-2)}

# The PyTorch program. Its parameters are named as in the authors' checkpoints, so that the importer
# (`ddarts_jax.tasks.importing.load_torch`) reads them.


class Layers(nn.Module):
    """Layers one after the other."""

    def __init__(self, *layers):
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x):
        """Maps [B, C, H, W] to [B, C', H', W']."""
        return self.op(x)


def convolution(cin, cout, size, stride=1, dilation=1, groups=1):
    """A convolution without bias that keeps the size at stride 1."""
    padding = dilation * (size // 2)
    return nn.Conv2d(cin, cout, size, stride, padding, dilation, groups, bias=False)


def norm(channels):
    """BatchNorm as in a supernet: without scale and bias."""
    return nn.BatchNorm2d(channels, affine=False)


def conv_bn(cin, cout, size, stride=1):
    """ReLU, convolution, BatchNorm."""
    return nn.ReLU(), convolution(cin, cout, size, stride), norm(cout)


def separable(channels, size, stride, dilation=1):
    """ReLU, depthwise convolution, 1x1 convolution, BatchNorm."""
    spatial = convolution(channels, channels, size, stride, dilation, groups=channels)
    return nn.ReLU(), spatial, convolution(channels, channels, 1), norm(channels)


def row_column(channels, size, stride):
    """ReLU, 1 x size convolution, size x 1 convolution, BatchNorm."""
    middle = size // 2
    row = nn.Conv2d(channels, channels, (1, size), (1, stride), (0, middle), bias=False)
    column = nn.Conv2d(channels, channels, (size, 1), (stride, 1), (middle, 0), bias=False)
    return nn.ReLU(), row, column, norm(channels)


class FactorizedReduce(nn.Module):
    """ReLU, two strided 1x1 convolutions of even and of odd pixels, BatchNorm."""

    def __init__(self, cin, cout):
        super().__init__()
        self.conv_1 = nn.Conv2d(cin, cout // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(cin, cout - cout // 2, 1, stride=2, bias=False)
        self.bn = norm(cout)

    def forward(self, x):
        """Maps [B, cin, H, W] to [B, cout, H / 2, W / 2]; H and W are even."""
        x = F.relu(x)
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], dim=1))


def primitive(name, channels, stride):
    """The module of a candidate primitive."""
    match name:
        case "max_pool_3x3":
            return nn.Sequential(nn.MaxPool2d(3, stride, padding=1), norm(channels))
        case "avg_pool_3x3":
            pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
            return nn.Sequential(pool, norm(channels))
        case "skip_connect":
            return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)
        case "sep_conv_3x3" | "sep_conv_5x5":
            size = int(name[-1])
            return Layers(*separable(channels, size, stride), *separable(channels, size, 1))
        case "dil_conv_3x3" | "dil_conv_5x5":
            return Layers(*separable(channels, int(name[-1]), stride, dilation=2))
        case "simple_conv_1x1" | "simple_conv_3x3":
            return Layers(*conv_bn(channels, channels, int(name[-1]), stride))
        case "conv_3x1_1x3":
            return Layers(*row_column(channels, 3, stride))
        case "conv_7x1_1x7":
            return nn.Sequential(*row_column(channels, 7, stride))
        case "bottleneck_1x3x1":
            reduce, wide = conv_bn(channels, channels, 1), 4 * channels
            spatial = convolution(channels, channels, 3, stride), norm(channels)
            expand = convolution(channels, wide, 1), norm(wide)
            return Layers(*reduce, *spatial, *expand, *conv_bn(wide, channels, 1))
    raise ValueError(name)


class MixedOperation(nn.Module):
    """All primitives of one edge, one after another, weighted by its gates."""

    def __init__(self, names, channels, stride):
        super().__init__()
        self._ops = nn.ModuleList(primitive(name, channels, stride) for name in names)

    def forward(self, x, gates):
        """Mixes the primitives' outputs of x [B, C, H, W] by gates [O]."""
        return sum(gate * op(x) for gate, op in zip(gates, self._ops))


class Cell(nn.Module):
    """A cell: an edge from every earlier node to every later one."""

    def __init__(self, names, num_nodes, cin, channels, reduction, reduction_before):
        super().__init__()
        if reduction_before:
            self.preprocess0 = FactorizedReduce(cin[0], channels)
        else:
            self.preprocess0 = Layers(*conv_bn(cin[0], channels, 1))
        self.preprocess1 = Layers(*conv_bn(cin[1], channels, 1))
        self._ops = nn.ModuleList(
            MixedOperation(names, channels, 2 if reduction and source < 2 else 1)
            for node in range(2, 2 + num_nodes)
            for source in range(node)
        )
        self.num_nodes, self.channels, self.stride = num_nodes, channels, 2 if reduction else 1

    def forward(self, s0, s1, gates):
        """Maps the outputs of the two cells before, by gates [E, O], to [B, nodes * C, H, W]."""
        nodes = [self.preprocess0(s0), self.preprocess1(s1)]
        edge = 0
        for _ in range(self.num_nodes):
            incoming = range(edge, edge + len(nodes))
            edge += len(nodes)
            nodes.append(sum(self._ops[e](x, gates[e]) for e, x in zip(incoming, nodes)))
        return torch.cat(nodes[2:], dim=1)

    def removed(self, s1):
        """What stands for the cell's output in the network without it: zeros."""
        batch, _, height, width = s1.shape
        channels = self.num_nodes * self.channels
        return s1.new_zeros(batch, channels, height // self.stride, width // self.stride)


class Supernet(nn.Module):
    """The supernet for small images."""

    def __init__(
        self, names, num_cells, num_nodes, channels, *, image_channels=3, num_classes=_NUM_CLASSES
    ):
        super().__init__()
        width = 3 * channels
        self.stem = nn.Sequential(convolution(image_channels, width, 3), nn.BatchNorm2d(width))
        self.cells = nn.ModuleList()
        reductions, cin = (num_cells // 3, 2 * num_cells // 3), (width, width)
        for position in range(num_cells):
            reduction = position in reductions
            channels *= 2 if reduction else 1
            before = position - 1 in reductions
            self.cells.append(Cell(names, num_nodes, cin, channels, reduction, before))
            cin = cin[1], num_nodes * channels
        self.classifier = nn.Linear(cin[1], num_classes)

    def forward(self, images, gates, without=None):
        """Maps images [B, 3, H, W] to logits; `without` is the position of a cell that is removed."""
        s0 = s1 = self.stem(images)
        for position, cell in enumerate(self.cells):
            absent = position == without
            output = cell.removed(s1) if absent else cell(s0, s1, gates[position])
            s0, s1 = s1, output
        return self.classifier(s1.mean(dim=(2, 3)))


class PyTorch:
    """The PyTorch program: a supernet, its alphas and their optimizers.

    BatchNorm's running statistics, which no step reads, follow every forward pass.
    """

    def __init__(self, arguments, config, dtype, device):
        torch.manual_seed(0)
        names = SPACES[arguments.space]
        net = Supernet(names, arguments.cells, arguments.nodes, arguments.channels)
        kind = torch.float64 if dtype == "float64" else torch.float32
        self.net = net.to(device, kind)
        num_edges = sum(range(2, 2 + arguments.nodes))
        self.alphas = [
            (1e-3 * torch.randn(num_edges, len(names), dtype=kind)).to(device).requires_grad_()
            for _ in range(arguments.cells)
        ]
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")
        self.settings = config.search
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
            for images, labels in batches(arguments)
        ]

    def loss(self, images, labels, gates, without=None):
        """Cross-entropy on one batch."""
        with self.autocast:
            return F.cross_entropy(self.net(images, gates, without), labels)

    def step(self):
        """One search step; returns its losses and the marginal contributions."""
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
        """The net's parameters, or SGD's momentum of each, as our variables."""
        tensors = self.net.state_dict()
        if momentum:
            kept = self.weights_optimizer.state
            tensors |= {
                name: kept[parameter]["momentum_buffer"]
                for name, parameter in self.net.named_parameters()
            }
        return as_variables(tensors)


def as_variables(tensors):
    """The state dict of a `Supernet` as our variables."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "supernet.pt"
        torch.save(tensors, path)
        return load_torch(path, None).variables


def fill(net: Supernet, variables):
    """Gives a `Supernet` the weights and statistics of our variables.

    Where each number goes is found out by importing numbers that count the entries of the state dict.
    """
    tensors = {k: v for k, v in net.state_dict().items() if v.is_floating_point()}
    sizes = [tensor.numel() for tensor in tensors.values()]
    assert sum(sizes) < 2**24  # whole numbers of float32
    places = torch.arange(sum(sizes), dtype=torch.float32).split(sizes)
    counted = {k: p.reshape(t.shape) for (k, t), p in zip(tensors.items(), places)}
    numbers = np.zeros(sum(sizes), np.float32)
    for place, leaf in zip(jax.tree.leaves(as_variables(counted)), jax.tree.leaves(variables)):
        numbers[np.asarray(place, np.int64).ravel()] = np.asarray(leaf, np.float32).ravel()
    parts = torch.tensor(numbers).split(sizes)
    filled = {k: p.reshape(t.shape) for (k, t), p in zip(tensors.items(), parts)}
    net.load_state_dict(filled, strict=False)


# Our program.


class Jax:
    """Our compiled step from the PyTorch program's parameters; `compiling` says what it took."""

    def __init__(self, arguments, config, dtype, plain: PyTorch):
        dataset = SimpleNamespace(num_classes=_NUM_CLASSES, channels=3)
        net, _, _ = search.build(config, dataset, dtype)
        alphas = np.stack([cell.numpy(force=True) for cell in plain.alphas])
        init, step = search.search_step(net, config.search, total_steps=1000)
        self.state = init(*optim.at_least_float32((plain.exported(), alphas), dtype))
        self.batches = [
            (jnp.asarray(images, dtype), jnp.asarray(labels))
            for images, labels in batches(arguments)
        ]
        begun = time.perf_counter()
        # The default may be TensorFloat-32, which is no float32.
        with jax.default_matmul_precision("highest" if dtype == "float32" else None):
            lowered = jax.jit(step, donate_argnums=0).lower(
                self.state, jax.random.key(0), *self.batches
            )
            traced = time.perf_counter()
            self.compiled = lowered.compile()
        memory = self.compiled.memory_analysis()
        peak = memory.argument_size_in_bytes + memory.output_size_in_bytes
        peak += memory.temp_size_in_bytes - memory.alias_size_in_bytes
        self.compiling = {
            "trace_s": round(traced - begun, 1),
            "compile_s": round(time.perf_counter() - traced, 1),
            "memory_mb": round(peak / 1e6),
        }

    def run(self):
        """Runs one step and waits for it; returns its metrics as arrays."""
        self.state, metrics = self.compiled(self.state, jax.random.key(0), *self.batches)
        return jax.device_get(jax.block_until_ready((self.state, metrics))[1])


# The comparison.


def configuration(arguments, gradient="none"):
    """The search's configuration at the size that is measured, with `ablation.gradient`."""
    config = default_config()
    config.search.space = arguments.space
    config.search.num_cells = arguments.cells
    config.search.num_nodes = arguments.nodes
    config.search.channels = arguments.channels
    config.search.ddarts.ablation.gradient = gradient
    return config


def batches(arguments):
    """Two batches of random images [B, H, W, 3] and labels: of the weights, of the alphas."""
    rng = np.random.default_rng(0)
    shape = (arguments.batch, arguments.size, arguments.size, 3)
    labels = np.arange(arguments.batch) % _NUM_CLASSES
    return [(rng.normal(size=shape), labels) for _ in range(2)]


def difference(ours, theirs):
    """Largest absolute difference over all entries of two trees, relative to the largest entry."""
    pairs = [
        (np.asarray(a), np.asarray(b))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    ]
    return float(
        max(np.abs(a - b).max() for a, b in pairs) / max(np.abs(b).max() for _, b in pairs)
    )


def differences(ours: Jax, plain: PyTorch):
    """Lets both take their first step, and compares what comes out.

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
    """`differences` in float64, of a small network; of 3 cells 2 reduce."""
    sizes = {"cells": cells, "nodes": nodes, "channels": 4, "size": 8, "batch": 4}
    arguments = argparse.Namespace(**sizes, space=space)
    config = configuration(arguments)
    config.search.weights.clip = 1e9  # PyTorch divides by the norm + 1e-6 where it clips
    with jax.enable_x64(True):
        plain = PyTorch(arguments, config, "float64", torch.device("cpu"))
        return differences(Jax(arguments, config, "float64", plain), plain)


def peak_memory(arguments, device):
    """Bytes that the PyTorch program holds at most, state included.

    On a CPU the growth of the process' largest resident size: nothing larger may have run before.
    """

    def resident():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before = resident()
    PyTorch(arguments, configuration(arguments), arguments.dtype, device).run()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resident() - before


def in_turns(programs, repeats):
    """Seconds of every program's step, [repeats] each, one program after the other."""
    seconds = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            begun = time.perf_counter()
            program.run()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def main():
    """Compares, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("cells", 8), ("nodes", 4), ("channels", 16), ("size", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("batch", 16), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--space", default="darts", choices=SPACES)
    arguments = parser.parse_args()
    if arguments.size % 4:
        parser.error(f"--size is {arguments.size}; it must be a multiple of 4")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.dtype == "bfloat16" and device.type == "cpu":
        parser.error("--dtype bfloat16 is for a GPU that PyTorch sees, which there is not")
    torch.backends.cudnn.benchmark = True  # chooses the quickest convolutions in the first steps
    torch.backends.cudnn.allow_tf32 = False
    # JAX would take three quarters of a GPU's memory at once, and leave too little for PyTorch.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")

    load = os.getloadavg()[0]
    memory = peak_memory(arguments, device)
    small = small_differences(arguments.space)
    check(small, "float64")

    def pair(dtype):
        plain = PyTorch(arguments, configuration(arguments), dtype, device)
        return {"jax": Jax(arguments, configuration(arguments), dtype, plain), "pytorch": plain}

    programs = pair("float32")
    large = differences(programs["jax"], programs["pytorch"])
    check(large, "float32")
    if arguments.dtype != "float32":
        programs = pair(arguments.dtype)
    programs["jax_exact_gradient"] = Jax(
        arguments, configuration(arguments, "full"), arguments.dtype, programs["pytorch"]
    )
    in_turns(programs, 1)
    seconds = in_turns(programs, arguments.repeats)

    details = {
        "pytorch": {"memory_mb": round(memory / 1e6)},
        "jax": programs["jax"].compiling,
        "jax_exact_gradient": programs["jax_exact_gradient"].compiling,
    }
    medians = {name: statistics.median(column) for name, column in seconds.items()}
    ratios = [theirs / ours for theirs, ours in zip(seconds["pytorch"], seconds["jax"])]
    result = {
        "benchmark": "pytorch_step",
        **vars(arguments),
        "difference_small_float64": small,
        "difference_float32": large,
    }
    for name, column in seconds.items():
        spread = [round(pick(column), 4) for pick in (min, max)]
        result[name] = {"step_s": round(medians[name], 4), "spread_s": spread} | details[name]
    result |= {
        "ratio": round(medians["pytorch"] / medians["jax"], 2),
        "ratio_spread": [round(pick(ratios), 2) for pick in (min, max)],
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} core(s)",
        "load_before": round(load, 1),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "torch": torch.__version__,
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
