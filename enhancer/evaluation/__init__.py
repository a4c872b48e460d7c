"""Rate-distortion evaluation: what ``enhance-eval`` does, as a library."""
