"""The configuration: defaults are valid, and every mistake is named in a sentence."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from ddarts_jax import configuration as config_lib
from ddarts_jax.configuration import (
    default_config,
    differences,
    flatten,
    keys,
    nearest_key,
    parse_flags,
    validate,
)
from ddarts_jax.errors import UserError

FILE = """
from ddarts_jax.configuration import default_config

def get_config():
    config = default_config()
    config.search.epochs = 5
    config.search.ddarts.zero_one_weight = 3  # an int for a float
    return config
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(FILE)
    return str(path)


def parse(config_file, *arguments):
    return parse_flags(["main.py", "--config", config_file, *arguments])


def test_the_defaults_are_valid_and_locked():
    """A misspelt key in a config file is an error; the defaults pass their own checks."""
    config = default_config()
    validate(config)
    with pytest.raises(AttributeError):
        config.search.epoch = 3


def test_file_overrides_and_workdir_are_read(config_file):
    """Every kind of value can be set in each way that flags are written."""
    config, workdir = parse(
        config_file,
        "--config.search.num_cells=2",
        "--config.data.name",
        "folder:/some where",
        "--config.search.ddarts.ablation.weight=0",
        "--config.search.alphas.cell_learning_rates=(0.003, 0)",
        "--config.search.augment.flip=false",
        "--workdir=runs/a",
        "--config.seed",
        "7",
    )
    assert workdir == "runs/a"
    assert config.search.epochs == 5 and config.seed == 7
    assert config.search.ddarts.zero_one_weight == 3.0
    assert config.search.ddarts.ablation.weight == 0.0
    assert config.search.alphas.cell_learning_rates == (0.003, 0)
    assert config.search.augment.flip is False
    assert config.data.name == "folder:/some where"
    assert config.is_locked and config.search.is_locked
    default = parse(config_file)[1]
    assert re.fullmatch(rf"runs/{Path(config_file).stem}-\d{{8}}-\d{{6}}-[0-9a-f]{{6}}", default)


