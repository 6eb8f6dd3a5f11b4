"""One job of one package, run by speed.py in a process of its own: seconds, peak memory, result.

    python speed_worker.py PACKAGE JOB.json

The environment is that of this project or that of the other packages. These are used through their public classes.
Changes that they need to run with current libraries are made here, outside of their code, and marked as shims.
"""

from __future__ import annotations

import json
import logging
import resource
import statistics
import sys
import time
import warnings
from pathlib import Path

import anndata as ad

warnings.filterwarnings("ignore")


class Timer:
    """Wall and CPU seconds of each run."""

    def __init__(self, runs: int) -> None:
        self.runs, self.wall, self.cpu = runs, [], []

    def __call__(self, work):
        for _ in range(self.runs + 1):
            wall, cpu = time.perf_counter(), time.process_time()
            result = work()
            self.wall.append(time.perf_counter() - wall)
            self.cpu.append(time.process_time() - cpu)
        self.wall, self.cpu = self.wall[1:], self.cpu[1:]  # the first run warms up
        return result

    def line(self) -> dict:
        """Medians of the seconds, and peak memory of the process."""
        # VmHWM, since ru_maxrss is inherited from the parent process.
        status = Path("/proc/self/status")
        lines = status.read_text(encoding="ascii").splitlines() if status.is_file() else []
        peak = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if peak is None else peak
        return {
            "seconds": statistics.median(self.wall),
            "cpu_seconds": statistics.median(self.cpu),
            "runs": [round(second, 4) for second in self.wall],
            "peak_mb": round(peak / 1024),
        }


# -- this project


def cell2sen_sentences(job, measure):
    from cell2sen.sentences.ranking import Recipe
    from cell2sen.sentences.writing import from_anndata

    adata, recipe = ad.read_h5ad(job["cells"]), Recipe(max_genes=job["max_genes"])
    if job["form"] == "ids":
        sentences = measure(lambda: from_anndata(adata, recipe))
    else:

        def with_text():
            sentences = from_anndata(adata, recipe)
            return sentences, sentences.texts()

        sentences, _ = measure(with_text)
    return {"genes": int(sentences.n_genes.sum()), "first": sentences.gene_names(20)[0]}


def cell2sen_tokens(job, measure):
    import numpy as np

    from cell2sen.engine.tokenization.tokenizer import load_tokens
    from cell2sen.prompt import Prompt
    from cell2sen.sentences.gene_list import GeneList

    tokens = load_tokens(job["checkpoint"], local_files_only=True)
    before, after = job["template"].split("{cell_sentence}")
    # Gene ids, as in Sentences.gene_lists and in the prompts of every verb.
    number: dict[str, int] = {}
    rows = [
        np.array([number.setdefault(word, len(number)) for word in text.split()], dtype=np.int32)
        for text in job["sentences"]
    ]
    symbols = np.array(list(number), dtype=object)
    prompts = [Prompt.of_cell(before, genes=GeneList(row, symbols), after=after) for row in rows]
    ids = measure(lambda: tokens.encode(prompts))
    return {"tokens": int(sum(map(len, ids))), "ids": [row.ids.tolist() for row in ids[:20]]}


def tokenizers_tokens(job, measure):
    """The Rust tokenizer on whole texts, with all cores, ids only."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(job["checkpoint"] + "/tokenizer.json")
    texts = [job["template"].replace("{cell_sentence}", text) for text in job["sentences"]]
    encodings = measure(lambda: tokenizer.encode_batch_fast(texts))
    return {"tokens": int(sum(map(len, encodings))), "ids": [encoding.ids for encoding in encodings[:20]]}


def loaded(job):
    """The backend and the prompts of a job."""
    from cell2sen import backends
    from cell2sen.model import resolve
    from cell2sen.prompt import Prompt

    backend = backends.load(resolve(job["checkpoint"], dtype=job["dtype"]), progress=False, device="cpu")
    before, after = job["template"].split("{cell_sentence}")
    return backend, [Prompt.of_cell(before, genes=tuple(text.split()), after=after) for text in job["sentences"]]


def cell2sen_embed(job, measure):
    backend, prompts = loaded(job)
    vectors = measure(lambda: backend.embed(prompts).vectors)
    return {"tokens": int(backend.tokens.lengths(prompts).sum()), "vectors": vectors.tolist()}


def cell2sen_annotate(job, measure):
    backend, prompts = loaded(job)
    scores = measure(lambda: backend.score(prompts, [f" {label}." for label in job["labels"]]))
    return {"tokens": int(backend.tokens.lengths(prompts).sum()), "best": scores.argmax(axis=1).tolist()}


def cell2sen_perturb(job, measure):
    from cell2sen import backends, tasks
    from cell2sen.backend import Sampling
    from cell2sen.inference.templates import choose_templates
    from cell2sen.model import resolve

    model = resolve(job["checkpoint"], dtype=job["dtype"])
    backend, task = backends.load(model, progress=False, device="cpu"), choose_templates(tasks.load("perturb"), model)
    prompts = [
        task.prompt(
            genes=text.split(),
            organism="Homo sapiens",
            perturbation=job["perturbation"],
            answer_genes=len(text.split()),
        )
        for text in job["sentences"]
    ]
    texts = measure(lambda: backend.generate(prompts, Sampling(), genes=tuple(job["known"])))
    work = backend.generator.work
    return {
        "units": genes_of(texts, job["known"]),
        "tokens": int(backend.tokens.lengths(prompts).sum()),
        "passes_per_gene": round(work.passes / work.genes, 3),
    }


def genes_of(texts, known):
    """Number of words that are genes, each counted once per text."""
    known = set(known)
    return sum(len({word for word in text.split() if word in known}) for text in texts)


# -- Helical


def helical_class(job, **options):
    """Helical's model with the shims that it needs."""
    from helical.models.c2s import Cell2Sen, Cell2SenConfig
    from helical.models.c2s import model as module

    # Shim 1: it uses SDPA, which transformers ≥ 5.21 refuses for Gemma-2; eager attention has the soft-cap.
    load = module.AutoModelForCausalLM.from_pretrained

    class Loader:
        @staticmethod
        def from_pretrained(path, **options):
            return load(path, **options | {"attn_implementation": "eager"})

    module.AutoModelForCausalLM = Loader
    settings = Cell2SenConfig(device="cpu", **options)
    # Shim 2: it accepts the hub ids of two checkpoints only; this checkpoint is a directory.
    settings.config["hf_model_path"] = job["checkpoint"]
    helical = Cell2Sen(configurer=settings)
    if job.get("dtype") == "bfloat16":  # Shim 3: on a CPU it computes in float32, whatever the dtype
        helical.model.bfloat16()
    return helical


