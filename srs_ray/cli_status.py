"""The command `srs-ray status`."""
