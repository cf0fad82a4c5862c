from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc, whose allocator is left as it is")

# Prints whether a large tensor lies on the heap, and the page faults of as large ones once the heap has grown.
ALLOCATING = """
import re, resource, sys, torch
from srs_ray.runner.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
large = torch.zeros(6 * 2**20)  # 24 MiB
[low, high] = re.search(r"([0-9a-f]+)-([0-9a-f]+) .*\\[heap\\]", open("/proc/self/maps").read()).groups()
for number in range(40):
    if number == 20:
        before = faults()
    tensors = [torch.zeros(6 * 2**20) for _ in range(3)]
    del tensors
print(int(low, 16) <= large.data_ptr() < int(high, 16), faults() - before)
"""


def allocating(how: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", ALLOCATING, how], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_large_tensors_lie_in_memory_that_the_process_keeps() -> None:
    on_the_heap, faults = allocating("kept")
    assert on_the_heap == "True"
    assert int(faults) < 1000  # of 368,640 pages


def test_by_default_they_do_not() -> None:
    assert allocating("as it is")[0] == "False"
