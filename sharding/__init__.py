"""Programs that pack labelled clips into tar shards."""
