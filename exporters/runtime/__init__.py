"""The files that are copied into an artifact; each works alone, without nnfactory."""
