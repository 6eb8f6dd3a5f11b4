"""Names as text: one rule for missing values and spellings, one reader of text files."""
