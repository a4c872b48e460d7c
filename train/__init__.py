"""Training of the restoration networks; run from a checkout as ``python -m train``."""