@pytest.mark.parametrize(
    "argument, parts",
    [
        ("--config.serach.epochs=3", ["'serach.epochs'", "'search.epochs'"]),
        ("--config.search.epoch=3", ["'search.epoch'", "'search.epochs'"]),
        ("--config.search.ddarts.ablation.wieght=3", ["'search.ddarts.ablation.weight'"]),
        ("--config.threshold=0.5", ["'parse.threshold'"]),
        ("--config.data.name.x=3", ["'data.name'"]),
        ("--config.serach=3", ["'search'"]),
        ("--config.search={}", ["group", "search.epochs"]),
        ("--conifg.search.epochs=3", ["--conifg.search.epochs", "--config.key=value"]),
        ("--workdri=x", ["--workdri"]),
        ("surplus", ["surplus"]),
        ("--config.search.epochs=abc", ["config.search.epochs", "abc"]),
        ("--config.search.epochs=1.5", ["config.search.epochs", "1.5"]),
        ("--config.search.epochs", ["config.search.epochs"]),
        ("--config.search.augment.flip=perhaps", ["config.search.augment.flip", "perhaps"]),
        ("--config.search.alphas.cell_learning_rates=(1,", ["(1,"]),
        ("--config.search.alphas.cell_learning_rates=abc", ["cell_learning_rates", "abc"]),
        ("--config.search.epochs=0", ["config.search.epochs is 0"]),
        ("--config.parse.threshold=1.1", ["config.parse.threshold is 1.1", "from 0 to 1"]),
        ("--config.task=find", ["config.task is 'find'", "'pipeline', 'search'"]),
    ],
)
def test_a_wrong_argument_is_named(config_file, argument, parts):
    """The message holds what was wrong and what would be right."""
    with pytest.raises(UserError) as error:
        parse(config_file, argument)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "text, parts",
    [
        (None, ["No config file"]),
        ("x = 1", ["get_config()"]),
        ("def get_config(): pass", ["get_config()", "default_config()"]),
        ("from ml_collections import ConfigDict\nget_config = ConfigDict", ["default_config()"]),
        ("def get_config(:\n", ["line 1", "SyntaxError"]),
        ("\nimport nowhere_to_be_found\n", ["line 2", "nowhere_to_be_found"]),
        ("\ndef get_config():\n  return {}['get_config']\n", ["line 3", "KeyError"]),
        (FILE.replace("epochs", "epoch"), ["line 6", "AttributeError", "epoch"]),
        (FILE.replace("= 5", "= 'five'"), ["line 6", "TypeError"]),
        (FILE.replace("= 5", "= -5"), ["config.search.epochs is -5"]),
    ],
)
def test_a_wrong_config_file_is_named(tmp_path, text, parts):
    """A missing or failing config file gives one sentence with the line, not a traceback."""
    path = tmp_path / "config.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        parse(str(path))
    for part in [*parts, "epochs" if "epochs is" in parts[0] else str(path)]:
        assert part in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "key, value",
    [
        ("task", "Search"),
        ("seed", -1),
        ("seed", 2**32),
        ("dtype", "float16"),
        ("data.batch_size", 0),
        ("data.image_size", -1),
        ("data.test_fraction", 0.0),
        ("data.test_fraction", 1.0),
        ("search.epochs", 0),
        ("search.num_cells", 0),
        ("search.num_nodes", 0),
        ("search.channels", -16),
        ("search.unroll", 0),
        ("search.ddarts.ablation.weight", -0.5),
        ("search.ddarts.ablation.weight", float("nan")),
        ("search.ddarts.ablation.gradient", "half"),
        ("search.ddarts.ablation.removal", "one"),
        ("search.ddarts.zero_one_weight", float("inf")),
        ("search.alphas.learning_rate", -1e-3),
        ("search.alphas.b2", 1.0),
        ("search.alphas.cell_learning_rates", (0.1,) * 7 + (-0.1,)),
        ("search.alphas.cell_learning_rates", (0.1,) * 7 + ("a",)),
        ("search.weights.clip", -1.0),
        ("search.weights.momentum", 1.0),
        ("search.augment.cutout", -1),
        ("search.augment.hue", -0.1),
        ("train.augment.hue", 0.51),
        ("train.schedule", "step"),
        ("train.decay", 0.0),
        ("train.decay", 1.01),
        ("parse.method", "dense"),
        ("parse.threshold", -0.1),
        ("train.num_cells", -1),
        ("train.drop_path", 1.0),
        ("train.auxiliary_weight", -1.0),
        ("chunk_steps", 0),
        ("checkpoint.every_minutes", -1.0),
        ("checkpoint.keep_last", 0),
    ],
)
def test_a_value_out_of_range_is_named(key, value):
    """Every range and choice is checked before anything starts; the message names key and value."""
    config = default_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"config.{key}"):
        validate(config)


def test_a_supernet_has_no_half_stem():
    """The message says why, and that of a network may be one."""
    config = default_config()
    config.train.stem = "half"
    validate(config)
    config.search.stem = "half"
    with pytest.raises(
        UserError, match=r"search\.stem is 'half'.*\('plain', 'strided'\): a supernet"
    ):
        validate(config)


def test_a_stem_is_imported_with_weights_alone():
    """A genotype has none."""
    config = config_lib.import_config()
    config.update(genotype="ResNet18", checkpoint="x.npz", stem="half")
    validate(config)
    config.checkpoint = ""
    with pytest.raises(UserError, match=r"config\.stem is 'half': without weights"):
        validate(config)


@pytest.mark.parametrize(
    "values, parts",
    [
        (
            {"search.method": "random", "search.start.genotype": "ResNet18"},
            ["starts from nothing"],
        ),
        (
            {"search.method": "random", "search.alphas.cell_learning_rates": (0.1,)},
            ["does not train a supernet"],
        ),
        (
            {"search.start.genotype": "ResNet18", "search.ddarts.share_cells": True},
            ["share_cells=False"],
        ),
        (
            {"search.ddarts.zero_one_weight": 1.0, "search.method": "fairdarts"},
            ["which does not use it", "leave it at 7.0"],
        ),
        ({"search.random.candidates": 2, "search.method": "ddarts"}, ["search.method=random"]),
        ({"genotype": "ResNet18"}, ["config.task is 'pipeline'", "config.task=train"]),
        ({"genotype": "ResNet18", "task": "search"}, ["config.task is 'search'"]),
        ({"weights": "network.npz"}, ["config.weights is 'network.npz'"]),
        (
            {"train.decay": 0.9, "train.schedule": "cosine"},
            ["a cosine does not use the decay", "config.train.schedule=exponential"],
        ),
        (
            {"train.schedule": "exponential", "train.final_learning_rate": 0.001},
            ["leave the final rate at 0", "config.train.schedule=cosine"],
        ),
        ({"train.warmup_epochs": 600}, ["warmup_epochs is 600", "train.epochs, which is 600"]),
    ],
)
def test_values_that_exclude_each_other_are_named(values, parts):
    """A value that would be ignored, or fail after hours, is refused before anything starts."""
    config = default_config()
    config.update_from_flattened_dict(values)
    with pytest.raises(UserError) as error:
        validate(config)
    for part in [*parts, *(f"config.{key}" for key in list(values)[:2])]:
        assert part in str(error.value)
    assert str(error.value).endswith(".") and len(str(error.value).splitlines()) == 1


