"""What the embedded model's own prediction changes after names that mean nothing, as a share of IFN-beta's response.

    python benchmarks/made_up_names.py [--cells 24]

Cells: `scanpy.datasets.pbmc68k_reduced()`. Prints the root mean square of the mean change after each name, divided by
that of the response to IFN-beta (measured, and of the network alone).
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import scanpy as sc

import cell2sen as c2s

NAMES = (
    "banana", "zeltor", "xyzzy", "blue sky", "grumdle", "seven red apples", "a name of many words that means nothing",
    "this is not a compound that anyone has made",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=24)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    cells = sc.datasets.pbmc68k_reduced()[: arguments.cells].raw.to_adata()

    def size(name: str, **options: bool) -> float:
        predicted = c2s.tl.perturb(cells, name, progress=False, **options)
        return float(np.sqrt((predicted.layers["delta"].toarray().mean(axis=0) ** 2).mean()))

    known, alone = size("IFN-beta"), size("IFN-beta", measured=False)
    for name in NAMES:
        own = size(name, force=True)
        print(f"{name}: {own / known:.1%} of the measured response, {own / alone:.1%} of the network's own")


if __name__ == "__main__":
    main()
