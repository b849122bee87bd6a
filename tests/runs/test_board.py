"""Events for TensorBoard: a disk that is full silences them, and nothing waits for them."""

import errno

import events
import pytest
from PIL import Image
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from ddarts_jax.runs.board import Board, write_outcome


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


def test_what_a_run_came_to(tmp_path):
    """Settings of any kind, results and pictures; written again, they take the place of the earlier."""
    Image.new("RGB", (3, 2), "red").save(tmp_path / "genotype.png")
    settings = {"seed": 3, "data.name": "digits", "train.flip": True, "data.sizes": (1, 64)}
    for accuracy in (0.5, 0.75):
        pictures = [tmp_path / "genotype.png"]
        write_outcome(tmp_path / "result", settings, {"test_accuracy": accuracy}, pictures)
    values = {
        value.tag: value
        for event in events.read(tmp_path / "result")
        for value in event.summary.value
    }
    content = values["_hparams_/session_start_info"].metadata.plugin_data.content
    told = HParamsPluginData.FromString(content).session_start_info.hparams
    assert told["seed"].number_value == 3 and told["train.flip"].bool_value is True
    assert (told["data.name"].string_value, told["data.sizes"].string_value) == (
        "digits",
        "(1, 64)",
    )
    assert values["test_accuracy"].simple_value == 0.75
    picture = values["genotype"].image.encoded_image_string
    assert picture == (tmp_path / "genotype.png").read_bytes()
    assert len(list((tmp_path / "result").iterdir())) == 1
