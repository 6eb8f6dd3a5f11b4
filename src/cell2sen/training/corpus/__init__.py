"""Corpus: pairs of many files and tasks as sharded Parquet, to train on later."""
