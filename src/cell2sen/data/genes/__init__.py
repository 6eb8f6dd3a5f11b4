"""Gene identifiers, symbols, organisms and gene sets."""
