"""Programs that train."""

from psla_wds.errors import end_quietly

end_quietly()
