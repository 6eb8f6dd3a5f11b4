"""Atlases: runs over many files in shards, which end with the same bytes whatever happens on the way."""

from cell2sen.atlas.collecting import collect
from cell2sen.atlas.engines.environment import slurm_script
from cell2sen.atlas.planning import plan
from cell2sen.atlas.running import run
from cell2sen.atlas.state import Status, status

__all__ = ["Status", "collect", "plan", "run", "slurm_script", "status"]
