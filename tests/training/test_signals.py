"""Signals that end a run: recorded where they can be, and left alone elsewhere."""

import os
import signal
import threading

import pytest

from ddarts_jax.training.signals import Signals


def test_a_signal_is_recorded_and_the_former_handler_comes_back():
    """SIGTERM; a second SIGINT interrupts at once."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Signals() as signals:
        assert not signals.received
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_outside_the_main_thread_nothing_is_recorded():
    """A search in a thread of a notebook or a server runs; the process's handlers stay its own."""
    found, before = [], signal.getsignal(signal.SIGTERM)

    def run():
        with Signals() as signals:
            found.extend([signals.received, signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [0, before]
