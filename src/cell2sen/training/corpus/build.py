"""Build of a corpus: resumable, in bounded memory, the same bytes for the same settings and files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cell2sen import tasks
from cell2sen.data.output import complete_file
from cell2sen.data.progress import Progress
from cell2sen.engine.tokenization.tokenizer import known_genes, load_tokens
from cell2sen.inference.templates import choose_templates, templates_file
from cell2sen.model import Model, resolve
from cell2sen.sentences.rank_fit import RankFitter
from cell2sen.task import Task
from cell2sen.training.config.lengths import genes_per_sentence
from cell2sen.training.config.texts import text_files
from cell2sen.training.config.training_file import flat, plain
from cell2sen.training.corpus.card import CARD, write_card
from cell2sen.training.corpus.plan import keep_distinct, outlines, parts_of
from cell2sen.training.corpus.reading import RECORD
from cell2sen.training.corpus.settings import CorpusConfig
from cell2sen.training.corpus.shards import PartWriter
from cell2sen.training.corpus.shuffling import Shuffling
from cell2sen.training.examples.cells import MAX_FIT_CELLS
from cell2sen.training.examples.pairs import Examples
from cell2sen.training.release.directory import learned

#: Tokens of a sample, at most, of a model with a longer context.
MAX_TOKENS = 8192

#: Folder, within an unfinished corpus, of files that the finished one does not have.
WORK = "work"


def build_corpus(config: CorpusConfig, out: str | Path, *, base: str | Path = ".", progress: bool = True) -> Path:
    """Write a corpus: Parquet files of training and of held-out pairs, settings and a data card.

    A build that was killed leaves ``<out>.part``; the same call continues it, and the result is that of an
    uninterrupted build, byte for byte. One part of one file is in memory at a time, or one shard; of all files the
    annotations of the cells.

    Parameters
    ----------
    config
        Settings, see :func:`cell2sen.training.corpus.settings.read_corpus_config`.
    out
        Folder to write. It appears when it is complete.
    base
        Folder that the files in `config` are relative to.
    progress
        Show a progress bar on stderr.

    Returns
    -------
    Path
        The folder: ``train-*.parquet``, ``held_out-*.parquet`` with the columns ``prompt``, ``completion``, ``task``,
        ``data_set``, ``cells``, ``prompt_tokens``, ``completion_tokens``, all rows in random order; ``corpus.json``;
        ``README.md``.

    Raises
    ------
    FileExistsError
        `out` exists.
    FileNotFoundError
        No such file of cells, gene sets or text.
    OSError
        The disk is full; the same call continues when there is space.
    ValueError
        The unfinished build has other settings or input files, or nothing to learn from.
    """
    out, base = Path(out), Path(base)
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another folder or remove it")
    folder = out.with_name(f"{out.name}.part")
    work = folder / WORK
    model = resolve(config.model)
    templates = templates_file(config.templates, base)
    worded = {name: choose_templates(tasks.load(name), model, templates, to_learn=True) for name in config.tasks}
    made_of = _made_of(config, model, worded, base)
    work.mkdir(parents=True, exist_ok=True)
    _check_resumed(folder, made_of)
    if not (folder / CARD).exists():
        try:
            _build(config, model, worded, made_of, base, folder, progress)
        except OSError as error:
            if error.errno != errno.ENOSPC and "No space left" not in str(error):
                raise
            text = f"no space left for {folder}, which keeps what is done: make room, and the same call continues it"
            raise OSError(errno.ENOSPC, text) from error
    shutil.rmtree(work, ignore_errors=True)
    folder.rename(out)
    return out


def _build(
    config: CorpusConfig,
    model: Model,
    worded: Mapping[str, Task],
    made_of: Mapping[str, Any],
    base: Path,
    folder: Path,
    progress: bool,
) -> None:
    """Write all files of a corpus; the card is the last one."""
    work = folder / WORK
    tokens = load_tokens(str(model.path), local_files_only=True)
    lengths = genes_per_sentence(worded, {**model.metadata.get("lengths", {}), **config.lengths})
    examples = outlines(
        config, base, model.recipe.case, worded, lengths, lambda symbols: known_genes(model, tokens, symbols)
    )
    left_out = keep_distinct(examples, config, base, work)
    parts = parts_of(examples, config.part_cells, config.seed)
    sides = {
        side: Shuffling(
            side=side,
            parts=[work / name for part in parts if part.held_out == (side != "train") for name, _ in part.draws],
            folder=folder,
            work=work,
            shard_samples=config.shard_samples,
            seed=config.seed,
        )
        for side in ("train", "held_out")
    }
    max_tokens = int(made_of["max_tokens"])
    writer = PartWriter(config=config, examples=examples, tokens=tokens, max_tokens=max_tokens, folder=work)
    with Progress(len(parts), "corpus", "part", show=progress) as bar:
        for part in parts:
            if not sides["held_out" if part.held_out else "train"].dealt.exists():
                writer.write(part)
            bar.update(1)
    for side, shuffling in sides.items():
        shuffling.deal(config.weights if side == "train" else {})
        for path in shuffling.parts:
            path.unlink(missing_ok=True)
    for shuffling in sides.values():
        shuffling.write()
    if not any(folder.glob("train-*.parquet")):
        raise ValueError("nothing to learn from: no training cell has the labels, or the controls, that its tasks need")
    known = {**learned(examples, _fit(examples)), "case": model.recipe.case}
    record = {"made_of": made_of, "learned": known, "genes": _genes(examples)}
    _write_record(folder, record)
    write_card(folder, config, made_of, left_out=left_out, dealt=json.loads(sides["train"].dealt.read_text()))


def _made_of(config: CorpusConfig, model: Model, worded: Mapping[str, Task], base: Path) -> dict[str, Any]:
    """Everything that the bytes of a corpus depend on, as plain values."""
    from cell2sen import __version__

    files = [data.file for data in config.files] + [data.file for data in config.gene_sets]
    tables = [
        data.matrix.space.interactions for data in config.files if data.matrix.space and data.matrix.space.interactions
    ]
    texts = [os.path.relpath(path, base) for data in config.files for path in text_files(data.texts, base)]
    return {
        "settings": plain(config) | {"model": model.name},  # no local path
        "inputs": {file: _sha256(base / file) for file in dict.fromkeys([*files, *tables, *texts])},
        "templates": {name: task.template_hash for name, task in worded.items()},
        "max_tokens": config.max_tokens or min(MAX_TOKENS, _context(model)),
        "version": __version__,
    }


def _context(model: Model) -> int:
    """Tokens that a model reads; :data:`MAX_TOKENS` if only its tokenizer is on this machine."""
    from transformers import AutoConfig

    load: Any = AutoConfig  # typed in parts only
    try:
        config = load.from_pretrained(model.path, local_files_only=True)
    except (OSError, ValueError):
        return MAX_TOKENS
    return int(config.get_text_config().max_position_embeddings)


def _check_resumed(folder: Path, made_of: Mapping[str, Any]) -> None:
    """Record what a new build is made of; compare that of one that is continued.

    Raises
    ------
    ValueError
        They differ; names what does.
    """
    file = folder / RECORD
    if not file.exists():
        _write_record(folder, {"made_of": made_of})
        return
    before = flat(json.loads(file.read_text(encoding="utf-8"))["made_of"])
    now = flat(json.loads(json.dumps(made_of)))
    if changed := sorted(key for key in {*before, *now} if before.get(key) != now.get(key)):
        raise ValueError(
            f"the unfinished corpus in {folder} was begun with other settings or files ({', '.join(changed)}): "
            "continue it with those, or remove it"
        )


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    with complete_file(folder / RECORD) as temporary:
        text = json.dumps(record, indent=1, ensure_ascii=False, sort_keys=True)
        temporary.write_text(text + "\n", encoding="utf-8")


def _fit(examples: Examples) -> RankFitter:
    """Rank fit of the first training cells of each file."""
    fitter = RankFitter()
    for file in examples.cells.values():
        places = np.flatnonzero(~file.test)[:MAX_FIT_CELLS]
        if len(places):
            file.part(places).add_to(fitter)
    return fitter


def _genes(examples: Examples) -> list[str]:
    """All genes that sentences and lists may have, sorted."""
    of_sets = {gene for file in examples.sets.values() for genes in file.genes for gene in genes}
    return sorted(of_sets | {gene for file in examples.cells.values() for gene in file.symbols})


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
