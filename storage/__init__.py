"""Artifacts on any fsspec location: keys, commit protocol, codecs, failure records, maintenance."""
