"""Responses of cells to perturbations: perturb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

import pandas as pd

from cell2sen.backend import SENTENCE_END, Sampling
from cell2sen.inference.counts.abundance import target_counts
from cell2sen.inference.counts.measured_cells import counts_of, refuse_without_counts
from cell2sen.inference.counts.thinning import predicted_counts
from cell2sen.inference.options import Options, check_options
from cell2sen.inference.responses.control_cells import AUTO, perturbations_to_predict
from cell2sen.inference.responses.expected_response import basis_table
from cell2sen.inference.responses.perturb import Readout, Response, predict_response
from cell2sen.inference.session import model_of, start
from cell2sen.tl.results import (
    COUNTS_UNIT,
    UNIT,
    Output,
    add_sentences,
    check_input,
    check_output,
    record,
    sampling_record,
)

if TYPE_CHECKING:
    from anndata import AnnData


def perturb(
    adata: AnnData,
    perturbation: str | Sequence[str | None] | None = None,
    *,
    perturbation_column: str | None = None,
    control: str | Sequence[str | None] | None = AUTO,
    n_genes: int | None = None,
    readout: Readout = "auto",
    measured: bool = True,
    force: bool = False,
    output: Output = "expression",
    guided: bool = True,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    max_new_tokens: int = 2048,
    **options: Unpack[Options],
) -> AnnData:
    """Predicted expression of each cell after a perturbation.

    Parameters
    ----------
    adata
        Control cells, also among others. Not changed.
    perturbation
        One name for all controls, or one per cell; missing values (``None``, NaN, "", "NA", …) skip a cell. With one
        name, the cells of a file that has controls and others in a column are those controls; `control` changes it.
    perturbation_column
        ``obs`` column with one perturbation per cell, instead of `perturbation`: each cell gets the response to its own
        one. With `perturbation`: the cells that are controls in this column get the response.
    control
        Names of controls in `perturbation_column`, or else in any column (the message names it), or in a list of
        perturbations; ``None``, "" or NaN are cells without a value. ``"auto"``: the usual names (control, ctrl, DMSO,
        non-targeting, NT, PBS, …), except perturbations of the model. ``()``: there are none, all cells are predicted.
    n_genes
        Maximum number of genes in the sentence of the control; its prediction has as many. Default: the number that
        the model was trained with.
    readout
        ``"expected"``: the control's measured expression plus the change measured in similar training cells, or the
        model's own, see `measured`. More accurate for means. ``"sentence"``: the expression of one generated
        sentence, whose rank r has the value of the control's rank r. Both readouts use the values of the cell itself,
        so that no other cell changes them. ``"auto"``: expected if the model supports it, unless `guided`,
        `temperature`, `top_k` or `top_p` differ from their defaults.
    measured
        Predict expected responses from those measured in similar training cells, plus a share of what the model
        predicts beyond them (:mod:`cell2sen.inference.responses.known_responses`). ``False``: the model's own change,
        expected expression with the perturbation minus that without it, which needs a model with one token per gene
        that was trained with a name for unperturbed cells.
    force
        Predict also responses to names that the model was not trained on. They mean nothing: a small model changes much
        the same genes whatever the name.
    output
        ``"counts"``: ``X`` has whole-number counts, the control's own counts thinned where genes fall and raised where
        they rise, with the same sum (:mod:`cell2sen.inference.counts.thinning`), by the measured change of mean
        abundance (:mod:`cell2sen.inference.counts.abundance`), else as predicted. A cell's counts depend on the seed,
        its name and its perturbation alone. The layers stay expression.
    guided
        Generated sentences have only genes of this dataset, each at most once. ``False``: free text.
    temperature, top_k, top_p, seed
        Sampling of a generated sentence; temperature 0 is greedy. A cell's draw depends on the seed and its name alone.
        The expected readout uses the seed only.
    max_new_tokens
        Maximum length of free text, in tokens.
    **options
        Model, matrix, genes, templates and speed: see :class:`cell2sen.inference.options.Options`.

    Returns
    -------
    A new AnnData of the cells that have a perturbation and genes, in their order.

    ``X``, ``layers["control"]``, ``layers["delta"]``
        Predicted expression (or counts), the control's, and the difference; float32 CSR, ln(1 + CP10k).
    ``var``
        The genes that the model can write: names and columns of `adata`, and ``symbol``, the model's name of each
        (another column ``symbol`` as ``symbol_before``). The provenance counts those that it cannot write.
    ``obs``
        The control's columns (another column ``perturbation`` as ``perturbation_before``), ``perturbation``,
        ``sentence`` (as generated, or the highest genes of ``X``), ``validity`` (share of its words that are genes),
        ``uniqueness`` (share of these that are named for the first time), ``n_unknown``, ``n_repeated``.
    ``uns["cell2sen"]["perturb"]``
        Provenance, with the readout that was used, and the table ``basis``: the ``context`` of the training cells from
        which each ``perturbation`` is predicted (none: by the model alone), its ``perturbed_cells``, ``model_share``,
        and ``unlike``, the share of the cells that are unlike all contexts.

    Raises
    ------
    Unsupported
        ``readout="expected"`` of a model that does not support it.
    ValueError
        Neither `perturbation` nor `perturbation_column`, no controls of the given names, no cell to predict, names that
        are not unique with a temperature above 0, or negative or infinite values.
    KeyError
        Unknown ``layer`` or column; lists the available ones.
    TypeError
        `adata` is no AnnData object, or an option does not exist.
    """
    from anndata import AnnData

    check_input(adata, copy=True)
    check_options(options)
    check_output(output)
    perturbations = perturbations_to_predict(adata.obs, perturbation, perturbation_column, control, model_of(options))
    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=SENTENCE_END
    )
    session = start(adata, "perturb", options)
    if output == "counts":
        refuse_without_counts(session.data, "control cells")
        if not adata.obs_names.is_unique:
            raise ValueError(
                "output='counts' needs unique cell names, because a cell's draw depends on its name: call "
                "adata.obs_names_make_unique() first"
            )
    response = predict_response(
        session,
        perturbations,
        sampling=sampling,
        readout=readout,
        measured=measured,
        force=force,
        guided=guided,
        n_genes=n_genes,
    )
    values = response.predicted
    if output == "counts" and session.data is not None:
        names = session.sentences.names[response.rows]
        keys = [f"{name}\x00{name_}" for name, name_ in zip(names, response.perturbations, strict=True)]
        counts = counts_of(session.data, response.rows)
        changes = response.abundances
        values = predicted_counts(
            counts,
            values,
            keys,
            session.sentences.symbols,
            seed=seed,
            targets=lambda row, own: target_counts(changes, row, own),
        )
    result = AnnData(
        X=values,
        obs=_obs_of_response(adata, response, perturbation_column),
        var=session.var(),
        layers={"control": response.control, "delta": (response.predicted - response.control).tocsr()},
    )
    provenance = session.provenance(
        unit=COUNTS_UNIT if output == "counts" else UNIT,
        readout=response.readout,
        basis=basis_table(response.basis),
        guided=guided,
        n_genes=n_genes or session.length or 0,
        **sampling_record(sampling),
    )
    record(result, "perturb", provenance)
    return result


def _obs_of_response(adata: AnnData, response: Response, perturbation_column: str | None) -> pd.DataFrame:
    """Annotations of predicted cells: the control's columns, the perturbations and the predicted sentences."""
    obs: pd.DataFrame = adata.obs.iloc[response.rows].copy()
    if "perturbation" in obs and perturbation_column != "perturbation":
        obs["perturbation_before"] = obs["perturbation"]
    obs["perturbation"] = pd.Categorical(response.perturbations)
    add_sentences(obs, response.answers)
    return obs