def test_values_that_only_seem_to_exclude_each_other():
    """Training takes a genotype and weights; a short warm-up and a search from a start are as meant."""
    for values in (
        {"task": "train", "genotype": "ResNet18", "weights": "network.npz"},
        {"task": "evaluate", "genotype": "ResNet18", "weights": "network.npz"},
        {"train.warmup_epochs": 599},
        {"train.schedule": "exponential", "train.decay": 0.9, "train.warmup_epochs": 5},
        {"search.start.genotype": "ResNet18", "search.method": "authors_program"},
        {"search.method": "random", "search.random.candidates": 2},
    ):
        config = default_config()
        config.update_from_flattened_dict(values)
        validate(config)


def test_none_is_no_value():
    """ml_collections takes None for any type; here it is told, not a traceback later."""
    for key in flatten(default_config()):
        config = default_config()
        config.update_from_flattened_dict({key: None})
        with pytest.raises(UserError, match=f"config.{key} is None"):
            validate(config)


@pytest.mark.parametrize(
    "path", sorted((tiny.ROOT / "configs").glob("*.py")), ids=lambda path: path.stem
)
def test_every_config_file_is_valid(path):
    """No file in configs/ holds values that are refused."""
    parse(str(path))


def test_every_number_has_a_range():
    """No number of the configuration is left unchecked: -5 is allowed nowhere."""
    for key, value in flatten(default_config()).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            config = default_config()
            config.update_from_flattened_dict({key: type(value)(-5)})
            with pytest.raises(UserError, match=f"config.{key} is -5"):
                validate(config)


@given(st.sampled_from(sorted(flatten(default_config()))), st.data())
def test_one_wrong_letter_finds_the_right_key(key, data):
    """The nearest key to a key with one letter replaced, by one that no key has, is that key.

    Or the key without that letter, where there is one: search.p_darts beside search.pc_darts.
    """
    place = data.draw(st.integers(0, len(key) - 1))
    misspelt = f"{key[:place]}X{key[place + 1 :]}" if key[place] not in "._" else key
    found = nearest_key(default_config(), misspelt)
    without = key[:place] + key[place + 1 :]
    assert (
        found in (key, without) or len(key.rpartition(".")[2]) < 4
    )  # b1 and b2 are too short to tell


def test_the_resolved_config_is_readable_json(tmp_path):
    """config.json in a workdir says what ran, sorted."""
    config = default_config()
    config_lib.save(config, tmp_path / "config.json")
    text = (tmp_path / "config.json").read_text()
    read = json.loads(text)
    assert list(read) == sorted(read)
    assert differences(read, json.loads(config_lib.to_json(config))) == []
    assert read["search"]["ddarts"]["ablation"] == {
        "gradient": "full",
        "mean_gradient": "full",
        "mean_of": "all",
        "relative_to": "mean",
        "removal": "zero",
        "weight": 0.5,
    }


def test_a_difference_is_one_line_whatever_the_key():
    """Keys of damaged files hold anything."""
    assert differences({"a\nb": 1}, {}) == ["'a\\nb': 1, absent"]


