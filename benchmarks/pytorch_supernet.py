"""A plain PyTorch supernet, as a user would write it, and its parameters as ours and back.

Channels first, one primitive after another. The parameters are named as in the authors' checkpoints, so
that the importer (`ddarts_jax.tasks.importing.load_torch`) reads them.
"""

import tempfile
from pathlib import Path

import harness
import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ddarts_jax.tasks.importing import load_torch


class Layers(nn.Module):
    """A sequence of layers."""

    def __init__(self, *layers):
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x):
        """Maps [B, C, H, W] to [B, C', H', W']."""
        return self.op(x)


def convolution(cin, cout, size, stride=1, dilation=1, groups=1):
    """Makes a convolution without bias that keeps the size at stride 1."""
    padding = dilation * (size // 2)
    return nn.Conv2d(cin, cout, size, stride, padding, dilation, groups, bias=False)


def norm(channels):
    """Makes BatchNorm as in a supernet: without scale and bias."""
    return nn.BatchNorm2d(channels, affine=False)


def conv_bn(cin, cout, size, stride=1):
    """Makes ReLU, convolution and BatchNorm."""
    return nn.ReLU(), convolution(cin, cout, size, stride), norm(cout)


def separable(channels, size, stride, dilation=1):
    """Makes ReLU, depthwise convolution, 1x1 convolution and BatchNorm."""
    spatial = convolution(channels, channels, size, stride, dilation, groups=channels)
    return nn.ReLU(), spatial, convolution(channels, channels, 1), norm(channels)


def row_column(channels, size, stride):
    """Makes ReLU, 1 x size convolution, size x 1 convolution and BatchNorm."""
    middle = size // 2
    row = nn.Conv2d(channels, channels, (1, size), (1, stride), (0, middle), bias=False)
    column = nn.Conv2d(channels, channels, (size, 1), (stride, 1), (middle, 0), bias=False)
    return nn.ReLU(), row, column, norm(channels)


class FactorizedReduce(nn.Module):
    """ReLU, two strided 1x1 convolutions (even pixels, odd pixels), BatchNorm."""

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
    """Makes the module of a candidate primitive."""
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
        """Returns what replaces the cell's output in the network without it: zeros."""
        batch, _, height, width = s1.shape
        channels = self.num_nodes * self.channels
        return s1.new_zeros(batch, channels, height // self.stride, width // self.stride)


class Supernet(nn.Module):
    """The supernet for small images."""

    def __init__(
        self,
        names,
        num_cells,
        num_nodes,
        channels,
        *,
        image_channels=3,
        num_classes=harness.NUM_CLASSES,
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
        """Maps images [B, C, H, W] to logits; `without` is the position of a cell to remove."""
        s0 = s1 = self.stem(images)
        for position, cell in enumerate(self.cells):
            absent = position == without
            output = cell.removed(s1) if absent else cell(s0, s1, gates[position])
            s0, s1 = s1, output
        return self.classifier(s1.mean(dim=(2, 3)))


def as_variables(tensors):
    """Converts the state dict of a `Supernet` to our variables."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "supernet.pt"
        torch.save(tensors, path)
        return load_torch(path, None).variables


def fill(net: Supernet, variables):
    """Gives a `Supernet` the weights and statistics of our variables.

    To find the place of each number, the entries of the state dict are numbered and imported.
    """
    tensors = {k: v for k, v in net.state_dict().items() if v.is_floating_point()}
    sizes = [tensor.numel() for tensor in tensors.values()]
    assert sum(sizes) < 2**24  # float32 holds larger whole numbers inexactly
    places = torch.arange(sum(sizes), dtype=torch.float32).split(sizes)
    counted = {k: p.reshape(t.shape) for (k, t), p in zip(tensors.items(), places)}
    numbers = np.zeros(sum(sizes), np.float32)
    for place, leaf in zip(jax.tree.leaves(as_variables(counted)), jax.tree.leaves(variables)):
        numbers[np.asarray(place, np.int64).ravel()] = np.asarray(leaf, np.float32).ravel()
    parts = torch.tensor(numbers).split(sizes)
    filled = {k: p.reshape(t.shape) for (k, t), p in zip(tensors.items(), parts)}
    net.load_state_dict(filled, strict=False)
