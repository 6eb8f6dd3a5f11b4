"""Groups, baselines, scores and their intervals."""