def test_differences_names_keys_with_both_values():
    """Only the keys that differ, in their dotted form."""
    a = {"x": 1, "group": {"same": 2, "y": [1, 2]}, "only_a": None}
    b = {"x": 1, "group": {"same": 2, "y": [1, 3]}, "only_b": "text"}
    assert differences(a, b) == [
        "group.y: [1, 2], [1, 3]",
        "only_a: None, absent",
        "only_b: absent, 'text'",
    ]
    assert differences(a, a) == []


def test_a_program_ends_with_the_sentence_and_no_traceback(tmp_path, config_file):
    """A script that uses `parse_flags` as the entry point does, run as a process."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from ddarts_jax.configuration import parse_flags\n"
        "from ddarts_jax.errors import UserError\n"
        "try:\n"
        "    config, workdir = parse_flags(sys.argv)\n"
        "except UserError as error:\n"
        "    sys.exit(f'error: {error}')\n"
        "print(config.search.epochs, workdir, 'jax' in sys.modules)\n"
    )

    def run(*arguments):
        command = [sys.executable, str(script), *arguments]
        root = tiny.ROOT
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(root)}
        )

    wrong = run("--config", config_file, "--config.serach.epochs=3")
    assert wrong.returncode == 1 and wrong.stdout == ""
    expected = "error: No key 'serach.epochs' in the config; did you mean 'search.epochs'?\n"
    assert wrong.stderr == expected
    right = run("--config=config.py", "--config.search.epochs=3", "--workdir", "here")
    assert (right.returncode, right.stdout, right.stderr) == (0, "3 here False\n", "")
    assert run().returncode == 2 and "--config" in run().stderr
    assert "--workdir" in run("--help").stdout


def test_former_names_of_keys_are_understood(tmp_path, caplog):
    """A flag is renamed with a word; a config file is told what to write."""
    file = tmp_path / "config.py"
    lines = "from ddarts_jax.configuration import default_config\n\ndef get_config():\n"
    file.write_text(f"{lines}    return default_config()\n")
    argv = ["main", "--config", str(file), "--config.search.ablation.weight=0.25"]
    assert parse_flags(argv)[0].search.ddarts.ablation.weight == 0.25
    assert (
        "config.search.ablation.weight is now config.search.ddarts.ablation.weight" in caplog.text
    )
    file.write_text("from ddarts_jax.config import default_config\n")
    with pytest.raises(UserError, match=r"import ddarts_jax as dd, dd.default_config\(\)\.$"):
        parse_flags(["main", "--config", str(file)])
    file.write_text(
        f"{lines}    config = default_config()\n    config.search.zero_one_weight = 1.0\n"
        f"    return config\n"
    )
    with pytest.raises(UserError, match=r"config.search.ddarts.zero_one_weight\)$"):
        parse_flags(["main", "--config", str(file)])


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("darts", "method parse.method"),
        ("fairdarts", "method"),
        ("ddarts_no_ablation", "ddarts.ablation.weight"),
        ("random", "method"),
        ("authors_program", "method parse.method"),
    ],
)
def test_a_baseline_differs_by_what_defines_it_alone(name, keys):
    """All else is the config of D-DARTS on the digits."""
    directory = tiny.ROOT / "configs"
    flags = [
        ["main", "--config", str(directory / f"{file}.py")] for file in ("digits", f"digits_{name}")
    ]
    plain, baseline = (parse_flags(argv)[0].to_dict() for argv in flags)
    found = {line.partition(":")[0] for line in differences(plain, baseline)}
    assert found == {k if k.startswith("parse") else f"search.{k}" for k in keys.split()}


def settings_of(name):
    """{dotted key: value} of a file in configs/."""
    path = tiny.ROOT / "configs" / f"{name}.py"
    return flatten(parse_flags(["main", "--config", str(path)])[0].to_dict())


def section(name, prefix):
    return {key: value for key, value in settings_of(name).items() if key.startswith(prefix)}


@pytest.mark.parametrize(
    ("name", "recipe", "others"),
    [
        ("cifar10_search", "cifar10_train", {}),
        ("cifar100_search", "cifar100_train", {}),
        ("cifar10_smoke", "cifar10_train", {"epochs": 2, "channels": 4}),
        ("imagenet_search", "imagenet_train", {}),
        (
            "imagenet_dartopti",
            "imagenet_train",
            {"channels": 64, "auxiliary_weight": 0.0, "stem": "half"},
        ),
        *(
            (f"{data}_{start}", f"{data}_train", {"channels": 64, "auxiliary_weight": 0.0})
            for data in ("cifar10", "cifar100")
            for start in ("resnet18", "resnet50", "xception")
        ),
    ],
)
def test_a_pipeline_trains_by_the_recipe_of_its_data(name, recipe, others):
    """`--config.task=pipeline` leaves nothing of the recipe out, AutoAugment included."""
    changed = {f"train.{key}": value for key, value in others.items()}
    assert section(name, "train.") == section(recipe, "train.") | changed


def test_the_search_is_that_of_the_article():
    """Sizes, optimizers and weights of the losses of the search on CIFAR-10."""
    found = settings_of("cifar10_search")
    article = {"epochs": 50, "num_cells": 8, "num_nodes": 4, "channels": 16, "space": "darts"}
    article |= {"ddarts.zero_one_weight": 7.0, "ddarts.ablation.weight": 0.5, "method": "ddarts"}
    article |= {"weights.learning_rate": 0.005, "weights.final_learning_rate": 0.001}
    article |= {"weights.momentum": 0.9, "weights.weight_decay": 3e-4, "weights.clip": 5.0}
    article |= {"alphas.learning_rate": 0.003, "alphas.weight_decay": 1e-3}
    article |= {"start.epochs": 5, "stop.patience": 5, "stop.from_epoch": 10}
    assert found.items() >= {f"search.{key}": value for key, value in article.items()}.items()
    assert (found["parse.method"], found["parse.threshold"]) == ("sparse", 0.85)


def test_all_of_cifar_trains_by_one_recipe():
    """The article's: DARTS's with AutoAugment, and one policy for both sets."""
    found = section("cifar10_train", "train.")
    assert found == section("cifar100_train", "train.")
    article = {"epochs": 600, "channels": 36, "learning_rate": 0.025, "weight_decay": 3e-4}
    article |= {"clip": 5.0, "drop_path": 0.2, "auxiliary_weight": 0.4, "schedule": "cosine"}
    article |= {"augment.cutout": 16, "augment.auto_augment": "cifar10", "augment.hue": 0.0}
    assert found.items() >= {f"train.{key}": value for key, value in article.items()}.items()
    assert settings_of("cifar10_train")["data.batch_size"] == 128


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
@pytest.mark.parametrize("start", ["ResNet18", "ResNet50", "Xception"])
def test_dartopti_searches_with_32_channels_and_trains_with_64(data, start):
    """From the network of its name, in the space of 12 primitives; all else is D-DARTS's search."""
    differing = {"space": "dartopti", "channels": 32, "start.genotype": start}
    found = section(f"{data}_{start.lower()}", "search.")
    expected = section(f"{data}_search", "search.")
    assert found == expected | {f"search.{key}": value for key, value in differing.items()}
    assert expected["search.channels"] == 16
    assert settings_of(f"{data}_{start.lower()}")["data.name"] == data


