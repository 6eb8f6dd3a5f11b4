"""Commands of tasks other than labels, generation and perturbation: samples, text, gene sets, bulk, space."""
