"""Build of a corpus: resumable, in bounded memory, the same bytes for the same settings and files."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen import tasks
from cell2sen.data.obs import text_column
from cell2sen.data.output import complete_file
from cell2sen.data.progress import Progress
from cell2sen.data.reader import open_reader
from cell2sen.engine.tokenization.tokenizer import Tokens, known_genes, load_tokens
from cell2sen.inference.templates import choose_templates, templates_file
from cell2sen.model import Model, resolve
from cell2sen.task import Task
from cell2sen.training.config.lengths import genes_per_sentence
from cell2sen.training.config.training_file import flat, plain
from cell2sen.training.corpus.card import write_card
from cell2sen.training.corpus.distinct import first_of_each, hashes_of_file
from cell2sen.training.corpus.settings import CorpusConfig
from cell2sen.training.corpus.shards import Part, parts_of, write_shard
from cell2sen.training.examples.cells import TrainingCells

#: File with the settings, the hashes of the input files and the templates.
MANIFEST = "corpus.json"


def build_corpus(config: CorpusConfig, out: str | Path, *, base: str | Path = ".", progress: bool = True) -> Path:
    """Write a corpus: Parquet files of training and of held-out pairs, settings and a data card.

    A build that was killed leaves ``<out>.part``; the same call continues it, and the result is that of an
    uninterrupted build, byte for byte. Each shard depends on the settings, on the input files and on its own number
    only. One part of one file is in memory at a time.

    Parameters
    ----------
    config
        Settings, see :func:`cell2sen.training.corpus.settings.read_corpus_config`.
    out
        Folder to write. It appears when it is complete.
    base
        Folder that the files in `config` are relative to.
    progress
        Show a progress bar over shards on stderr.

    Returns
    -------
    Path
        The folder: ``train-*.parquet``, ``held_out-*.parquet`` with the columns ``prompt``, ``completion``, ``task``,
        ``data_set``, ``cells``, ``prompt_tokens``, ``completion_tokens``; ``corpus.json``; ``README.md``.

    Raises
    ------
    FileExistsError
        `out` exists.
    FileNotFoundError
        No such file of cells.
    ValueError
        The unfinished build has other settings or input files, or nothing to learn from.
    """
    out, base = Path(out), Path(base)
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another folder or remove it")
    folder = out.with_name(f"{out.name}.part")
    folder.mkdir(parents=True, exist_ok=True)
    model = resolve(config.model)
    worded = _tasks(config, model, base)
    manifest = _manifest(config, model, worded, base)
    _check_resumed(folder, manifest)
    tokens = load_tokens(str(model.path), local_files_only=True)
    lengths = genes_per_sentence(worded, {**model.metadata.get("lengths", {}), **config.lengths})
    kept = _kept_cells(config, base, folder)
    parts = _parts(config, base, kept)
    with Progress(len(parts), "corpus", "part", show=progress) as bar:
        for part in parts:
            _write_part(folder, part, config, base, model, tokens, worded, lengths)
            bar.update(1)
    for mask in folder.glob("kept-*.npy"):
        mask.unlink()
    write_card(folder, config, manifest, duplicates=[int((~mask).sum()) for mask in kept])
    folder.rename(out)
    return out


def _tasks(config: CorpusConfig, model: Model, base: Path) -> dict[str, Task]:
    templates = templates_file(config.templates, base)
    names = sorted({name for file in config.files for name in file.tasks})
    return {name: choose_templates(tasks.load(name), model, templates) for name in names}


def _manifest(config: CorpusConfig, model: Model, worded: dict[str, Task], base: Path) -> dict[str, Any]:
    """Everything that the bytes of a corpus depend on, as plain values."""
    from cell2sen import __version__

    return {
        "settings": plain(config) | {"model": model.name},  # no local path
        "inputs": {file.file: _sha256(base / file.file) for file in config.files},
        "templates": {name: task.template_hash for name, task in worded.items()},
        "version": __version__,
    }


def _check_resumed(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a new build; compare that of one that is continued.

    Raises
    ------
    ValueError
        They differ; names what does.
    """
    file = folder / MANIFEST
    text = json.dumps(manifest, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if not file.exists():
        with complete_file(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return
    before, now = flat(json.loads(file.read_text(encoding="utf-8"))), flat(json.loads(text))
    if changed := sorted(key for key in {*before, *now} if before.get(key) != now.get(key)):
        raise ValueError(
            f"the unfinished corpus in {folder} was begun with other settings or files ({', '.join(changed)}): "
            "continue it with those, or remove it"
        )


def _kept_cells(config: CorpusConfig, base: Path, folder: Path) -> list[NDArray[np.bool_]]:
    """Cells of each file that the corpus may have, bool (cells,): without copies of others."""
    paths = [folder / f"kept-{number:04d}.npy" for number in range(len(config.files))]
    if all(path.exists() for path in paths):
        return [np.load(path, allow_pickle=False) for path in paths]
    if not config.deduplicate:
        return [np.ones(_n_cells(base / file.file), dtype=bool) for file in config.files]
    hashes = [hashes_of_file(file, base) for file in config.files]
    held_out = [config.study(file.file) in config.held_out for file in config.files]
    order = sorted(range(len(hashes)), key=lambda number: (not held_out[number], number))
    kept = first_of_each(hashes, order)
    for path, mask in zip(paths, kept, strict=True):
        with complete_file(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, mask)
    return kept


def _parts(config: CorpusConfig, base: Path, kept: list[NDArray[np.bool_]]) -> list[Part]:
    parts: list[Part] = []
    for number, (file, mask) in enumerate(zip(config.files, kept, strict=True)):
        sections = None
        if file.space is not None:
            sections = np.zeros(len(mask), dtype=object)
            if file.space.section is not None:
                with open_reader(base / file.file) as reader:
                    sections = text_column(reader.obs, file.space.section, f"obs of {file.file}")
        parts += parts_of(number, mask, config.part_cells, config.seed, sections)
    if not parts:
        raise ValueError("nothing to learn from: none of the files has a cell with genes")
    return parts


def _write_part(
    folder: Path,
    part: Part,
    config: CorpusConfig,
    base: Path,
    model: Model,
    tokens: Tokens,
    worded: dict[str, Task],
    lengths: dict[str, int],
) -> None:
    """Write the shards of a part that do not exist yet."""
    file = config.files[part.file]
    held_out_study = config.study(file.file) in config.held_out
    n_draws = max(map(math.ceil, file.tasks.values()))
    missing = [shard for shard in part.shards(n_draws, held_out_study) if not (folder / shard[0]).exists()]
    if not missing:
        return
    cells = TrainingCells(file, base, model.recipe.case, rows=part.rows)
    if held_out_study:
        cells.test = np.ones_like(cells.test)
    cells.keep_genes(lambda symbols: known_genes(model, tokens, symbols))
    for name, draw, held_out in missing:
        write_shard(folder / name, cells, part, worded, config, tokens, lengths=lengths, draw=draw, held_out=held_out)


def _n_cells(path: Path) -> int:
    with open_reader(path) as reader:
        return reader.n_obs


def _sha256(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of the files in a folder, as hex digits."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(b"" if file == path else file.relative_to(path).as_posix().encode())
        with file.open("rb") as stream:
            while block := stream.read(2**24):
                digest.update(block)
    return digest.hexdigest()
