"""A run as it is read from its workdir."""

import pytest
from synthetic import write_run

from ddarts_jax.errors import UserError
from ddarts_jax.runs.run import read_run


def test_the_rows_of_all_stages_are_those_of_the_search_in_order(tmp_path):
    """By the number of the stage, not its letters; results stay those of the last stage alone."""
    workdir = write_run(tmp_path / "run", search_epochs=2, train_epochs=1)
    for number, epochs in ((10, 1), (2, 4), (1, 3)):
        write_run(workdir / "stages" / str(number), search_epochs=epochs, train_epochs=1)
    (workdir / "stages" / "11").mkdir()  # which has not begun
    (workdir / "stages" / "notes").mkdir()
    run = read_run(workdir)
    assert [row["epoch"] for row in run.search] == [1, 2]
    epochs = [row["epoch"] for row in run.rows_of_all_stages("search")]
    assert epochs == [1, 2, 3, 1, 2, 3, 4, 1, 1, 2]
    assert run.rows_of_all_stages("train") == run.train and len(run.train) == 1
    (workdir / "stages" / "2" / "metrics.jsonl").write_text("{\n")
    with pytest.raises(UserError, match=r"stages/2/metrics\.jsonl' is not a metrics line"):
        read_run(workdir)


def test_a_search_in_one_stage_has_no_earlier_rows(tmp_path):
    """Its rows are all that there are."""
    run = read_run(write_run(tmp_path / "run"))
    assert not run.earlier and run.rows_of_all_stages("search") == run.search