def test_dartopti_on_imagenet():
    """Trained from a given genotype; searched on ImageNet itself if a pipeline is asked for."""
    found, search = settings_of("imagenet_dartopti"), settings_of("imagenet_search")
    assert (found["task"], found["data.batch_size"]) == ("train", 128)
    assert (found["search.channels"], found["train.channels"]) == (32, 64)
    assert found["search.stem"] == search["search.stem"] == "strided"
    assert (found["train.stem"], search["train.stem"]) == ("half", "strided")
    for key in ("resized_crop", "color_jitter", "hue", "crop_padding"):
        assert search[f"search.augment.{key}"] == search[f"train.augment.{key}"]


def test_imagenet_trains_as_darts_does():
    """cnn/train_imagenet.py of quark0/darts with the article's 250 epochs and 48 channels."""
    found = section("imagenet_train", "train.")
    darts = {"epochs": 250, "channels": 48, "learning_rate": 0.1, "momentum": 0.9, "clip": 5.0}
    darts |= {"schedule": "exponential", "decay": 0.97, "warmup_epochs": 0, "weight_decay": 3e-5}
    darts |= {"label_smoothing": 0.1, "auxiliary_weight": 0.4, "drop_path": 0.0}
    darts |= {"augment.color_jitter": 0.4, "augment.hue": 0.2, "augment.resized_crop": 0.08}
    darts |= {"augment.flip": True, "augment.cutout": 0, "augment.crop_padding": 0}
    assert found.items() >= {f"train.{key}": value for key, value in darts.items()}.items()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("authors", {"learning_rate": 0.025, "weight_decay": 3e-4, "drop_path": 0.2}),
        ("cosine", {"warmup_epochs": 5}),
    ],
)
def test_other_trainings_on_imagenet_differ_by_what_they_say(name, changes):
    """Both fall by a cosine to 0."""
    changed = {f"train.{key}": value for key, value in changes.items()}
    expected = settings_of("imagenet_train") | changed | {"train.schedule": "cosine"}
    assert settings_of(f"imagenet_train_{name}") == expected
    assert expected["train.final_learning_rate"] == 0


