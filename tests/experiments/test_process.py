"""The allocator keeps what is freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from carpool.experiments.process import keep_pages
if sys.argv[1] == "keep":
    keep_pages()
def work():
    parts = [np.ones(1 << 17) for _ in range(8)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is of Linux")
def test_memory_that_was_used_before_costs_no_fresh_pages() -> None:
    faults = {
        word: int(
            subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, check=True).stdout
        )
        for word in ("keep", "do not")
    }
    assert faults["keep"] < 200
    assert faults["do not"] > 10 * max(faults["keep"], 1)
