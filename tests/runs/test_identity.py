"""The identity of a run: which values may change in its workdir, and which make it another run."""

import json

import pytest

from ddarts_jax import configuration
from ddarts_jax.configuration import METHODS, default_config, score_config, seeds_config
from ddarts_jax.errors import UserError
from ddarts_jax.runs import identity


def changed(**values):
    """The defining values of a search as JSON, some of the config's changed."""
    config = default_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in values.items()})
    return json.loads(json.dumps(identity.defining(config, "search", 100)))


@pytest.mark.parametrize(
    "key, value",
    [
        ("data__data_dir", "/elsewhere"),
        ("data__num_workers", 8),
        ("search__unroll", 2),
        ("search__remat", False),
        ("search__ddarts__microbatch", 1),
        ("search__gap_images", 0),
    ],
)
def test_a_run_continues_with_other_incidental_values(tmp_path, key, value):
    """Where the data are, and what trades time for memory, may change between two starts."""
    identity.claim(tmp_path / "config.json", changed(), "checkpoints")
    identity.claim(tmp_path / "config.json", changed(**{key: value}), "checkpoints")


def test_the_images_of_the_gap_matter_to_a_selection_by_perturbation(tmp_path):
    """They decide what is kept; elsewhere they are measured on, no more."""
    selecting = {"search__selection": "perturbation", "search__gap_images": 100}
    identity.claim(tmp_path / "config.json", changed(**selecting), "checkpoints")
    with pytest.raises(UserError, match=r"search\.gap_images: 100, 200"):
        others = changed(**selecting | {"search__gap_images": 200})
        identity.claim(tmp_path / "config.json", others, "checkpoints")


def test_a_run_does_not_continue_with_other_essential_values(tmp_path):
    """Every other value makes it another run; all that differ are named."""
    identity.claim(tmp_path / "config.json", changed(), "checkpoints")
    with pytest.raises(UserError) as error:
        others = {"batch_norm": "local", "seed": 1, "search__epochs": 3}
        identity.claim(tmp_path / "config.json", changed(**others), "checkpoints")
    expected = (
        "batch_norm: 'global', 'local'; search.epochs: 50, 3; seed: 0, 1. Use the same values"
    )
    assert f"(there, here): {expected}" in str(error.value)


def test_every_key_is_compared_or_known_not_to_matter():
    """A new key is either of a phase's identity, or incidental, or compared in another place."""
    config = default_config()
    phases = [identity.flatten(identity.defining(config, each, 1)) for each in ("search", "train")]
    left = set(identity.flatten(config)) - identity.INCIDENTAL - {key for p in phases for key in p}
    # The task is not the run; genotype and weights are of `train.run`, the rest of `check_parsing`.
    assert {key for key in left if not key.startswith("parse.")} == {"task", "genotype", "weights"}