def test_detection_follows_mmdetections_schedule_1x():
    """RetinaNet with a pyramid of 5 levels: 12 epochs, tenths after 8 and 11, warm-up of 500 steps."""
    found = settings_of("coco_retinanet")
    recipe = {"epochs": 12, "batch_images": 16, "learning_rate": 0.01, "decay_epochs": (8, 11)}
    recipe |= {"warmup_steps": 500, "momentum": 0.9, "weight_decay": 1e-4, "clip": 0.0}
    assert found.items() >= {f"train.{key}": value for key, value in recipe.items()}.items()
    others = {"task": "detect", "data.name": "coco", "data.short_side": (800,)}
    others |= {"data.long_side": 1333, "data.flip": True, "fpn.channels": 256, "fpn.levels": 5}
    others |= {"head.convs": 4, "anchor.scale": 4.0, "backbone.frozen_levels": 1}
    others |= {"test.score": 0.05, "test.nms": 0.5, "test.per_level": 1000, "test.limit": 100}
    assert found.items() >= others.items()


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("backbone.stem", "large", "('plain', 'half', 'strided')"),
        ("backbone.norm", "group", "('auto', 'frozen', 'batch')"),
        ("backbone.frozen_levels", -1, "0 or more"),
        ("backbone.levels", ("a",), "a whole number"),
        ("head.prior", 0.0, "greater than 0 and less than 1"),
        ("detector", "yolo", "('retinanet', 'faster_rcnn', 'mask_rcnn')"),
        ("rpn.samples", 3, "4 or more"),
        ("rpn.nms", 1.5, "from 0 to 1"),
        ("roi.finest", 0.0, "greater than 0"),
        ("roi.width", 64, "'retinanet', which does not use it: leave it at 1024"),
        ("test.score", 1.5, "0 to 1"),
        ("evaluate.every", 0, "greater than 0"),
        ("data.max_objects", 0, "greater than 0"),
        ("data.short_side", (), "(least, most)"),
        ("data.short_side", (800, 400), "(least, most)"),
        ("data.short_side", (0, 400), "(least, most)"),
        ("data.short_side", (1400,), "more than config.data.long_side, which is 1333"),
        ("data.canvases", ((800,),), "(height, width)"),
        ("data.canvases", ((800, 1.5),), "(height, width)"),
        ("data.canvases", (800, 1344), "a pair (height, width)"),
        ("train.decay_epochs", (11, 8), "ascending"),
        ("train.decay_epochs", (0,), "1 or more"),
        ("train.warmup_steps", -1, "0 or more"),
        ("train.clip", -1.0, "0 or more"),
    ],
)
def test_a_value_that_no_detector_has_is_named(key, value, part):
    """With the key, the value and what may be there."""
    config = config_lib.detection_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError) as error:
        validate(config)
    assert f"config.{key}" in str(error.value) and part in str(error.value)


def test_options_of_another_detector_are_refused():
    """Both ways; those of proposals belong to both detectors that have some."""
    config = config_lib.detection_config()
    config.update_from_flattened_dict(
        {"detector": "faster_rcnn", "rpn.scale": 4.0, "roi.beta": 1.0}
    )
    validate(config)
    config.head.convs = 2
    with pytest.raises(UserError, match=r"head\.convs is 2, .* or set config\.detector=retinanet"):
        validate(config)


