"""Neighbourhoods of cells in space: by radius, the nearest cells, or a stored graph, in squidpy's layout."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

#: Key of the coordinates in ``obsm``, and first part of the keys of the graph, as in squidpy.
SPATIAL = "spatial"

#: Relative difference below which two distances are the same, as on grids of spots.
_SAME_DISTANCE = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbourhoods:
    """The neighbours of each cell, itself excluded."""

    connectivities: sp.csr_matrix
    """float64 CSR (cells, cells): 1 for each neighbour (column) of a cell (row)."""

    distances: sp.csr_matrix
    """float64 CSR (cells, cells): distances of neighbours, in units of the coordinates; none are stored where a graph
    came without them."""

    params: Mapping[str, Any] = field(default_factory=dict)
    """How the graph was made, as squidpy records it: ``radius``, ``n_neighbors``, ``coord_type``, ``transform``."""

    def __len__(self) -> int:
        return int(self.connectivities.shape[0])

    @property
    def n_neighbours(self) -> NDArray[np.int64]:
        """Number of neighbours of each cell, int64 (cells,)."""
        return np.diff(self.connectivities.indptr).astype(np.int64)

    def of(self, cell: int) -> NDArray[np.int64]:
        """Rows of the neighbours of a cell, int64 (neighbours,), ascending."""
        part = slice(self.connectivities.indptr[cell], self.connectivities.indptr[cell + 1])
        return np.sort(self.connectivities.indices[part]).astype(np.int64)

    def within(self, rows: NDArray[Any]) -> Neighbourhoods:
        """Neighbourhoods of some cells among themselves; `rows` as for numpy."""
        return Neighbourhoods(
            connectivities=sp.csr_matrix(self.connectivities[rows][:, rows]),
            distances=sp.csr_matrix(self.distances[rows][:, rows]),
            params=self.params,
        )

    def write(self, obsp: MutableMapping[str, Any], uns: MutableMapping[str, Any], key: str = SPATIAL) -> None:
        """Store the graph as squidpy does: two matrices in ``obsp``, their keys and the settings in ``uns``."""
        keys = {"connectivities_key": f"{key}_connectivities", "distances_key": f"{key}_distances"}
        obsp[keys["connectivities_key"]], obsp[keys["distances_key"]] = self.connectivities, self.distances
        uns[f"{key}_neighbors"] = {**keys, "params": {name: _storable(value) for name, value in self.params.items()}}


def read_neighbourhoods(obsp: Mapping[str, Any], uns: Mapping[str, Any], key: str = SPATIAL) -> Neighbourhoods | None:
    """The graph that squidpy or :meth:`Neighbourhoods.write` stored; ``None`` without one.

    Entries on the diagonal are dropped. Weights of transformed graphs are not used, only whether there is an entry.
    """
    record = uns.get(f"{key}_neighbors", {})
    name = str(record.get("connectivities_key", f"{key}_connectivities"))
    if name not in obsp:
        return None
    graph = sp.coo_matrix(obsp[name])
    links = (graph.data != 0) & (graph.row != graph.col)
    shape, rows, columns = graph.shape, graph.row[links], graph.col[links]
    connectivities = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)
    connectivities.data[:] = 1.0  # an entry that was stored twice
    name = str(record.get("distances_key", f"{key}_distances"))
    distances = sp.csr_matrix(obsp.get(name, shape), dtype=np.float64)
    return Neighbourhoods(connectivities=connectivities, distances=distances, params=dict(record.get("params", {})))


def find_neighbourhoods(
    coordinates: Any,
    *,
    radius: float | None = None,
    k: int | None = None,
    sections: Sequence[Any] | NDArray[Any] | None = None,
) -> Neighbourhoods:
    """Neighbourhoods by distance, with scipy's k-d tree.

    Parameters
    ----------
    coordinates
        float (cells, dimensions). Cells with a missing coordinate have no neighbours.
    radius
        Neighbours are all cells within this distance, in units of the coordinates.
    k
        Neighbours are the k nearest cells, and those that are as near as the last of them, so that the order of the
        cells does not matter.
    sections
        Section or sample of each cell; cells of different sections, and cells without one (``None``), are no
        neighbours.

    Raises
    ------
    ValueError
        Not exactly one of `radius` and `k`, one that is not positive, or coordinates of another shape.
    """
    points = np.asarray(coordinates, dtype=np.float64)
    if points.ndim != 2:
        raise ValueError(f"coordinates must be an array (cells, dimensions), found the shape {points.shape}")
    if (radius is None) == (k is None):
        raise ValueError(f"pass either radius or k, the number of nearest cells; found radius={radius} and k={k}")
    if (radius if radius is not None else k or 0) <= 0:
        raise ValueError(f"radius and k must be positive, found {radius if k is None else k}")
    groups = np.zeros(len(points), dtype=object) if sections is None else np.asarray(sections, dtype=object)
    usable = np.isfinite(points).all(axis=1) & np.array([group is not None for group in groups], dtype=bool)
    parts = [np.zeros((0, 2), dtype=np.int64)]
    for section in dict.fromkeys(groups[usable].tolist()):
        rows = np.flatnonzero(usable & (groups == section))
        links = _within_radius(points[rows], radius) if radius is not None else _nearest(points[rows], int(k or 0))
        parts.append(rows[links])
    sources, targets = np.concatenate(parts).T
    lengths = np.linalg.norm(points[sources] - points[targets], axis=1)
    shape = (len(points), len(points))
    return Neighbourhoods(
        connectivities=sp.csr_matrix((np.ones(len(sources)), (sources, targets)), shape=shape),
        distances=sp.csr_matrix((lengths, (sources, targets)), shape=shape),
        params={"radius": radius, "n_neighbors": k, "coord_type": "generic", "transform": None},
    )


def _within_radius(points: NDArray[np.float64], radius: float) -> NDArray[np.int64]:
    """Links (row, neighbour) of all cells within a distance, in both directions, int64 (links, 2)."""
    from scipy.spatial import KDTree

    links = KDTree(points).query_pairs(radius, output_type="ndarray").astype(np.int64).reshape(-1, 2)
    return np.concatenate([links, links[:, ::-1]])


def _nearest(points: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Links (row, neighbour) to the k nearest cells and those as near as the last of them, int64 (links, 2)."""
    from scipy.spatial import KDTree

    n = len(points)
    if n < 2:
        return np.zeros((0, 2), dtype=np.int64)
    tree, k = KDTree(points), min(k, n - 1)
    # The cell itself, its k neighbours, and one more that shows a tie.
    distances, nearest = (np.atleast_2d(values) for values in tree.query(points, min(k + 2, n)))
    limit = distances[:, k] * (1 + _SAME_DISTANCE)
    tied = (distances[:, k + 1] <= limit) if distances.shape[1] > k + 1 else np.zeros(n, dtype=bool)
    rows, columns = np.repeat(np.flatnonzero(~tied), k + 1), nearest[~tied, : k + 1].ravel()
    parts = [np.stack([rows, columns], axis=1)]
    for row in np.flatnonzero(tied):
        around = np.asarray(tree.query_ball_point(points[row], limit[row]), dtype=np.int64)
        parts.append(np.stack([np.full(len(around), row), around], axis=1))
    links: NDArray[np.int64] = np.concatenate(parts).astype(np.int64)
    between: NDArray[np.int64] = links[links[:, 0] != links[:, 1]]
    return between


def _storable(value: Any) -> Any:
    """Setting that HDF5 can hold."""
    return "None" if value is None else value
