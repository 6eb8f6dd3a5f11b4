"""Engines that decide which worker does which shard: local processes, SLURM, torchrun, Ray."""
