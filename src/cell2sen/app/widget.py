"""The page in a notebook: view."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from cell2sen.app.assets import joined_module, style
from cell2sen.app.page import Page
from cell2sen.inference.options import Options

if TYPE_CHECKING:
    from anndata import AnnData


def view(
    adata: AnnData,
    *,
    reference: AnnData | str | Path | None = None,
    label: str | None = None,
    **options: Unpack[Options],
) -> Any:
    """The page to look at cells, as a widget of a notebook (extra ``notebook``).

    The same page as that of ``cell2sen app``: map, sentences, labels and responses of what you select.

    Parameters
    ----------
    adata
        Cells, as counts or log-normalised values; in memory or backed. Not changed.
    reference, label
        Labelled cells and their obs column, for transfers. Default: labels of the cells that are not selected.
    **options
        Model, matrix, genes, templates and speed: see :class:`cell2sen.inference.options.Options`.

    Returns
    -------
    A widget, shown where it is the last value of a notebook's cell. It has

    ``selection``
        Rows of the selected cells, int64.
    ``adata``
        A new object with the labels, probabilities, maps and groups that were made on the page; it shares the matrices
        of the given one.

    Raises
    ------
    ImportError
        anywidget is not installed.
    ValueError
        More cells than a page can show, or values that cannot be ranked.
    """
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise ImportError("the page in a notebook needs anywidget: pip install 'cell2sen[notebook]'") from error

    class CellWidget(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
        """The page in a notebook."""

        _esm = traitlets.Unicode(joined_module()).tag(sync=True)
        _css = traitlets.Unicode(style()).tag(sync=True)

        def __init__(self) -> None:
            super().__init__()
            self.page = Page(
                adata,
                name=f"{adata.n_obs:,} cells",
                reference=reference,
                label=label,
                listener=lambda status: self.send({"status": status}),
                **options,
            )
            self.on_msg(self._receive)

        def _receive(self, _: Any, content: Any, buffers: list[Any]) -> None:
            if isinstance(content, dict) and "id" in content and buffers:
                frame, _ = self.page.answer(bytes(buffers[0]))
                self.send({"id": content["id"]}, buffers=[frame])

        @property
        def selection(self) -> NDArray[np.int64]:
            """Rows of the selected cells, int64."""
            return self.page.selected

        @property
        def adata(self) -> AnnData:
            """The cells with the results of the page."""
            return self.page.results.anndata()

        def close(self) -> None:
            """End the jobs and the connection to the browser."""
            self.page.close()
            super().close()

    return CellWidget()
