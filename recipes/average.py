"""Average the weights of trainings that differ in their seed, and calibrate what comes out like any training.

    python recipes/average.py recipes/nano.yaml OUT SEED_0 SEED_1 SEED_2 --data-dir FOLDER

The trainings must begin from the same weights. What each has learned of noise differs and is averaged out (Wortsman et
al., ICML 2022, "model soups"). Writes a model directory with the metadata of the first training.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cell2sen.inference.corrections import CORRECTION_FILE
from cell2sen.inference.session import load_model
from cell2sen.model import METADATA_FILE, resolve
from cell2sen.training import read_config
from cell2sen.training.cells import Cells, exclude_held_out
from cell2sen.training.release import directory as model_directory
from cell2sen.training.release import scorecard
from cell2sen.training.release.fit_calibration import calibrate
from cell2sen.training.release.fit_corrections import correct

WEIGHTS = "model.safetensors"


def averaged(models: list[Path]) -> dict[str, torch.Tensor]:
    """The mean of each tensor, summed in float64, in the dtype that it has.

    Raises
    ------
    ValueError
        Models of different shape, or that read text otherwise.
    """
    stored = [load_file(model / WEIGHTS) for model in models]
    shapes = [{name: tensor.shape for name, tensor in one.items()} for one in stored]
    tokenizers = {(model / "tokenizer.json").read_bytes() for model in models}
    if any(one != shapes[0] for one in shapes) or len(tokenizers) > 1:
        raise ValueError(f"{[str(model) for model in models]} do not have the same tensors and tokenizer")
    return {
        name: (sum(one[name].double() for one in stored) / len(stored)).to(tensor.dtype)
        for name, tensor in stored[0].items()
    }


def average(recipe: Path, out: Path, models: list[Path], data_dir: Path) -> None:
    """Write the average of `models` to `out`, which must not exist."""
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another directory or remove it")
    config = read_config(recipe)
    with model_directory.complete(out) as folder:
        shutil.copytree(models[0], folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(CORRECTION_FILE))
        save_file(averaged(models), folder / WEIGHTS, metadata={"format": "pt"})
        metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
        for key in ("calibration", "corrections", "scores"):
            metadata.pop(key, None)
        metadata["weights_sha256"] = model_directory.hash_of_weights(folder)
        metadata["averaged"] = [model_directory.hash_of_weights(model) for model in models]
        (folder / METADATA_FILE).write_text(json.dumps(metadata, indent=1, ensure_ascii=False), encoding="utf-8")
        model = resolve(folder)
        cells = {data.file: Cells(data, data_dir, model.recipe.case) for data in config.data}
        exclude_held_out(cells)
        split = {file: model_directory.split_of(one) for file, one in cells.items()}
        if strange := [str(one) for one in models if resolve(one).metadata.get("split") != split]:
            raise ValueError(f"{strange} were trained on other cells than {recipe} says")
        backend = load_model({"model": model, "progress": False})
        for one in cells.values():
            one.keep_genes(backend.known_genes(one.symbols))
        calibrate(folder, list(cells.values()))
        correct(folder, list(cells.values()), seed=config.seed)
        measured = scorecard.scores(folder, list(cells.values()), config.score_cells, seed=config.seed)
        metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8")) | {"scores": measured}
        (folder / METADATA_FILE).write_text(json.dumps(metadata, indent=1, ensure_ascii=False), encoding="utf-8")
        (folder / "README.md").write_text(scorecard.as_markdown(measured) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="the training file, for its data")
    parser.add_argument("out", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--data-dir", type=Path, required=True)
    asked = parser.parse_args()
    average(asked.recipe, asked.out, asked.models, asked.data_dir)


if __name__ == "__main__":
    main()
