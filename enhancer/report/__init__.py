"""Results as pictures for papers and as one self-contained page."""
