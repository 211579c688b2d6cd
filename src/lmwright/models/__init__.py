"""One model core described by data, its file formats, calibrators and the kinds of model that can be served."""
