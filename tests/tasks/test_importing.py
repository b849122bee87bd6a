"""Import of the authors' weights, and parity with their PyTorch program."""

import itertools
import json
import os
import re
import shlex
import tempfile
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from authors import GENES, TEXT, reference
from flax import nnx
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ddarts_jax as dd
from ddarts_jax import configuration, main
from ddarts_jax.errors import UserError
from ddarts_jax.genotypes.genotype import Genotype, edges, existing_nodes
from ddarts_jax.genotypes.handcrafted import AUTHORS
from ddarts_jax.genotypes.lookup import parse_genotype
from ddarts_jax.genotypes.spaces import DARTOPTI_PRIMITIVES
from ddarts_jax.models import network, supernet, weights
from ddarts_jax.models.classification import cross_entropy
from ddarts_jax.models.cost import cost
from ddarts_jax.runs.run import read_run
from ddarts_jax.searching.contributions import ablated_losses
from ddarts_jax.tasks.export import trained_run
from ddarts_jax.tasks.importing import load_torch, read_tensors, run

# The authors' state dicts, made of random numbers together with what our trees must hold.
# Their modules are `nn.Sequential`, whose children are numbered: None is a layer without tensors, a
# number is BatchNorm of so many channels, a tuple the kernel of a convolution, OIHW. Behind it what
# the layer is in our module.


def depthwise(c, size, ours):
    return [
        (None, ""),
        ((c, 1, size, size), f"{ours}spatial"),
        ((c, c, 1, 1), f"{ours}pointwise"),
        (c, f"{ours}norm"),
    ]


def convolutions(*parts):
    """ReLU, then for each of (shape, part) a convolution and BatchNorm."""
    pairs = [((shape, f"{ours}kernel"), (shape[0], f"{ours}norm")) for shape, ours in parts]
    return [(None, ""), *itertools.chain(*pairs)]


def primitive(name, c, stride):
    """The authors' prefix of the Sequential, and its layers."""
    size = int(name[-1]) if name[-1].isdigit() else 0
    match name:
        case "max_pool_3x3" | "avg_pool_3x3":
            return "", [(None, ""), (c, "norm")]
        case "skip_connect":
            return "", []
        case "sep_conv_3x3" | "sep_conv_5x5":
            return "op.", depthwise(c, size, "first/") + depthwise(c, size, "second/")
        case "dil_conv_3x3" | "dil_conv_5x5":
            return "op.", depthwise(c, size, "")
        case "simple_conv_1x1" | "simple_conv_3x3":
            return "op.", convolutions(((c, c, size, size), ""))
        case "conv_3x1_1x3" | "conv_7x1_1x7":
            row, column = ((c, c, 1, size), "row"), ((c, c, size, 1), "column")
            return "op." if size == 3 else "", [(None, ""), row, column, (c, "norm")]
        case "bottleneck_1x3x1":
            wide, narrow = (4 * c, c, 1, 1), (c, 4 * c, 1, 1)
            layers = convolutions(
                ((c, c, 1, 1), "reduce/"), ((c, c, 3, 3), "spatial/"), (wide, "expand/")
            )
            return "op.", layers + convolutions((narrow, "project/"))


