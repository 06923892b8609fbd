"""Programs that score, average and report."""

from psla_wds.commands import check_packages
from psla_wds.errors import end_quietly

check_packages()  # before a train.py of the current folder is imported, and so runs
end_quietly()
