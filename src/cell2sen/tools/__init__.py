"""Tools for AnnData in files of their own; tl shows all of them."""
