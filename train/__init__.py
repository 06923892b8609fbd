"""Programs that train."""

import sys

from psla_wds.errors import end_quietly

if sys.argv[:1] == ["-m"]:  # one of them is about to run, and takes a second to import
    end_quietly()
