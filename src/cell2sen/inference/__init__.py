"""The verbs: embed, annotate, perturb, generate, check. No torch, no AnnData written."""
