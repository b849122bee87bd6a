"""Events for TensorBoard: a disk that is full silences them, and nothing waits for them."""

import errno

import pytest
from tensorboardX.event_file_writer import EventsWriter

from ddarts_jax.runs.board import Board


@pytest.mark.parametrize("method", ["write_event", "flush", "close"])
def test_a_full_disk_is_one_warning(tmp_path, monkeypatch, caplog, method):
    """The numbers are in metrics.jsonl too, so the run goes on."""
    board = Board(tmp_path / "a[1]")
    board.add_scalar("loss", 1.0, 1, "Loss", "What is lost.")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventsWriter, method, full)
    for step in range(100):
        board.add_scalar("loss", 1.0, step, "Loss", "What is lost.")
        board.flush()
    board.close()
    board.close()
    (message,) = caplog.messages
    assert message == f"No more events for TensorBoard in {tmp_path}/a[1]: No space left on device"
