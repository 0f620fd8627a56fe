"""Whether a prepared folder can be believed, and a look at it."""
