"""Programs that score, average and report."""

import sys

from psla_wds.commands import check_packages
from psla_wds.errors import end_quietly

check_packages()  # before a train.py of the current folder is imported, and so runs
if sys.argv[:1] == ["-m"]:  # one of them is about to run, and takes a second to import
    end_quietly()
