"""Programs that pack labelled clips into tar shards."""

from psla_wds.errors import end_quietly

end_quietly()
