"""Videos to shards: annotations, decoding, optical flow, writing; `run.prepare` joins them."""
