from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from srs_ray.runner.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(20):
    tensors = [torch.zeros(2**21) for _ in range(3)]  # 8 MiB each
    del tensors
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's, which is left as it is")
def test_memory_that_was_freed_is_not_asked_for_again() -> None:
    faults = {}
    for name in ("kept", "given back"):
        done = subprocess.run([sys.executable, "-c", FAULTS, name], capture_output=True, text=True, check=True)
        faults[name] = int(done.stdout)
    assert faults["kept"] < faults["given back"] / 4
