"""Baselines and ceilings of spatial tasks: mean of the neighbours, distance of expression."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.space.neighbourhoods import read_neighbourhoods
from cell2sen.evaluation.inputs import UNS, Cells
from cell2sen.evaluation.metrics import Missing
from cell2sen.evaluation.scoring.baselines.method import Method, methods
from cell2sen.evaluation.scoring.labels import Answers, Labelled

#: obs column of the mean distance of expression between the cells of a sample, which ``tl.same_neighbourhood`` writes.
DISTANCE = "expression_distance"

#: Methods of labels that learn from the expression of single cells, which samples are not.
_OF_CELLS = ("nearest_training_cell", "logistic_regression", "ceiling")

#: Training cells, genes with the highest variance, and principal components of the regression.
_MAX_CELLS, _GENES, _COMPONENTS = 5000, 2000, 50


def methods_of_labels(answers: Answers) -> list[Method]:
    """Methods to score labels with: those of all labels, and those of space where the cells have neighbours.

    For questions about samples of cells the methods that learn from single cells are replaced.
    """
    known = methods("annotate")
    if _are_samples(answers.real.cells):
        kept = [method for method in known if method.name not in _OF_CELLS]
        return [*kept, _method(expression_distance), _method(best_distance, name="ceiling", role="ceiling")]
    if answers.train is not None and all(_has_graph(side.cells) for side in (answers.real, answers.train)):
        ceilings = [method for method in known if method.role == "ceiling"]
        return [
            *(method for method in known if method.role != "ceiling"), _method(mean_of_neighbours), *ceilings
        ]  # fmt: skip
    return known


def mean_of_neighbours(answers: Answers, rng: np.random.Generator) -> NDArray[Any]:
    """Logistic regression on the mean expression of each cell and its neighbours, learned from the training cells."""
    try:
        from sklearn.decomposition import PCA
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError("this baseline needs scikit-learn: pip install 'cell2sen[eval]'") from error
    train, real = answers.train, answers.real
    if train is None or len(set(train.labels)) < 2:
        raise Missing("training cells of two labels are needed; pass train=")
    known = rng.permutation(len(train.rows))[:_MAX_CELLS]
    means = neighbour_means(train.cells, train.rows[known])
    genes = np.sort(np.argsort(-means.var(axis=0), kind="stable")[:_GENES])
    pca = PCA(min(_COMPONENTS, len(means) - 1, len(genes)), svd_solver="covariance_eigh").fit(means[:, genes])
    learned, tested = (pca.transform(side[:, genes]) for side in (means, neighbour_means(real.cells, real.rows)))
    spread = learned.std(axis=0).max() or 1.0
    model = LogisticRegression(max_iter=2000).fit(learned / spread, train.labels[known].astype(str))
    return np.asarray(model.predict(tested / spread), dtype=object)


def neighbour_means(cells: Cells, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean ln(1 + CP10k) of each cell and its neighbours, float64 (rows, genes)."""
    graph = read_neighbourhoods(cells.obsp, cells.uns)
    assert graph is not None
    links = sp.csr_matrix(graph.connectivities + sp.identity(len(cells), format="csr"))[rows]
    used = np.unique(links.indices)
    total = links[:, used] @ cells.rows(used).astype(np.float64)
    return np.asarray(total.todense()) / np.asarray(links.sum(axis=1)).reshape(-1, 1)


def expression_distance(answers: Answers, rng: np.random.Generator) -> NDArray[Any]:
    """Yes for samples whose cells differ less than a threshold, learned from training samples, else their median."""
    distances = _distances(answers.real)
    if answers.train is not None and DISTANCE in answers.train.cells.obs:
        threshold = best_threshold(_distances(answers.train), answers.train.labels)
    else:
        threshold = float(np.median(distances))
    return _answers(distances, threshold)


def best_distance(answers: Answers, rng: np.random.Generator) -> NDArray[Any]:
    """The best threshold of the distance of expression, chosen with the true answers.

    The score of a simple rule on these samples; a model that reads the genes may be better.
    """
    distances = _distances(answers.real)
    return _answers(distances, best_threshold(distances, answers.real.labels))


def best_threshold(distances: NDArray[np.float64], labels: NDArray[Any]) -> float:
    """Threshold below which yes is most often right; the lowest of equally good ones."""
    order = np.argsort(distances, kind="stable")
    values, yes = distances[order], np.asarray(labels[order] == "yes", dtype=np.int64)
    # Right answers if the first k samples are a yes, for k from 0.
    right = np.concatenate([[0], np.cumsum(yes)]) + (1 - yes).sum() - np.concatenate([[0], np.cumsum(1 - yes)])
    between = np.append(values, np.inf)
    possible = np.concatenate([[True], values[1:] > values[:-1], [True]])  # equal distances are on one side
    return float(between[int(np.argmax(np.where(possible, right, -1)))])


def _answers(distances: NDArray[np.float64], threshold: float) -> NDArray[Any]:
    return np.where(distances < threshold, "yes", "no").astype(object)


def _distances(samples: Labelled) -> NDArray[np.float64]:
    return np.asarray(samples.cells.obs[DISTANCE].to_numpy(dtype=np.float64)[samples.rows])


def _are_samples(cells: Cells) -> bool:
    return DISTANCE in cells.obs and "samples" in cells.uns.get(UNS, {})


def _has_graph(cells: Cells) -> bool:
    return read_neighbourhoods(cells.obsp, cells.uns) is not None


def _method(function: Any, *, name: str = "", role: Any = "baseline") -> Method:
    first_line = str(function.__doc__).strip().splitlines()[0].rstrip(".")
    return Method(
        name=name or function.__name__, summary=first_line[:1].lower() + first_line[1:], role=role, run=function
    )
