"""The choice of a source by name, in memory and as a stream."""

from pathlib import Path

import pytest
from image_files import Config

from ddarts_jax.data import records
from ddarts_jax.data.dataset import load
from ddarts_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "did you mean 'digits'"),
        ("cifar-10", "'cifar10'"),
        ("CIFAR10", "'cifar10'"),
        ("folder/x", "'folder:'"),
        ("npz", "'npz:'"),
        ("", "Unknown data.name ''"),
        ("!?", "Use 'digits', 'folder:PATH'"),
        ("cifar10/zzz", "cannot open"),
        ("cifar10:1.0.0", "cannot open"),
        (str(Path(__file__).parent), "folder:/"),
    ],
)
def test_unknown_names(name, message, no_network):
    """An unknown name is answered by the nearest known ones and the four ways to name data."""
    with pytest.raises(UserError, match=message):
        load(Config(name))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {}, "cannot be streamed"),
        ("npz:x.npz", {}, "cannot be streamed"),
        ("folder:/no/such/folder", {}, "no folder"),
        ("cifar10", {"images_per_class": 3}, "images_per_class"),
        ("cifar-10", {}, "did you mean 'cifar10'"),
    ],
)
def test_what_cannot_be_streamed(name, options, message):
    """Data in memory, missing folders and unknown names are refused with the reason."""
    with pytest.raises(UserError, match=message):
        records.open_records(Config(name, **options))
