"""Handling of SIGINT and SIGTERM, which end a run after the current chunk of steps."""

import logging
import signal
import threading

_logger = logging.getLogger(__name__)


class Stopped(Exception):
    """A signal ended the run; its state is saved.

    Args:
        where: the point that the run has reached, in words for the message.
        number: the signal's number.

    Attributes:
        signal: the signal's number.
    """

    def __init__(self, where: str, number: int):
        self.signal = number
        super().__init__(
            f"Stopped by {signal.Signals(number).name} {where}: "
            f"the same command with the same --workdir continues."
        )


class Signals:
    """Records SIGTERM and the first SIGINT so that the run can stop cleanly.

    A second SIGINT interrupts at once. Outside the main thread of a process, which alone can receive
    signals, none is recorded.
    """

    def __enter__(self):
        self.received = 0
        mine = threading.current_thread() is threading.main_thread()
        caught = (signal.SIGTERM, signal.SIGINT) if mine else ()
        self._previous = {number: signal.signal(number, self._note) for number in caught}
        return self

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = number
        _logger.warning("%s: stops after this chunk of steps", signal.Signals(number).name)
