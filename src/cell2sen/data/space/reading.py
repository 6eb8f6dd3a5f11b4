"""Space of a data set: coordinates, sections and neighbourhoods of an AnnData object or file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.files.opening import open_anndata
from cell2sen.data.obs import text_column
from cell2sen.data.space.neighbourhoods import SPATIAL, Neighbourhoods, find_neighbourhoods, read_neighbourhoods

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Share of cells with the coordinates of another one from which there may be several sections.
_SAME_PLACE = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """Coordinates, sections and neighbourhoods of the cells of a data set."""

    coordinates: NDArray[np.float64]
    """float64 (cells, dimensions)."""

    sections: NDArray[Any] | None
    """Section of each cell, object (cells,), ``None`` where missing; ``None`` for a single section."""

    neighbourhoods: Neighbourhoods

    def within(self, rows: NDArray[Any]) -> Space:
        """Some of the cells, with their neighbourhoods among themselves."""
        return Space(
            coordinates=self.coordinates[rows],
            sections=None if self.sections is None else self.sections[rows],
            neighbourhoods=self.neighbourhoods.within(rows),
        )


def read_space(
    data: AnnData | str | Path,
    *,
    radius: float | None = None,
    k: int | None = None,
    section: str | None = None,
    coordinates: str = SPATIAL,
) -> Space:
    """Space of a data set; with neither `radius` nor `k` its neighbourhoods are those of the stored graph.

    Parameters
    ----------
    radius, k
        See :func:`cell2sen.data.space.neighbourhoods.find_neighbourhoods`.
    section
        obs column of the section (slide, sample) of each cell.
    coordinates
        Key of the coordinates in ``obsm``, and first part of the keys of the stored graph.

    Raises
    ------
    KeyError
        No such column, or no coordinates; lists what there is.
    ValueError
        Both `radius` and `k`, or neither of them and no stored graph.
    """
    if isinstance(data, str | Path):
        with open_anndata(data, whole=True) as adata:
            return read_space(adata, radius=radius, k=k, section=section, coordinates=coordinates)
    if coordinates not in data.obsm:
        raise KeyError(
            f"adata.obsm has no {coordinates!r} with the coordinates of the cells; available: "
            f"{list(data.obsm.keys())}. Columns of obs: adata.obsm[{coordinates!r}] = adata.obs[['x', 'y']].to_numpy()"
        )
    points = np.asarray(data.obsm[coordinates], dtype=np.float64)
    sections = None if section is None else text_column(data.obs, section)
    n_missing = int((~np.isfinite(points).all(axis=1)).sum())
    if n_missing == len(points):
        raise ValueError(f"no cell has coordinates: each has a missing value in obsm[{coordinates!r}]")
    if section is None:
        _warn_of_sections(points, data.uns.get(SPATIAL))
    if n_missing:
        logger.warning("%d of %d cells have no coordinates: they have no neighbours", n_missing, len(points))
    if radius is None and k is None:
        stored = read_neighbourhoods(data.obsp, data.uns, coordinates)
        if stored is None:
            raise ValueError(
                f"adata has no graph of neighbours (obsp[{coordinates + '_connectivities'!r}], as "
                "squidpy.gr.spatial_neighbors stores it): pass radius=, in units of the coordinates, or k=, the number "
                "of nearest cells"
            )
        return Space(coordinates=points, sections=sections, neighbourhoods=stored)
    found = find_neighbourhoods(points, radius=radius, k=k, sections=sections)
    if not found.connectivities.nnz:
        within, advice = (
            ("", "each section needs two cells or more")
            if radius is None
            else (f" within radius={radius}", "choose a larger radius, in the same units")
        )
        ranges = [round(float(value), 3) for value in np.nanmax(points, axis=0) - np.nanmin(points, axis=0)]
        raise ValueError(f"no cell has a neighbour{within}: the coordinates range over {ranges}; {advice}")
    return Space(coordinates=points, sections=sections, neighbourhoods=found)


def _warn_of_sections(points: NDArray[np.float64], images: Any) -> None:
    """Log a warning where cells of several sections may lie upon each other.

    Parameters
    ----------
    images
        ``uns["spatial"]``, in which squidpy and scanpy store an entry for each Visium section.
    """
    known = points[np.isfinite(points).all(axis=1)]
    n_same = len(known) - len(np.unique(known, axis=0))
    several = isinstance(images, Mapping) and len(images) > 1
    if several or n_same > _SAME_PLACE * len(known):
        reason = f"uns[{SPATIAL!r}] has {len(images)} sections" if several else f"{n_same} cells lie upon another one"
        logger.warning("%s: name the obs column of the section of each cell with section= (--section)", reason)
