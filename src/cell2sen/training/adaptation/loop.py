"""Steps of an adaptation: their number from the time that is given, the optimiser, losses before and after."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.data.progress import Progress, Report
from cell2sen.inference.gene_part import Scaling
from cell2sen.training.adaptation.losses import two_views_loss, vectors_and_gene_loss
from cell2sen.training.adaptation.settings import Adaptation
from cell2sen.training.adaptation.unlabelled_cells import Reader, UnlabelledCells
from cell2sen.training.network.loading import copied_weights

logger = logging.getLogger(__name__)

#: Steps by which the time of a step is measured, after one that is not counted.
TIMED_STEPS = 3

#: Maximum number of held-out cells whose losses are measured, and number of their first draw of views.
MAX_MEASURED, MEASURED_DRAW = 128, 2**30

#: Share of the steps in which the learning rate rises; it then falls as a cosine.
WARMUP = 0.05


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Losses of held-out cells, nats."""

    next_gene: float
    two_views: float

    def record(self) -> dict[str, float]:
        """Plain values."""
        return {"next_gene": round(self.next_gene, 4), "two_views": round(self.two_views, 4)}


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What an adaptation did."""

    steps: int
    before: Losses
    after: Losses
    log: list[dict[str, float]]


@dataclass(kw_only=True, eq=False)
class Loop:
    """Adaptation of one network.

    Parameters
    ----------
    network
        Network with trainable weights, with peft's adapters or without; trained in place.
    bfloat16
        Compute in bfloat16 where PyTorch does so (autocast).
    """

    network: Any
    cells: UnlabelledCells
    reader: Reader
    settings: Adaptation
    learning_rate: float
    bfloat16: bool = False

    def __post_init__(self) -> None:
        self._profile = self.cells.profile()
        self._trained = [weight for weight in self.network.parameters() if weight.requires_grad]
        self._device = self._trained[0].device
        self._factor = 1.0
        self._factor = self._scale()

    def run(self, *, steps: int | None, minutes: float, progress: bool | Report = False) -> Steps:
        """Train for a number of steps, or for as many as fit into the minutes."""
        if steps is None:
            steps = self._steps_in(60 * minutes)
            logger.info("%g minutes are %d steps", minutes, steps)
        before = self.measured()
        log = self._train(steps, progress)
        return Steps(steps=steps, before=before, after=self.measured(), log=log)

    def measured(self) -> Losses:
        """Losses of held-out cells, always in the same views, in groups of one size."""
        rows = np.flatnonzero(self.cells.test)[:MAX_MEASURED]
        groups = np.array_split(rows, max(1, round(len(rows) / self.settings.batch_size)))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            each = [
                self._losses(group, MEASURED_DRAW + 2 * number, measured=True) for number, group in enumerate(groups)
            ]
        genes, views = (float(np.mean([float(losses[kind]) for losses in each])) for kind in (0, 1))
        return Losses(next_gene=genes, two_views=views)

    def _train(
        self, steps: int, progress: bool | Report = False, clock: list[float] | None = None
    ) -> list[dict[str, float]]:
        settings, log = self.settings, list[dict[str, float]]()
        torch.manual_seed(settings.seed)
        optimiser = torch.optim.AdamW(self._trained, lr=self.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        batches = self._batches()
        with Progress(steps, "adaptation", "step", show=progress) as bar:
            for step in range(steps):
                for group in optimiser.param_groups:
                    group["lr"] = self.learning_rate * _rate(step, steps)
                genes, views = self._losses(next(batches), 2 * step)
                loss: Any = settings.next_gene * genes + settings.two_views * views
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
                optimiser.step()
                if step % max(1, steps // 50) == 0 or step == steps - 1:
                    values = Losses(next_gene=float(genes.detach()), two_views=float(views.detach()))
                    log.append({"step": step + 1, **values.record()})
                    bar.note(f"next gene {values.next_gene:.3f}, two views {values.two_views:.3f}")
                bar.update(1)
                if clock is not None:
                    clock.append(time.monotonic())
        return log

    def _steps_in(self, seconds: float) -> int:
        """Steps that take as long, measured by a few that are undone."""
        before, clock = copied_weights(self.network), [0.0]
        self._train(1 + TIMED_STEPS, clock=clock)
        with torch.no_grad():
            for name, weight in self.network.named_parameters():
                weight.copy_(before[name])
        return max(1, round(seconds / ((clock[-1] - clock[1]) / TIMED_STEPS)))

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        """Rows of training cells, ascending: all cells in a random order, then all in another one, without end."""
        rows = np.flatnonzero(~self.cells.test)
        size, epoch = min(self.settings.batch_size, len(rows)), 0
        while True:
            order = np.random.default_rng([self.settings.seed, epoch]).permutation(rows)
            for first in range(0, len(order) - size + 1, size):
                yield np.sort(order[first : first + size])
            epoch += 1

    def _losses(
        self, rows: NDArray[np.int64], draw: int, *, measured: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses of the next gene and of two views."""
        views = [self.cells.view(rows, draw + number, self._profile) for number in (0, 1)]
        vectors_BD, genes = self._forward(
            [row for view in views for row in self.reader.read(view)], measured or self.settings.next_gene > 0
        )
        first_BD, second_BD = (vectors_BD * self._factor).chunk(2)
        return genes, two_views_loss(first_BD, second_BD, self.settings.temperature)

    def _forward(self, rows: Any, with_genes: bool) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.bfloat16):
            return vectors_and_gene_loss(
                self.network,
                rows,
                context=self.reader.context_tokens,
                with_genes=with_genes,
            )

    def _scale(self) -> float:
        """Factor by which the mean distance of cells from their mean becomes 1, before the adaptation."""
        rows = np.flatnonzero(~self.cells.test)[:MAX_MEASURED]
        sentences = [self.cells.view(part, MEASURED_DRAW, self._profile) for part in np.array_split(rows, 8)]
        with torch.no_grad():
            vectors = [self._forward(self.reader.read(each), False)[0].cpu().numpy() for each in sentences]
        return Scaling.of(np.concatenate(vectors)).factor


def _rate(step: int, steps: int) -> float:
    """Share of the highest learning rate in a step."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
