"""An interruption waits for a short write and is heard right after it; real signals, real handlers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from carpool.experiments.signals import SIGNALS, interruptible, uninterrupted


@pytest.fixture(autouse=True)
def _handlers_stay_as_they_were():
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_the_block_is_heard_after_it(number):
    done = []

    def write():
        with uninterrupted():
            os.kill(os.getpid(), number)
            done.append("written")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert done == ["written"]


def test_many_signals_are_one_interruption():
    def write():
        with uninterrupted():
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        write()
    with uninterrupted():
        pass


def test_without_a_signal_nothing_happens():
    with uninterrupted():
        done = True
    assert done


def test_an_error_in_the_block_comes_out_as_it_is():
    with pytest.raises(OSError, match="disk"), uninterrupted():
        raise OSError("disk")


def test_sigterm_ends_an_interruptible_block_as_ctrl_c_does():
    def work():
        with interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the block went on")

    with pytest.raises(KeyboardInterrupt):
        work()


def test_sigterm_in_a_write_inside_an_interruptible_block_waits_too():
    done = []

    def work():
        with interruptible():
            with uninterrupted():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("written")
            done.append("went on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["written"]


def test_other_threads_may_use_the_blocks_though_signals_are_not_theirs():
    done = []

    def work():
        with interruptible(), uninterrupted():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_real_process_finishes_its_write_before_it_ends(tmp_path, number):
    """The signal comes from outside, while the block waits inside a system call."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from carpool.experiments.signals import interruptible, uninterrupted
        try:
            with interruptible():
                with uninterrupted():
                    print("writing", flush=True)
                    sys.stdin.readline()
                    Path(sys.argv[1]).write_text("whole")
                print("went on", flush=True)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.exit(130)
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path / "file")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(number)
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert process.stdout.readline() == "interrupted\n"
        assert process.wait(60) == 130
    assert (tmp_path / "file").read_text() == "whole"
