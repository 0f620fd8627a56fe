"""How records are written: shards, and the folder that they fill."""
