"""Task 'latency': what is measured is what a search's budget reads."""

import tiny

from ddarts_jax import configuration, main
from ddarts_jax.data import dataset as data
from ddarts_jax.models import latency
from ddarts_jax.searching import budget, search


def test_a_measured_table_is_one_that_the_search_can_read(tmp_path, monkeypatch, capsys):
    """Every primitive that the trained network may have, once, with what the slowest ones take."""
    file, taken = tiny.write_config(tmp_path), []

    def programs(place, batch, dtype):
        taken.append((place, batch, dtype))
        return 0.0, 1e-3 * place.channels * place.stride

    monkeypatch.setattr(latency, "_programs", programs)
    monkeypatch.setattr(latency, "seconds", lambda run: run)
    arguments = ["--config=latency", f"--config.run={file}", f"--workdir={tmp_path / 'out'}"]
    arguments += ["--config.batch_size=4", "--config.overrides=('search.num_cells=5',)"]
    assert main.main(["main", *arguments]) == 0
    # Five cells of one node each, of which the second and the fourth stride.
    names = ("max_pool_3x3", "skip_connect", "sep_conv_3x3")
    wanted = [(4, 1, 8), (8, 2, 8), (8, 1, 4), (16, 2, 4), (16, 1, 2)]
    assert [place for place, *_ in taken] == [(name, *rest) for rest in wanted for name in names]
    assert {(batch, dtype) for _, batch, dtype in taken} == {(4, "float32")}
    slowest = capsys.readouterr().out.splitlines()[1]
    assert slowest.split()[1:] == ["16", "2", "4", "32.0000"]

    path = str(tmp_path / "out" / "latency.json")
    table = latency.load(path)
    assert (table.device, table.dtype, table.batch) == ("cpu", "float32", 4)
    assert "jax" in table.versions
    config = configuration.load(file, {"search.num_cells": 5})
    config.search.budget.update(latency=1e3, table=path)
    images = data.load(config.data)
    net, _, _ = search.build(config, images, "float32")
    (own,) = budget.of(config, net, images)
    assert own.table[:, 0, 0].tolist() == [channels * stride for channels, stride, _ in wanted]