def test_a_run_of_an_older_version_continues(tmp_path):
    """A key that was added to the config since then has its default; another value is told."""
    older = changed()
    del older["search"]["random"], older["search"]["ddarts"]["ablation"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    identity.claim(tmp_path / "config.json", changed(), "checkpoints")
    with pytest.raises(UserError, match=r"\(there, here\): search\.random\.candidates: 4, 2\."):
        identity.claim(
            tmp_path / "config.json", changed(search__random__candidates=2), "checkpoints"
        )


def test_a_missing_key_has_the_default_of_its_task():
    """Operation scores train for fewer epochs by default than a pipeline does."""
    wanted = score_config().to_dict()
    older = json.loads(json.dumps(wanted))
    del older["train"]["epochs"]
    assert identity.differing(older, wanted) == []


def test_a_renamed_key_is_known_by_its_former_name(monkeypatch):
    """One line in the table of former names, and a run of an older version continues."""
    older = changed(search__ddarts__zero_one_weight=3.0)
    older["search"]["sparsity"] = {"w_01": older["search"]["ddarts"].pop("zero_one_weight")}
    wanted = changed(search__ddarts__zero_one_weight=3.0)
    assert identity.differing(older, wanted)
    monkeypatch.setitem(
        configuration.FORMER_NAMES, "search.sparsity.w_01", "search.ddarts.zero_one_weight"
    )
    assert identity.differing(older, wanted) == []


def test_every_incidental_key_is_one_of_the_config():
    """A key that is renamed or misspelt here would be compared again."""
    assert identity.INCIDENTAL <= set(identity.flatten(default_config()))
    assert not identity.INCIDENTAL & set(identity.flatten(seeds_config()))


_FORMER = {  # how the five methods were written before there was `search.method`
    "ddarts": {},
    "darts": {"share_cells": True, "relaxation": "softmax", "zero_one_weight": 0.0, "weight": 0.0},
    "fairdarts": {"share_cells": True, "weight": 0.0},
    "authors_program": {"accumulated_gradients": True, "gradient": "none", "removal": "random"},
    "random": {"random": 4},
}


@pytest.mark.parametrize("method", _FORMER)
def test_a_run_from_before_there_were_methods_continues(method):
    """Its five keys said which method it was; what that method did not read no longer counts."""
    wanted = changed(search__method=method)
    if method == "darts":
        wanted["search"]["darts"]["none"] = False  # it was no candidate then
    found = json.loads(json.dumps(wanted))
    for name in ("method", *METHODS):
        del found["search"][name]
    former = {"share_cells": False, "relaxation": "sigmoid", "zero_one_weight": 7.0}
    if method == "fairdarts":
        wanted["search"]["fairdarts"]["zero_one_weight"] = 7.0  # as it was then
    former |= {"accumulated_gradients": False, "random": 0, "microbatch": 0}
    ablation = {"weight": 0.5, "gradient": "full", "removal": "zero"}
    for key, value in _FORMER[method].items():
        (ablation if key in ablation else former)[key] = value
    found["search"] |= former | {"ablation": ablation}
    assert identity.differing(found, wanted) == []
    found["search"]["epochs"] = 3
    assert identity.differing(found, wanted) == ["search.epochs: 3, 50"]


def test_data_that_moved_are_the_same_run():
    """The images are recognised by their checksum, so their name does not matter; else it does."""
    found = changed() | {"images": "0a"}
    moved = changed(data__name="folder:/elsewhere")
    assert identity.differing(found, moved | {"images": "0a"}) == []
    assert len(identity.differing(found, moved | {"images": "0b"})) == 2
    assert len(identity.differing(changed(), moved)) == 1


def test_a_folder_without_checkpoints_is_free(tmp_path):
    """After an interruption before the first one, any value may change."""
    path = tmp_path / "config.json"
    identity.claim(path, changed(), "checkpoints")
    identity.claim(path, changed(seed=1), "checkpoints", empty=True)
    identity.claim(path, changed(seed=1), "checkpoints")


def began(workdir, phase, **values):
    """Writes what a phase leaves in a workdir."""
    config = default_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in values.items()})
    configuration.save(config, workdir / "config.json")
    directory = workdir / "checkpoints" / phase
    (directory / "5").mkdir(parents=True)
    found = identity.defining(config, phase, 100) | {"genotype": {}, "images": "0a"}
    (directory / "config.json").write_text(json.dumps(found))


def test_a_phase_is_checked_before_it_begins(tmp_path):
    """By its own settings alone; what is not known yet, such as the genotype, comes later."""
    began(tmp_path, "train", train__epochs=3)
    config = default_config()
    wanted = identity.defining(config, "train", 100)
    with pytest.raises(UserError, match=r"train\.epochs: 3, 600.*a longer training is a new run"):
        identity.check_phase(tmp_path, "train", wanted)
    config.train.epochs, config.train.channels = 3, 8
    wanted = identity.defining(config, "train", 100)
    with pytest.raises(UserError, match=r"train\.channels: 36, 8\. Use the same values"):
        identity.check_phase(tmp_path, "train", wanted)
    config.train.channels, config.data.name = 36, "folder:/elsewhere"
    identity.check_phase(tmp_path, "train", identity.defining(config, "train", 100))
    identity.check_phase(tmp_path, "search", identity.defining(config, "search", 100))


def test_the_parsing_is_fixed_once_its_network_is_trained(tmp_path):
    """Before that it may change: the search itself does not depend on it."""
    began(tmp_path, "search")
    other = default_config().parse.to_dict() | {"threshold": 0.5}
    identity.check_parsing(tmp_path, other)
    began(tmp_path, "train")
    with pytest.raises(UserError, match=r"parse\.threshold: 0\.85, 0\.5"):
        identity.check_parsing(tmp_path, other)
    identity.check_parsing(tmp_path, default_config().parse.to_dict())


def test_a_random_search_has_begun_with_its_candidates(tmp_path):
    """Their checkpoints are what it would lose."""
    assert not identity.begun(tmp_path, "search")
    (tmp_path / "candidates" / "1" / "checkpoints" / "train" / "8").mkdir(parents=True)
    assert identity.begun(tmp_path, "search") and not identity.begun(tmp_path, "train")
