"""embed: cell sentence → embedding; the prompt is that of annotate."""

from dataclasses import replace

from cell2sen.tasks import annotate

TASK = replace(annotate.TASK, name="embed", answer="none", target=None)
