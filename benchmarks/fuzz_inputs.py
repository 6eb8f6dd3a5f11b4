"""Fuzzing of inputs: count matrices with a known truth, changed as files are in practice, and read again.

    python benchmarks/fuzz_inputs.py [--draws 10000] [--seed 0] [--show 5]

Each draw makes counts of a few cells, then applies a random chain of changes (genes left out, scale, other features,
names, storage, dtype, place, annotations, container; `tests/helpers/changed_files.py`). The result must be right, or a
refusal or warning that names the reason. Right means: each sentence has exactly the expressed genes of its cell in
descending order of the true counts, and the expression is ln(1 + counts per 10,000) of the true counts over all genes
of the file. Prints the numbers of draws, and ends with 1 if any is silently wrong, crashes, is refused without the
reason, or is not read right although nothing about it is in doubt.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
from changed_files import draw
from changed_files_read import BAD, verdict, written


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=5, help="examples of each kind of failure")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    numbers: Counter[str] = Counter(dict.fromkeys(("right", "warned", "refused", *BAD), 0))
    with tempfile.TemporaryDirectory() as base:
        for number in tqdm(range(arguments.draws), unit=" draws"):
            case = draw(np.random.default_rng([arguments.seed, number]))
            with tempfile.TemporaryDirectory(dir=base) as folder:
                kind, text = verdict(case, written(case, Path(folder)))
            numbers[kind] += 1
            if kind in BAD and numbers[kind] <= arguments.show:
                chain = " > ".join(name for name in case.chain if name != "nothing")
                tqdm.write(f"{kind} in draw {number}: {chain}; shape {case.truth.shape}\n  {text[-800:]}")
    print(json.dumps({"draws": arguments.draws, "seed": arguments.seed, **numbers}))
    sys.exit(any(numbers[kind] for kind in BAD))


if __name__ == "__main__":
    main()