def helical_sentences(job, measure):
    helical = helical_class(job, max_genes=job["max_genes"])
    adata = ad.read_h5ad(job["cells"])
    dataset = measure(lambda: helical.process_data(adata))
    texts = dataset["cell_sentence"][:]
    return {"genes": sum(len(text.split()) for text in texts), "first": texts[0].split()[:20]}


def helical_embed(job, measure):
    from datasets import Dataset

    helical = helical_class(job, batch_size=16, embedding_prompt_template=job["template"])
    n = len(job["sentences"])
    dataset = Dataset.from_dict({"cell_sentence": job["sentences"], "organism": ["human"] * n})
    return {"vectors": measure(lambda: helical.get_embeddings(dataset)).tolist()}


def helical_perturb(job, measure):
    from datasets import Dataset
    from helical.models.c2s import model as module

    # Shim 4: its prompt is fixed; this model was trained with another one.
    slots = {"{genes}": "{cell_sentence}", "{n_genes}": str(job["genes"])}
    for ours, theirs in slots.items():
        job["template"] = job["template"].replace(ours, theirs)
    module.PERTURBATION_PROMPT = job["template"]
    helical = helical_class(job, batch_size=16, max_new_tokens=4 * job["genes"])
    # Shim 5: it drops only as many tokens as the prompt has without its left padding, so part of the prompt remains.
    write, read, new = helical.model.generate, helical.tokenizer.decode, []

    def generate(**options):
        output = write(**options)
        new.append(output.shape[1] - options["input_ids"].shape[1])
        return output

    helical.model.generate = generate
    helical.tokenizer.decode = lambda ids, **options: read(ids[len(ids) - new[-1] :], **options)
    n = len(job["sentences"])
    dataset = Dataset.from_dict({"cell_sentence": job["sentences"], "organism": ["Homo sapiens"] * n})
    _, texts = measure(lambda: helical.get_perturbations(dataset, [job["perturbation"]] * n))
    return {"units": genes_of(texts, job["known"])}


# -- cell2sentence


def cell2sentence_annotate(job, measure):
    import tempfile

    from cell2sentence import CSModel
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        cs_model = CSModel(job["checkpoint"], folder, "model")
        model = AutoModelForCausalLM.from_pretrained(cs_model.save_path).eval()
    prompts = [job["template"].replace("{cell_sentence}", text) for text in job["sentences"]]
    # As predict_cell_types_of_data does for each cell. The length is fixed, since random weights never end an answer.
    settings = {"max_num_tokens": job["new_tokens"], "min_new_tokens": job["new_tokens"], "do_sample": False}
    texts = measure(lambda: [cs_model.generate_from_prompt(model, prompt, **settings) for prompt in prompts])
    return {"texts": texts}


def cell2sentence_sentences(job, measure):
    from cell2sentence import CSData

    adata = ad.read_h5ad(job["cells"])
    dataset, _ = measure(lambda: CSData.adata_to_arrow(adata))
    texts = dataset["cell_sentence"][:]
    return {"genes": sum(len(text.split()) for text in texts), "first": texts[0].split()[:20]}


def main() -> None:
    package, file = sys.argv[1:]
    job = json.loads(Path(file).read_text(encoding="utf-8"))
    logging.disable(logging.INFO)
    if package == "cell2sen":  # as its command does
        from cell2sen.sentences.threads import wait_without_spinning

        wait_without_spinning()
    if job.get("threads"):
        import torch

        torch.set_num_threads(job["threads"])
    measure = Timer(job["runs"])
    shown = sys.stdout
    sys.stdout = sys.stderr  # some packages print
    result = globals()[f"{package}_{job['job']}"](job, measure)
    print(
        json.dumps({"package": package, **measure.line(), "result": result}),
        file=shown,
    )


if __name__ == "__main__":
    main()