def test_canvases_survive_the_config_file_of_a_run(tmp_path):
    """JSON has lists for pairs."""
    config = config_lib.detection_config()
    config.update_from_flattened_dict({"data.canvases": ((64, 96), (96, 64)), "fpn.levels": 4})
    config_lib.save(config, tmp_path / "config.json")
    read = config_lib.load(tmp_path / "config.json")
    assert [tuple(each) for each in read.data.canvases] == [(64, 96), (96, 64)]
    assert read.fpn.levels == 4


def _own_sentence(call):
    """Calls; a refusal must be one of our sentences."""
    try:
        call()
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return str(error)
    return None


@pytest.mark.parametrize("task", sorted(keys.TASKS))
def test_no_key_of_any_task_may_be_none(task):
    """Every one is named, whatever else is checked."""
    for key in flatten(keys.TASKS[task]()):
        config = keys.TASKS[task]()
        config.update_from_flattened_dict({key: None})
        sentence = _own_sentence(lambda config=config: validate(config))
        assert sentence and f"config.{key} is None" in sentence


_ANYTHING = ("@@", "", "-1", "1.5", "None", "()", "(None,)", "('a', [1])", "1e999")


@pytest.mark.parametrize(
    "name",
    [
        *("digits", "distance", "compare", "import", "export", "seeds", "score_operations"),
        *("detect_digits", "sweep", "latency"),
    ],
)
def test_any_value_of_any_key_is_taken_or_refused_in_a_sentence(name):
    """Wrong types and values that no key has, two for each key in turn."""
    path = str(tiny.ROOT / "configs" / f"{name}.py")
    for number, key in enumerate(flatten(config_lib.load(path))):
        for value in (_ANYTHING[(number + turn) % len(_ANYTHING)] for turn in (0, 4)):
            argv = ["main", "--config", path, f"--config.{key}={value}", "--workdir=w"]
            _own_sentence(lambda argv=argv: parse_flags(argv))


def test_the_config_of_a_run_is_a_config_file(tmp_path):
    """A new run of it, also of an older version with former names, without newer keys."""
    config = default_config()
    config.search.epochs, config.evaluate.batch_sizes, config.data.name = 7, (2, 3), "digits"
    config_lib.save(config, tmp_path / "config.json")
    path = str(tmp_path / "config.json")
    read, workdir = parse_flags(["main", "--config", path, "--config.seed=3"])
    assert differences(config.to_dict(), read.to_dict()) == ["seed: 0, 3"]
    assert workdir.startswith("runs/config-") and read.evaluate.batch_sizes == (2, 3)
    assert flatten(config_lib.load(path).to_dict()) == flatten(config.to_dict())
    older = json.loads((tmp_path / "config.json").read_text())
    del older["data"]["white"]
    older["search"]["zero_one_weight"] = older["search"]["ddarts"].pop("zero_one_weight")
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert flatten(config_lib.load(path).to_dict()) == flatten(config.to_dict())


def test_a_tilde_is_the_home_folder(config_file, monkeypatch):
    """In the workdir, alone, after a kind, in a list and in an override; nowhere else."""
    monkeypatch.setenv("HOME", "/home/x")
    flags = ["--workdir=~/w", "--config.task=train", "--config.genotype=~/g.json"]
    config, workdir = parse(config_file, *flags, "--config.data.name=folder:~/data")
    assert (workdir, config.genotype) == ("/home/x/w", "/home/x/g.json")
    assert config.data.name == "folder:/home/x/data"
    assert config_lib.load("compare", {"runs": "~/a,b~,~/c"}).runs == "/home/x/a,b~,/home/x/c"
    overrides = config_lib.load("seeds", {"overrides": ("genotype=~/g", "seed=1")}).overrides
    assert overrides == ("genotype=/home/x/g", "seed=1")


def test_two_default_workdirs_differ(config_file):
    """Also of two commands that start in the same second."""
    assert len({parse(config_file)[1] for _ in range(9)}) == 9


def test_a_path_that_is_not_unicode_is_refused(config_file):
    """The files of a run could not mention it."""
    with pytest.raises(UserError, match=r"config\.data\.name is 'folder:caf\\udce9', which is not"):
        parse(config_file, "--config.data.name=folder:caf\udce9")
    with pytest.raises(UserError, match="name of the workdir"):
        parse(config_file, "--workdir=caf\udce9")