class Authors:
    """A state dict of theirs, and the same numbers by the paths of our trees."""

    def __init__(self, affine, dtype=np.float32):
        self.rng, self.affine, self.dtype = np.random.default_rng(0), affine, dtype
        self.state, self.ours = {}, {}

    def tensor(self, name, path, shape):
        """Adds one tensor; an empty path: our network does not have it."""
        array = self.rng.normal(size=shape).astype(self.dtype)
        self.state[name] = array
        if path:
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
            self.ours.setdefault(path, []).append(array)

    def norm(self, name, path, channels, affine):
        """Adds a BatchNorm."""
        if affine:
            self.tensor(f"{name}.weight", path and f"weights/{path}/scale", (channels,))
            self.tensor(f"{name}.bias", path and f"weights/{path}/bias", (channels,))
        self.tensor(f"{name}.running_mean", path and f"statistics/{path}/mean", (channels,))
        self.tensor(f"{name}.running_var", path and f"statistics/{path}/var", (channels,))
        self.state[f"{name}.num_batches_tracked"] = np.int64(7)

    def sequential(self, name, path, layers, affine=None):
        """Adds the layers of an `nn.Sequential`."""
        affine = self.affine if affine is None else affine
        for number, (layer, part) in enumerate(layers):
            part = path and f"{path}/{part}"
            if isinstance(layer, tuple):
                self.tensor(f"{name}{number}.weight", path and f"weights/{part}", layer)
            elif layer:
                self.norm(f"{name}{number}", part, layer, affine)

    def primitive(self, name, path, primitive_name, c, stride):
        """Adds a primitive; pools of derived networks have no BatchNorm."""
        if primitive_name == "skip_connect" and stride == 2:
            self.reduce(name, path, c, c)
        elif not (self.affine and "pool" in primitive_name):
            prefix, layers = primitive(primitive_name, c, stride)
            self.sequential(name + prefix, path, layers)

    def reduce(self, name, path, cin, cout):
        """Adds a factorized reduce."""
        self.tensor(f"{name}conv_1.weight", f"weights/{path}/even", (cout // 2, cin, 1, 1))
        self.tensor(f"{name}conv_2.weight", f"weights/{path}/odd", (cout // 2, cin, 1, 1))
        self.norm(f"{name}bn", f"{path}/norm", cout, self.affine)

    def linear(self, name, path, cin, cout):
        """Adds a classifier."""
        self.tensor(f"{name}.weight", f"weights/{path}/classifier/kernel", (cout, cin))
        self.tensor(f"{name}.bias", f"weights/{path}/classifier/bias", (cout,))

    def large_stem(self, c, image_channels):
        """Adds the two stems of the network for large images."""
        layers = [((c // 2, image_channels, 3, 3), "first/kernel"), (c // 2, "first/norm")]
        layers += [(None, ""), ((c, c // 2, 3, 3), "second/kernel"), (c, "second/norm")]
        self.sequential("stem0.", "stem", layers)
        self.sequential("stem1.", "second_stem", convolutions(((c, c, 3, 3), "")))

    def stem(self, c, image_channels):
        """Adds the stem."""
        layers = [((3 * c, image_channels, 3, 3), "kernel"), (3 * c, "norm")]
        self.sequential("stem.", "stem", layers, affine=True)

    def preprocess(self, position, cin, c, reduction_before):
        """Adds the layers that read the two cells before."""
        for number in range(2):
            name = f"cells.{position}.preprocess{number}."
            path = name.replace(".", "/")[:-1]
            if reduction_before and number == 0:
                self.reduce(name, path, cin[0], c)
            else:
                self.sequential(f"{name}op.", path, convolutions(((c, cin[number], 1, 1), "")))

    def expected(self):
        """What our trees must hold, edges stacked."""
        return {k: np.stack(v) if "/mixed/" in k else v[0] for k, v in self.ours.items()}

    def save(self, path, prefix="", **extra):
        """Writes the state dict, and extra arrays, as an `.npz`."""
        np.savez(path, **{prefix + name: array for name, array in self.state.items()}, **extra)
        return path


CELL = (
    ("conv_3x1_1x3", 2, 0),
    ("skip_connect", 2, 0),
    ("conv_7x1_1x7", 2, 0),
    ("max_pool_3x3", 2, 1),
    ("sep_conv_3x3", 3, 2),
    ("simple_conv_1x1", 3, 1),
    ("sep_conv_5x5", 3, 1),
    ("simple_conv_3x3", 4, 3),
    ("avg_pool_3x3", 4, 0),
    ("dil_conv_3x3", 4, 0),
    ("dil_conv_5x5", 4, 1),
    ("simple_conv_1x1", 6, 5),  # reads a node that does not exist
    ("simple_conv_3x3", 6, 5),
    ("bottleneck_1x3x1", 6, 4),
)
GENOTYPE = Genotype([CELL], (1,), range(2, 7), seq=(0, 0, 0))
NUM_CLASSES, IMAGE_CHANNELS = 5, 1


def derived(auxiliary=True, dtype=np.float32, genotype=GENOTYPE, large=False):
    """The authors' network of a genotype, with 2 channels."""
    authors, c = Authors(affine=True, dtype=dtype), 2
    if large:
        authors.large_stem(c, IMAGE_CHANNELS)
    else:
        authors.stem(c, IMAGE_CHANNELS)
    cin = [c, c] if large else [3 * c, 3 * c]
    for position, cell in enumerate(genotype.cells):
        reduction = position in genotype.reductions
        c *= 2 if reduction else 1
        halved = position - 1 in genotype.reductions or (position == 0 and large)
        authors.preprocess(position, cin, c, halved)
        count = {}
        for name, node, source in cell:
            k = count[node, source] = count.get((node, source), -1) + 1
            exists = source in existing_nodes(cell)
            path = f"cells/{position}/operations/{source}_to_{node}_{name}" if exists else ""
            stride = 2 if reduction and source < 2 else 1
            authors.primitive(f"cells.{position}._ops.{node}.{source}.{k}.", path, name, c, stride)
        cin = [cin[1], (len(existing_nodes(cell)) - 2) * c]
        if position == max(genotype.reductions) and auxiliary:
            layers = [
                (None, ""),
                (None, ""),
                ((128, cin[1], 1, 1), "project"),
                (128, "project_norm"),
            ]
            layers += [(None, ""), ((768, 128, 2, 2), "expand/kernel"), (768, "expand/norm")]
            authors.sequential("auxiliary_head.features.", "auxiliary", layers)
            authors.linear("auxiliary_head.classifier", "auxiliary/head", 768, NUM_CLASSES)
    authors.linear("classifier", "head", cin[1], NUM_CLASSES)
    return authors


def searched():
    """A supernet of theirs in the space of 12 primitives: 3 cells of 2 nodes, 2 channels."""
    authors, c = Authors(affine=False), 2
    authors.stem(c, IMAGE_CHANNELS)
    cin = [3 * c, 3 * c]
    for position in range(3):
        c *= 2 if position in (1, 2) else 1
        authors.preprocess(position, cin, c, position == 2)
        for edge, (source, _) in enumerate(edges(2)):
            stride = 2 if position in (1, 2) and source < 2 else 1
            stack = "strided" if stride == 2 else "plain"
            for o, name in enumerate(DARTOPTI_PRIMITIVES):
                path = f"cells/{position}/{stack}/mixed/candidates/{name}"
                authors.primitive(f"cells.{position}._ops.{edge}._ops.{o}.", path, name, c, stride)
        cin = [cin[1], 2 * c]
    authors.linear("classifier", "head", cin[1], NUM_CLASSES)
    return authors


def named(variables):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


def assert_holds(imported, authors):
    """Every array of ours is the authors' and every tensor of theirs is used or named."""
    found, expected = named(imported.variables), authors.expected()
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path, strict=True)
    assert sorted([*imported.used, *imported.unused]) == sorted(authors.state)
    sizes = imported.channels, imported.num_classes, imported.image_channels
    assert sizes == (2, NUM_CLASSES, IMAGE_CHANNELS)


@pytest.mark.parametrize(
    ("auxiliary", "dtype", "large"),
    [(True, np.float32, False), (False, np.float64, False), (True, np.float32, True)],
)
def test_derived_network_holds_every_tensor(tmp_path, auxiliary, dtype, large):
    """All 12 primitives, several on an edge, a node that does not exist, auxiliary head, both stems."""
    authors = derived(auxiliary, dtype, large=large)
    with jax.enable_x64(dtype == np.float64):
        imported = load_torch(authors.save(tmp_path / "x.npz"), GENOTYPE)
        assert_holds(imported, authors)
    assert (imported.auxiliary, imported.stem) == (auxiliary, "strided" if large else "plain")
    unused = [name for name in imported.unused if not name.endswith("num_batches_tracked")]
    assert {re.match(r"cells\.\d\._ops\.6\.5\.[01]\.op\.", name) is None for name in unused} == {
        False
    }
    assert len(unused) == 3 * 2 * 5


def test_supernet_holds_every_tensor(tmp_path):
    """All 12 primitives, both strides; without a genotype cells are counted and distinct."""
    authors = searched()
    path = authors.save(tmp_path / "x.npz", prefix="state/", alphas=np.zeros(3))
    imported = load_torch(path, None)
    assert_holds(imported, authors)
    assert imported.net.seq == (0, 1, 2)
    assert imported.net.reductions == (1, 2)
    assert imported.net.alphas_shape == (3, 5, 12)
    assert all(name.endswith("num_batches_tracked") for name in imported.unused)


def test_supernet_shares_alphas_as_its_genotype(tmp_path):
    """A genotype gives `seq`; candidates in another order do not fit its weights."""
    path = searched().save(tmp_path / "x.npz")
    shared = Genotype([GENES[0], GENES[1]], (1, 2), (2, 3), seq=(0, 1, 1))
    assert load_torch(path, shared).net.alphas_shape == (2, 5, 12)
    with pytest.raises(UserError, match=r"cells\.0\._ops\.0\._ops\.\d\.op"):
        load_torch(path, shared, primitives=DARTOPTI_PRIMITIVES[::-1])


def test_extra_tensors_are_named(tmp_path):
    """A tensor that our network has no place for is in `unused`, whatever it is."""
    path = derived().save(tmp_path / "x.npz", optimizer=np.array(["lr"]), cells=np.zeros(2))
    assert {"optimizer", "cells"} <= set(load_torch(path, GENOTYPE).unused)


@pytest.mark.parametrize(
    "name",
    [
        "stem.0.weight",
        "stem.1.running_var",
        "classifier.bias",
        "cells.0.preprocess1.op.1.weight",
        "cells.2.preprocess0.bn.running_mean",
        "cells.1._ops.2.0.1.conv_2.weight",
        "cells.1._ops.2.0.2.3.bias",
        "cells.2._ops.6.4.0.op.8.weight",
        "auxiliary_head.features.6.weight",
    ],
)
def test_missing_or_wrong_tensor_is_refused(tmp_path, name):
    """The message names the tensor; for a wrong shape also both shapes."""
    authors = derived()
    tensor = authors.state.pop(name)
    with pytest.raises(UserError, match=rf"x\.npz.*no tensor {re.escape(name)}\b"):
        load_torch(authors.save(tmp_path / "x.npz"), GENOTYPE)
    if name in ("stem.0.weight", "cells.0.preprocess1.op.1.weight"):
        return  # give the sizes that all others must have
    authors.state[name] = np.concatenate([tensor, tensor])
    both = f".*{re.escape(str(authors.state[name].shape))}.*{re.escape(str(tensor.shape))}"
    with pytest.raises(UserError, match=re.escape(name) + both):
        load_torch(authors.save(tmp_path / "x.npz"), GENOTYPE)
    authors.state[name] = tensor.astype(str)
    with pytest.raises(UserError, match=re.escape(name) + ".*floats"):
        load_torch(authors.save(tmp_path / "x.npz"), GENOTYPE)


def test_weights_of_another_genotype_are_refused(tmp_path):
    """Other reductions, another number of cells, other primitives, none at all."""
    path = derived().save(tmp_path / "x.npz")
    cell = (("simple_conv_3x3", 2, 0), *CELL[1:])
    for genotype, message in [
        (Genotype([CELL], (2,), (2,), (0, 0, 0)), r"reductions=\[1\].*reductions=\[2\]"),
        (Genotype([CELL], (1,), (2,), (0, 0)), "3 cells.*2 cells"),
        (
            Genotype([cell], (1,), (2,), (0, 0, 0)),
            r"cells\.0\._ops\.2\.0\.0\.op\.1.*\(2, 2, 3, 3\)",
        ),
        (None, "genotype must be given"),
    ]:
        with pytest.raises(UserError, match=message):
            load_torch(path, genotype)


def broken(change, genotype=GENOTYPE, make=derived):
    return pytest.param(change, genotype, make, id=change.__name__)


def odd_stem(state):
    """No multiple of three."""
    state["stem.0.weight"] = state["stem.0.weight"][:5]


def odd_width(state):
    """A cell that is neither normal nor a reduction."""
    name = "cells.1.preprocess1.op.1.weight"
    state[name] = state[name][:3]


def scalar(state):
    """A size that is none."""
    state["classifier.weight"] = np.float32(1)


def other_order(state):
    """Nodes listed, and so concatenated, in another order than ours."""
    late = {name: state.pop(name) for name in list(state) if name.startswith("cells.1._ops.2.")}
    state.update(late)


def fourth_edge(state):
    """No number of nodes has four edges."""
    for name in [name for name in state if name.startswith("cells.0._ops.4.")]:
        del state[name]


def thirteenth_primitive(state):
    """In none of the two spaces."""
    state["cells.0._ops.0._ops.12.op.1.weight"] = np.zeros((2, 2, 1, 1))


def billionth_edge(state):
    """A name must not ask for memory."""
    state["cells.0._ops.9999._ops.0.op.1.weight"] = np.zeros(1)


@pytest.mark.parametrize(
    ("change", "genotype", "make"),
    [
        broken(odd_stem),
        broken(odd_width),
        broken(scalar),
        broken(other_order),
        broken(fourth_edge, None, searched),
        broken(thirteenth_primitive, None, searched),
        broken(billionth_edge, None, searched),
    ],
)
def test_state_of_another_network_is_refused(tmp_path, change, genotype, make):
    """One message that names the file."""
    authors = make()
    change(authors.state)
    with pytest.raises(UserError, match=r"x\.npz"):
        load_torch(authors.save(tmp_path / "x.npz"), genotype)


# Files.


def test_names_are_stripped_of_their_prefixes(tmp_path):
    """`state/` sets the state dict apart from what else an `.npz` holds; `module.` is DataParallel's."""
    path = tmp_path / "x.npz"
    np.savez(
        path, **{"state/a": np.arange(2), "state/b": np.ones(1, np.float64), "input": np.ones(3)}
    )
    tensors = read_tensors(path)
    assert tensors.keys() == {"a", "b"} and tensors["b"].dtype == np.float64
    np.testing.assert_array_equal(tensors["a"], [0, 1])
    np.savez(path, **{"module.a": np.arange(2), "module.b": np.ones(1)})
    assert read_tensors(path).keys() == {"a", "b"}
    np.savez(path, **{"module.a": np.arange(2), "b": np.ones(1)})
    assert read_tensors(path).keys() == {"module.a", "b"}


def test_pickled_arrays_are_not_run(tmp_path):
    """An `.npz` of Python objects would run code when it is read."""

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    np.savez(tmp_path / "x.npz", a=np.array([Trap()], object))
    with pytest.raises(UserError, match=r"x\.npz"):
        read_tensors(tmp_path / "x.npz")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("name", ["absent.npz", "absent.pth.tar", "", "/dev/zero"])
def test_missing_file_is_refused(tmp_path, name):
    """Also a folder and a device, which has no end."""
    with pytest.raises(UserError, match="does not exist or is not a regular file"):
        read_tensors(tmp_path / name)


def small_npz():
    with tempfile.TemporaryFile() as file:
        np.savez(file, **{"stem.0.weight": np.ones((3, 1, 3, 3), np.float32), "b": np.zeros(2)})
        file.seek(0)
        return file.read()


NPZ = small_npz()


@given(
    st.one_of(
        st.binary(max_size=80),
        st.integers(0, len(NPZ)).map(lambda end: NPZ[:end]),
        st.tuples(st.integers(0, len(NPZ) - 1), st.binary(min_size=1, max_size=8)).map(
            lambda cut: NPZ[: cut[0]] + cut[1] + NPZ[cut[0] + len(cut[1]) :]
        ),
    ),
    st.sampled_from(["x.npz", "x.pth.tar"]),
)
@example(NPZ, "x.npz")
@settings(max_examples=200, deadline=None)
def test_any_file_gives_tensors_or_a_message(content, name):
    """Random bytes, a truncated file and a corrupt one never raise anything else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            tensors = read_tensors(path)
            assert all(isinstance(array, np.ndarray) for array in tensors.values())
            load_torch(path, None)
        except UserError as error:
            assert name in str(error)


def test_checkpoint_without_torch_is_refused(tmp_path, monkeypatch):
    """The message says how to install it, and how to do without."""
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "x.pth.tar").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"pip install 'ddarts_jax\[torch\]'.*\.npz"):
        read_tensors(tmp_path / "x.pth.tar")


@pytest.mark.parametrize("wrap", [dict, lambda s: {"epoch": 3, "state_dict": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_checkpoint(tmp_path, wrap, prefix):
    """A state dict by itself or within the authors' dict, also of DataParallel."""
    torch = pytest.importorskip("torch")
    authors = derived()
    state = {prefix + name: torch.tensor(array) for name, array in authors.state.items()}
    path = tmp_path / "x.pth.tar"
    torch.save(wrap(state), path)
    assert_holds(load_torch(path, GENOTYPE), authors)


def test_broken_torch_checkpoint(tmp_path):
    """Code is never run, and what is no state dict is refused; bfloat16 becomes float32."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pth.tar"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    for content in ([Trap()], torch.ones(2), {"model": {"a": torch.ones(1)}}, {"state_dict": 3}):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"x\.pth\.tar"):
            read_tensors(path)
    assert not (tmp_path / "trapped").exists()
    torch.save({"a": torch.ones(2, dtype=torch.bfloat16, requires_grad=True)}, path)
    assert read_tensors(path)["a"].dtype == np.float32


# The task.


def import_config(**values):
    config = configuration.import_config()
    config.update(values)
    return config


def test_task_writes_what_other_tasks_read(tmp_path, capsys):
    """Genotype and weights as `train` and `evaluate` load them, and the command to do so."""
    authors = derived(auxiliary=False)
    checkpoint = authors.save(tmp_path / "x.npz")
    GENOTYPE.save(tmp_path / "x.json")
    workdir = tmp_path / "a run"
    workdir.mkdir()
    config = import_config(genotype=str(tmp_path / "x.json"), checkpoint=str(checkpoint))
    summary = run(config, workdir)

    genotype = Genotype.load(workdir / "genotype.json")
    assert genotype.genes == GENOTYPE.genes and genotype == GENOTYPE
    sizes = {"channels": 2, "num_classes": NUM_CLASSES, "image_channels": IMAGE_CHANNELS}
    _, zeros = network.build(genotype, **sizes, image_size=8, key=None)
    loaded = named(weights.load_network(workdir / "network.npz", zeros))
    for path, array in authors.expected().items():
        np.testing.assert_array_equal(loaded[path], array)

    assert summary == json.loads((workdir / "import.json").read_text())
    assert (summary["channels"], summary["num_classes"]) == (2, NUM_CLASSES)
    assert summary["params"] == cost(genotype, 2, NUM_CLASSES, 8, image_channels=1).params
    assert summary["used"] + len(summary["unused"]) == len(authors.state)
    printed = capsys.readouterr().out
    assert "unused: cells.0._ops.6.5.0.op.1.weight" in printed
    # The words are quoted: the folder has a space.
    words = shlex.split(printed.split("to evaluate it:\n")[1])
    for word in (f"{workdir}/config.json", f"--workdir={workdir}", "--config.task=evaluate"):
        assert word in words


def test_an_imported_network_is_a_run(tmp_path, capsys):
    """It is evaluated, which tells the facts that the file lacked; then all other tasks read it."""
    authors = derived(auxiliary=False)
    GENOTYPE.save(tmp_path / "x.json")
    workdir = tmp_path / "run"
    workdir.mkdir()
    run(
        import_config(
            genotype=str(tmp_path / "x.json"), checkpoint=str(authors.save(tmp_path / "x.npz"))
        ),
        workdir,
    )
    assert (workdir / "report.html").is_file()
    network = dd.load_network(workdir)
    assert network.mean is None and network.sizes["channels"] == 2
    assert network(np.zeros((1, 8, 8, IMAGE_CHANNELS), np.float32)).shape == (1, NUM_CLASSES)

    labels = np.arange(20 * NUM_CLASSES) % NUM_CLASSES
    images = np.random.default_rng(0).integers(
        0, 256, (len(labels), 8, 8, IMAGE_CHANNELS), np.uint8
    )
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    arguments = ["main", f"--config={workdir}/config.json", f"--workdir={workdir}"]
    arguments += ["--config.task=evaluate", f"--config.data.name=npz:{tmp_path}/data.npz"]
    assert main.main([*arguments, "--config.evaluate.batch_sizes=(1,)"]) == 0
    assert "test accuracy" in capsys.readouterr().out
    found = read_run(workdir)
    assert found.outcome("test_accuracy") == found.evaluation["accuracy"]
    assert found.data["class_names"] == [str(k) for k in range(NUM_CLASSES)]
    settings, genotype = trained_run.read(workdir)
    assert genotype == GENOTYPE and settings.train.channels == 2
    assert trained_run.load_data(settings.data, workdir).num_classes == NUM_CLASSES
    assert dd.load_network(workdir).mean is not None


def test_an_imported_network_of_the_api_is_saved_and_loaded(tmp_path):
    """What its file does not tell, the size of the images and their mean, stays open."""
    path = derived(auxiliary=False).save(tmp_path / "x.npz")
    network = dd.import_weights(path, GENOTYPE, class_names="abcdefghij"[:NUM_CLASSES])
    network.save(tmp_path / "saved")
    loaded = dd.load_network(tmp_path / "saved")
    assert loaded.class_names == network.class_names and loaded.sizes == network.sizes
    images = np.random.default_rng(0).random((2, 8, 8, IMAGE_CHANNELS), np.float32)
    np.testing.assert_array_equal(loaded(images), network(images))
    for each in (loaded, network):
        assert each(np.zeros((1, 16, 16, IMAGE_CHANNELS), np.float32)).shape == (1, NUM_CLASSES)
        with pytest.raises(UserError, match=rf"takes images \[n, H, W, {IMAGE_CHANNELS}\], not"):
            each(np.repeat(images, 2, -1))


def test_another_import_needs_another_workdir(tmp_path):
    """Evaluations of the first network would stay beside the second; the same may be repeated."""
    GENOTYPE.save(tmp_path / "genotype.json")
    authors = derived(auxiliary=False)
    genotype, workdir = str(tmp_path / "genotype.json"), tmp_path / "run"
    workdir.mkdir()
    for checkpoint in ("", authors.save(tmp_path / "x.npz"), tmp_path / "x.npz"):
        run(import_config(genotype=genotype, checkpoint=str(checkpoint)), workdir)
    before = (workdir / "network.npz").read_bytes()
    for checkpoint in ("", authors.save(tmp_path / "y.npz")):
        with pytest.raises(UserError, match=r"holds the import of .*x\.npz"):
            run(import_config(genotype=genotype, checkpoint=str(checkpoint)), workdir)
    assert (workdir / "network.npz").read_bytes() == before


def test_task_with_the_text_alone(tmp_path, capsys):
    """Without weights there is a genotype to train."""
    (tmp_path / "x.txt").write_text(TEXT)
    run(import_config(genotype=str(tmp_path / "x.txt")), tmp_path)
    assert Genotype.load(tmp_path / "genotype.json").genes == GENES
    assert not (tmp_path / "network.npz").exists()
    assert "--config.genotype=" in capsys.readouterr().out


def test_task_refuses_a_supernet(tmp_path):
    """No task continues with one, and nothing is written."""
    path = searched().save(tmp_path / "x.npz")
    Genotype([GENES[0]], (1, 2), (2, 3), seq=(0, 0, 0)).save(tmp_path / "x.json")
    workdir = tmp_path / "run"
    workdir.mkdir()
    with pytest.raises(UserError, match="supernet"):
        run(import_config(genotype=str(tmp_path / "x.json"), checkpoint=str(path)), workdir)
    assert not list(workdir.iterdir())


def test_config_file():
    """configs/import.py takes both names, and the positions of the reduction cells."""
    file = tiny.ROOT / "configs" / "import.py"
    flags = ["main", "--config", str(file), "--config.genotype=a", "--config.checkpoint=b"]
    config, _ = configuration.parse_flags(flags)
    assert (config.task, config.genotype, config.checkpoint) == ("import", "a", "b")
    assert config.reductions == ()
    config, _ = configuration.parse_flags([*flags, "--config.reductions=2,5"])
    assert config.reductions == (2, 5)


EIGHT = f"Genotype_nested(genes={[list(GENES[0])] * 8}, concat=range(2, 6), reductions=[2, 6])"


def test_the_reductions_of_the_authors_files_are_in_doubt(tmp_path, caplog):
    """One sentence that says what to do, and no other import says it."""
    (tmp_path / "x.txt").write_text(EIGHT)
    run(import_config(genotype=str(tmp_path / "x.txt")), tmp_path)
    (warning,) = caplog.messages
    assert f"{tmp_path}/x.txt says reductions=[2, 6]" in warning
    assert "--config.reductions=2,5" in warning and len(warning.splitlines()) == 1
    assert Genotype.load(tmp_path / "genotype.json").reductions == (2, 6)
    caplog.clear()

    run(import_config(genotype=str(tmp_path / "x.txt"), reductions=(2, 5)), tmp_path)
    assert Genotype.load(tmp_path / "genotype.json").reductions == (2, 5)
    Genotype(GENES[:1] * 8, (2, 6), (2,)).save(tmp_path / "x.json")
    run(import_config(genotype=str(tmp_path / "x.json")), tmp_path)
    for other in (EIGHT.replace("[2, 6]", "[2, 5]"), TEXT):
        (tmp_path / "x.txt").write_text(other)
        run(import_config(genotype=str(tmp_path / "x.txt")), tmp_path)
    assert not caplog.messages


@pytest.mark.parametrize("reductions", [("a",), ("",), (2, 8), (-1,), (2, 2), (2.5,)])
def test_reductions_that_the_genotype_cannot_have(tmp_path, reductions):
    """The message names the key, its value and the cells that there are; nothing is written."""
    (tmp_path / "x.txt").write_text(EIGHT)
    workdir = tmp_path / "run"
    workdir.mkdir()
    config = import_config(genotype=str(tmp_path / "x.txt"), reductions=reductions)
    with pytest.raises(UserError, match=r"config\.reductions is .* cells 0 to 7: reductions"):
        run(config, workdir)
    assert not list(workdir.iterdir())


def test_reductions_that_the_weights_do_not_have(tmp_path):
    """Weights say by their shapes where the channels double."""
    path = derived().save(tmp_path / "x.npz")
    GENOTYPE.save(tmp_path / "x.json")
    config = import_config(genotype=str(tmp_path / "x.json"), checkpoint=str(path), reductions=(2,))
    with pytest.raises(UserError, match=r"reductions=\[1\].*reductions=\[2\]"):
        run(config, tmp_path)


@pytest.mark.parametrize(
    ("name", "as_written", "as_searched"),
    [
        ("D-DARTS_threshold_sparse_cifar10_0.85_50", 1_244_242, 1_604_602),  # DD-1: 1.7 M
        (
            "D-DARTS_threshold_edge_abl0.5_fair7_cifar100_0.85_50",
            2_905_030,
            3_880_342,
        ),  # DD-4: 3.9 M
    ],
)
def test_the_reductions_of_the_search_give_the_papers_parameters(
    tmp_path, name, as_written, as_searched
):
    """The counts are those of the authors' program with either pair of positions."""
    path = reference(Path("genotypes") / f"{name}.txt")
    for reductions, params in (((), as_written), ((2, 5), as_searched)):
        run(import_config(genotype=str(path), reductions=reductions), tmp_path)
        genotype = Genotype.load(tmp_path / "genotype.json")
        assert cost(genotype, 36, 10, 32).params == params


# Networks for large images, against PyTorch by its functions alone.

STAGE = (("simple_conv_3x3", 2, 1), ("skip_connect", 3, 2), ("max_pool_3x3", 3, 0))
RESNET = Genotype([STAGE], (1, 2, 3), (2, 3), (0, 0, 0, 0))


def pytorch(state, images, stem):
    """Logits, and those of the auxiliary head, of `RESNET` as the authors' network has it.

    The head is evaluated as the rest is; in their program it only runs in training.
    """
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    state = {name: torch.tensor(array) for name, array in state.items()}

    def convolve(x, name, stride=1):
        kernel = state[f"{name}.weight"]
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(x, name):
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{name}.{part}"] for part in names))

    def relu_conv_norm(x, name, stride=1):
        return norm(convolve(functional.relu(x), f"{name}.op.1", stride), f"{name}.op.2")

    def reduce(x, name):
        x = functional.relu(x)
        parts = convolve(x, f"{name}.conv_1", 2), convolve(x[:, :, 1:, 1:], f"{name}.conv_2", 2)
        return norm(torch.cat(parts, 1), f"{name}.bn")

    def linear(x, name):
        return functional.linear(x.flatten(1), state[f"{name}.weight"], state[f"{name}.bias"])

    def cell(s0, s1, position):
        stride, name = 2 if position in RESNET.reductions else 1, f"cells.{position}"
        # Before cell 1 alone nothing has halved the size since the cell before the last.
        s0 = (relu_conv_norm if position == 1 else reduce)(s0, f"{name}.preprocess0")
        s1 = relu_conv_norm(s1, f"{name}.preprocess1")
        node = relu_conv_norm(s1, f"{name}._ops.2.1.0", stride)
        return torch.cat([node, node + functional.max_pool2d(s0, 3, stride, 1)], 1)

    x = norm(convolve(torch.tensor(images), "stem0.0", 2), "stem0.1")
    x = convolve(functional.relu(x), "stem0.3", 1 if stem == "half" else 2)
    s0 = norm(x, "stem0.4")
    s1 = norm(convolve(functional.relu(s0), "stem1.1", 2), "stem1.2")
    for position in range(RESNET.num_cells):
        s0, s1 = s1, cell(s0, s1, position)

    logits = linear(functional.avg_pool2d(s1, s1.shape[-1]), "classifier")
    pooled = functional.avg_pool2d(functional.relu(s1), 5, 2)
    head = norm(convolve(pooled, "auxiliary_head.features.2"), "auxiliary_head.features.3")
    kernel = state["auxiliary_head.features.5.weight"]
    head = norm(functional.conv2d(functional.relu(head), kernel), "auxiliary_head.features.6")
    return logits, linear(functional.relu(head), "auxiliary_head.classifier")


def tamed(authors):
    """The same with variances above 0 and kernels of the size of trained ones."""
    for name, array in authors.state.items():
        if name.endswith("running_var"):
            authors.state[name] = array**2 + 0.5
        elif array.ndim == 4:
            authors.state[name] = array * np.prod(array.shape[1:], dtype=array.dtype) ** -0.5
    return authors


@pytest.mark.parametrize(("stem", "size"), [("half", 224), ("strided", 448)])
def test_a_network_for_large_images_computes_what_pytorch_does(tmp_path, stem, size):
    """Of an image whose last features are the 7x7 that its auxiliary head was made for."""
    authors = tamed(derived(genotype=RESNET, large=True))
    images = np.random.default_rng(1).normal(size=(1, 1, size, size)).astype(np.float32)
    expected, expected_auxiliary = pytorch(authors.state, images, stem)
    imported = load_torch(authors.save(tmp_path / "x.npz"), RESNET, stem=stem)

    @jax.jit
    def run(variables, images):
        module = nnx.merge(imported.net.graph, *variables)
        (last,) = module.read(images, False, (3,))
        return last.shape, module.head(last, False), module.auxiliary(last, False)

    shape, found, auxiliary = run(imported.variables, images.transpose(0, 2, 3, 1))
    assert shape[1:3] == (7, 7)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(auxiliary, expected_auxiliary, rtol=0, atol=1e-4)


def test_the_stem_that_weights_do_not_tell(tmp_path, caplog):
    """It is assumed by the number of reduction cells, and said; a key says otherwise."""
    path = derived(genotype=RESNET, large=True).save(tmp_path / "x.npz")
    assert load_torch(path, RESNET).stem == "half"
    (warning,) = caplog.messages
    assert "With 3 reduction cells 'half'" in warning and "--config.stem=strided" in warning
    caplog.clear()
    assert load_torch(path, RESNET, stem="strided").stem == "strided"
    assert dd.import_weights(path, RESNET, stem="half").sizes["stem"] == "half"
    assert not caplog.messages
    small = derived().save(tmp_path / "small.npz")
    with pytest.raises(UserError, match="stem for small images, not 'half'"):
        load_torch(small, GENOTYPE, stem="half")


def test_a_run_of_a_network_for_large_images(tmp_path, capsys):
    """Its stem is in the config and the summary, so that the workdir's network is the imported one."""
    checkpoint = derived(genotype=RESNET, large=True).save(tmp_path / "x.npz")
    RESNET.save(tmp_path / "x.json")
    workdir = tmp_path / "run"
    workdir.mkdir()
    files = {"genotype": str(tmp_path / "x.json"), "checkpoint": str(checkpoint)}
    assert run(import_config(**files), workdir)["stem"] == "half"
    assert "stem 'half'" in capsys.readouterr().out
    settings, _ = trained_run.read(workdir)
    assert (settings.train.stem, settings.data.image_size, settings.data.stream) == (
        "half",
        224,
        True,
    )
    assert dd.load_network(workdir).sizes == dd.import_weights(checkpoint, RESNET).sizes


def test_a_supernet_for_large_images_is_refused(tmp_path):
    """Ours has no second stem."""
    authors = searched()
    authors.large_stem(2, IMAGE_CHANNELS)
    with pytest.raises(UserError, match="supernet for large images"):
        load_torch(authors.save(tmp_path / "x.npz"), None, stem="half")


# Parity with the authors' program, in which all this was computed.


def arrays_of(name):
    path = reference(name)
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files if not key.startswith("ce_grad_w/")}
    return path, arrays, json.loads(str(arrays["meta"]))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ["ddarts_sparse_c10_C16", "resnet18_sparse_c10_C8"])
def test_derived_network_computes_what_the_authors_does(name):
    """Logits, auxiliary ones and with drop path too: to 1e-9 in float64, 1e-4 in float32."""
    path, arrays, meta = arrays_of(f"forward_eval_{name}.npz")
    genotype = parse_genotype(meta["genotype"])
    imported = load_torch(path, genotype)
    assert (imported.channels, imported.auxiliary) == (meta["C"], meta["auxiliary"])
    assert all(name.endswith("num_batches_tracked") for name in imported.unused)
    net, _ = network.build(
        genotype,
        channels=meta["C"],
        num_classes=10,
        image_channels=3,
        image_size=32,
        auxiliary=meta["auxiliary"],
        key=None,
    )
    nodes = np.array(meta["droppath_nodes"])[:, 0].astype(int)
    masks = np.zeros((len(net.num_nodes), max(net.num_nodes), 4, 1, 1, 1))
    for cell in range(len(masks)):
        own = arrays["droppath_masks"][nodes == cell]
        masks[cell, : len(own)] = own.reshape(-1, 4, 1, 1, 1)

    def run(dtype):
        images = jnp.asarray(arrays["input"].transpose(0, 2, 3, 1), dtype)
        # Operation by operation: compiling whole networks takes longer.
        module = nnx.merge(net.graph, *imported.variables)
        names = ["eval", "train", "train_droppath0.2"]
        results = [module.run(images, False), module.run(images, True)]
        if dtype == "float64":
            results.append(module.run(images, True, jnp.asarray(masks / 0.8, dtype)))
        for name, (logits, auxiliary) in zip(names, results):
            yield f"logits_{name}", logits
            if auxiliary is not None:
                yield f"logits_aux_{name}", auxiliary

    for dtype, tolerance in [("float32", 1e-4), ("float64", 1e-9)]:
        with jax.enable_x64(dtype == "float64"):
            for key, logits in run(dtype):
                expected = arrays[f"{key}_f64"]
                np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance, err_msg=key)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("name", "genotype"),
    [
        # Two recorded steps of this network are in searching/methods/test_authors_program.py.
        pytest.param("layers5_C4", None, marks=pytest.mark.slow),
        ("ResNet18_C4", AUTHORS["ResNet18"]),
    ],
)
def test_supernet_computes_what_the_authors_does(tmp_path, name, genotype):
    """Logits, cross-entropy, gradient of the alphas, and every distinct cell made inactive."""
    path, arrays, meta = arrays_of(f"forward_supernet_{name}.npz")
    imported = load_torch(path, genotype)
    assert all(name.endswith("num_batches_tracked") for name in imported.unused)
    assert imported.net.seq == tuple(meta["seq"])
    assert imported.net.reductions == tuple(meta["reductions"])
    # Where cells share alphas the authors make only the first copy inactive, we all of them. So here
    # the copies have alphas of their own: the same numbers, and the gradient is the sum of both.
    count = len(arrays["alphas"])
    first = [meta["seq"].index(distinct) == i for i, distinct in enumerate(meta["seq"])]
    seq = tuple(d if own else d + count for d, own in zip(meta["seq"], first))
    net, _ = supernet.build(
        num_cells=len(seq),
        num_nodes=imported.net.num_nodes,
        channels=meta["C"],
        num_classes=10,
        image_channels=3,
        primitives=imported.net.primitives,
        reductions=meta["reductions"],
        seq=seq,
        key=None,
    )
    labels = arrays["target"]

    def forward(variables, alphas, images):
        gates = jax.nn.sigmoid(alphas)
        trained, outputs, statistics = supernet.forward(net, variables, gates, images, True)
        evaluated, _, _ = supernet.forward(net, variables, gates, images, False)
        return trained, evaluated, statistics, outputs

    @jax.jit
    def run(variables, alphas, table, images):
        def loss(alphas):
            trained, *others = forward(variables, alphas, images)
            return cross_entropy(trained, labels), (trained, *others)

        (value, (*computed, outputs)), gradient = jax.value_and_grad(loss, has_aux=True)(alphas)
        gates = jax.nn.sigmoid(alphas)
        inactive = ablated_losses(net, variables, gates, outputs, labels, table)[:count]
        return *computed, value, gradient[:count] + gradient[count:].sum(0), inactive

    def inputs(dtype):
        for key in ("alphas", "random_table"):
            yield jnp.asarray(np.concatenate([arrays[key]] * 2)[: len(set(seq))], dtype)
        yield jnp.asarray(arrays["input"].transpose(0, 2, 3, 1), dtype)

    expected = {key.removesuffix("_f64"): arrays[key] for key in arrays if key.endswith("_f64")}
    scale = np.abs(expected["logits_eval"]).max()  # its running statistics are far from the batch's
    with jax.enable_x64(True):
        trained, evaluated, statistics, loss, gradient, inactive = run(
            imported.variables, *inputs("float64")
        )
    np.testing.assert_allclose(trained, expected["logits_train"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(evaluated, expected["logits_eval"], rtol=0, atol=1e-9 * scale)
    np.testing.assert_allclose(loss, expected["ce_train"], rtol=1e-12)
    np.testing.assert_allclose(gradient, expected["ce_grad_alphas"], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(inactive, expected["ce_cell_inactive"], rtol=1e-10)
    np.testing.assert_allclose(loss - inactive, expected["marginal_contributions"], atol=1e-10)

    # The running statistics after one training step.
    prefix = "bn_after_one_train_forward/"
    after = {
        "state/" + k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)
    }
    np.savez(tmp_path / "x.npz", **{k: v for k, v in arrays.items() if k[:6] == "state/"} | after)
    moved = load_torch(tmp_path / "x.npz", genotype).variables.statistics
    chex.assert_trees_all_close(statistics, moved, rtol=1e-6, atol=1e-6)

    alphas, _, images = inputs("float32")
    trained, evaluated, *_ = jax.jit(forward)(imported.variables, alphas, images)
    assert trained.dtype == evaluated.dtype == np.float32
    np.testing.assert_allclose(trained, expected["logits_train"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(evaluated, expected["logits_eval"], rtol=0, atol=1e-4 * scale)
