"""Where records come from: videos that are decoded, or images that are there."""
