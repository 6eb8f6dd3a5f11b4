"""Free text on cells: captions, summaries, answers to questions, and the genes that they name."""
