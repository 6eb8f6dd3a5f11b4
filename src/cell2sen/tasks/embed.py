"""embed: cell sentence → vector, read off the prompt that asks for the cell type."""

from dataclasses import replace

from cell2sen.tasks import annotate

TASK = replace(annotate.TASK, name="embed", answer="none", target=None)
