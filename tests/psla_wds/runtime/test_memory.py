"""Arrays of the same sizes get the same memory again, and large ones go back to the system."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

SCRIPT = """
import resource, sys
import numpy as np
from psla_wds.runtime.memory import keep_freed_memory

def pages():
    return int(open("/proc/self/statm").read().split()[1])

def faults_of(mib):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        arrays = [np.ones(mib * 2**17) for _ in range(3)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

most = eval(sys.argv[1])
if most != "default":
    keep_freed_memory(most)
begin = pages()
print(faults_of(4), faults_of(40), pages() - begin)
"""


def faults(most: str) -> tuple[int, int, int]:
    """Pages that the system clears for arrays of 4 and of 40 MiB, and pages held at the end."""
    command = [sys.executable, "-c", SCRIPT, most]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    small, large, held = map(int, done.stdout.split())
    return small, large, held


def test_freed_memory_is_used_again():
    pages_of_4, pages_of_40 = 3 * 4 * 256, 3 * 40 * 256
    by_default, *_ = faults("'default'")
    assert by_default > 4 * pages_of_4  # otherwise there is nothing to mend
    small, _, held = faults("2**26")
    assert small < 2 * pages_of_4 and held < 2**26 / 4096
    small, large, held = faults("None")
    assert small < 2 * pages_of_4 and large < 2 * pages_of_40 and held > pages_of_40 / 2
