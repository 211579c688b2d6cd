"""One model core described by data, with its files, calibrators and servable kinds."""
