"""Networks of training runs: loaded, extended or new."""
