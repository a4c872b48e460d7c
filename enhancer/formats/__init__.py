"""Picture file formats that are not codecs: PNG, PPM/PGM/PAM, TIFF, BMP, GIF. No torch in here."""
