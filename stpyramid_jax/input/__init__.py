"""From shards to batches: random access, sampling in time, views in space, the grain pipeline."""
