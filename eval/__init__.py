"""Programs that score, average and report."""

from psla_wds.commands import check_packages

check_packages()  # before a train.py of the current folder is imported, and so runs
