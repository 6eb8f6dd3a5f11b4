"""Average of the weights of trainings with different seeds, calibrated and scored, with what embeddings need.

    python recipes/average.py recipes/nano.yaml OUT SEED_0 SEED_1 SEED_2 --data-dir FOLDER

The trainings must start from the same weights. Effects of noise differ between them and are averaged out (Wortsman et
al., "model soups", ICML 2022). Writes a model directory with the metadata of the first training.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cell2sen.data.output import complete_folder
from cell2sen.inference.responses.known_responses import RESPONSE_FILE
from cell2sen.inference.session import load_model
from cell2sen.model import resolve
from cell2sen.training import read_config
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.names import exclude_held_out
from cell2sen.training.release import directory, scorecard
from cell2sen.training.release.fit_calibration import calibrate
from cell2sen.training.release.fit_density import fit_density
from cell2sen.training.release.fit_gene_part import fit_gene_part
from cell2sen.training.release.fit_responses import fit_responses

WEIGHTS = "model.safetensors"


def averaged(models: list[Path]) -> dict[str, torch.Tensor]:
    """Mean of each weight tensor over models, computed in float64, in the dtype of the first model.

    Raises
    ------
    ValueError
        The models have different tensors, shapes or tokenizers.
    """
    stored = [load_file(model / WEIGHTS) for model in models]
    shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in stored]
    tokenizers = {(model / "tokenizer.json").read_bytes() for model in models}
    if any(shape != shapes[0] for shape in shapes) or len(tokenizers) > 1:
        raise ValueError(
            f"{[str(model) for model in models]} do not have the same tensors and tokenizer; name trainings that "
            "started from the same model"
        )
    zero = torch.zeros((), dtype=torch.float64)
    return {
        name: (sum((tensors[name].double() for tensors in stored), zero) / len(stored)).to(tensor.dtype)
        for name, tensor in stored[0].items()
    }


def average(recipe: Path, out: Path, models: list[Path], data_dir: Path) -> None:
    """Write the average of `models` to `out`, calibrate and score it, and measure its responses.

    Parameters
    ----------
    recipe
        Training file of `models`, for its data.
    out
        Directory to write.
    data_dir
        Folder that files in `recipe` are relative to.

    Raises
    ------
    FileExistsError
        `out` exists.
    ValueError
        The models differ in more than their weights, or were trained on other cells.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another directory or remove it")
    config = read_config(recipe)
    with complete_folder(out) as folder:
        shutil.copytree(models[0], folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RESPONSE_FILE))
        save_file(averaged(models), folder / WEIGHTS, metadata={"format": "pt"})
        hashes = {
            "weights_sha256": directory.hash_of_weights(folder),
            "averaged": [directory.hash_of_weights(model) for model in models],
        }
        directory.update_metadata(folder, hashes, remove=("calibration", "responses", "scores"))
        model = resolve(folder)
        cells = {data.file: TrainingCells(data, data_dir, model.recipe.case) for data in config.data.files}
        exclude_held_out(cells)
        split = {name: directory.split_of(file) for name, file in cells.items()}
        if others := [str(model) for model in models if resolve(model).metadata.get("split") != split]:
            raise ValueError(f"{others} were trained on other cells than those of {recipe}; name their training file")
        backend = load_model({"model": model, "progress": False})
        for file in cells.values():
            file.keep_genes(backend.known_genes)
        calibrate(folder, list(cells.values()))
        fit_density(folder, list(cells.values()), seed=config.seed)
        fit_gene_part(folder, list(cells.values()), config.card.gene_part, seed=config.seed)
        fit_responses(folder, list(cells.values()), seed=config.seed)
        scores = scorecard.scores(folder, list(cells.values()), config.card.score_cells, seed=config.seed)
        directory.update_metadata(folder, {"scores": scores})
        (folder / "README.md").write_text(scorecard.as_markdown(scores) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="training file of the models, for its data")
    parser.add_argument("out", type=Path, help="directory to write")
    parser.add_argument("models", type=Path, nargs="+", help="directories of the trained models")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the files in the training file")
    arguments = parser.parse_args()
    average(arguments.recipe, arguments.out, arguments.models, arguments.data_dir)


if __name__ == "__main__":
    main()
