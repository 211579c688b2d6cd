"""One model core described by data, with its files, calibration and the reference decoder."""
