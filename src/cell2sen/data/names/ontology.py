"""Cell Ontology: ids, names and parents of cell types, ids of labels, common parents of two types."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from cell2sen.data.names.labels import normalise_label

#: Ids, names and parents of the Cell Ontology (OBO Foundry, CC BY 4.0).
TABLE = Path(__file__).parent / "cell_ontology.csv.gz"

#: Terms below a common parent, at most: "T cell" has 172 and says what two types have in common, "lymphocyte" 348.
MAX_BELOW = 200

_ID = re.compile(r"CL[:_](\d{7})")

#: Labels that people write → names of the ontology, in normalised spelling on the left.
SPELLINGS: Mapping[str, str] = {
    "b": "B cell",
    "b lymphocyte": "B cell",
    "naive b": "naive B cell",
    "b naive": "naive B cell",
    "memory b": "memory B cell",
    "b memory": "memory B cell",
    "plasma": "plasma cell",
    "t": "T cell",
    "t lymphocyte": "T cell",
    "cd4 t": "CD4-positive, alpha-beta T cell",
    "cd4+ t": "CD4-positive, alpha-beta T cell",
    "t cd4": "CD4-positive, alpha-beta T cell",
    "cd8 t": "CD8-positive, alpha-beta T cell",
    "cd8+ t": "CD8-positive, alpha-beta T cell",
    "t cd8": "CD8-positive, alpha-beta T cell",
    "naive t": "naive T cell",
    "memory t": "memory T cell",
    "naive cd4 t": "naive thymus-derived CD4-positive, alpha-beta T cell",
    "naive cd4+ t": "naive thymus-derived CD4-positive, alpha-beta T cell",
    "cd4 naive": "naive thymus-derived CD4-positive, alpha-beta T cell",
    "cd4 naive t": "naive thymus-derived CD4-positive, alpha-beta T cell",
    "memory cd4 t": "CD4-positive, alpha-beta memory T cell",
    "memory cd4+ t": "CD4-positive, alpha-beta memory T cell",
    "cd4 memory": "CD4-positive, alpha-beta memory T cell",
    "cd4 memory t": "CD4-positive, alpha-beta memory T cell",
    "cd4 tcm": "central memory CD4-positive, alpha-beta T cell",
    "cd4 tem": "effector memory CD4-positive, alpha-beta T cell",
    "naive cd8 t": "naive thymus-derived CD8-positive, alpha-beta T cell",
    "naive cd8+ t": "naive thymus-derived CD8-positive, alpha-beta T cell",
    "cd8 naive": "naive thymus-derived CD8-positive, alpha-beta T cell",
    "cd8 naive t": "naive thymus-derived CD8-positive, alpha-beta T cell",
    "memory cd8 t": "CD8-positive, alpha-beta memory T cell",
    "memory cd8+ t": "CD8-positive, alpha-beta memory T cell",
    "cd8 memory": "CD8-positive, alpha-beta memory T cell",
    "cd8 tem": "effector memory CD8-positive, alpha-beta T cell",
    "cytotoxic t": "cytotoxic T cell",
    "helper t": "CD4-positive helper T cell",
    "t helper": "CD4-positive helper T cell",
    "treg": "regulatory T cell",
    "regulatory t": "regulatory T cell",
    "gamma delta t": "gamma-delta T cell",
    "gdt": "gamma-delta T cell",
    "γδ t": "gamma-delta T cell",
    "nkt": "mature NK T cell",
    "nk": "natural killer cell",
    "natural killer": "natural killer cell",
    "ilc": "innate lymphoid cell",
    "mono": "monocyte",
    "cd14 mono": "CD14-positive monocyte",
    "cd14+ mono": "CD14-positive monocyte",
    "cd14 monocyte": "CD14-positive monocyte",
    "cd14+ monocyte": "CD14-positive monocyte",
    "cd16 mono": "CD14-low, CD16-positive monocyte",
    "cd16+ mono": "CD14-low, CD16-positive monocyte",
    "cd16+ monocyte": "CD14-low, CD16-positive monocyte",
    "fcgr3a+ mono": "CD14-low, CD16-positive monocyte",
    "fcgr3a+ monocyte": "CD14-low, CD16-positive monocyte",
    "nonclassical monocyte": "non-classical monocyte",
    "dc": "dendritic cell",
    "dcs": "dendritic cell",
    "dendritic": "dendritic cell",
    "cdc": "conventional dendritic cell",
    "pdc": "plasmacytoid dendritic cell",
    "mdc": "myeloid dendritic cell",
    "mac": "macrophage",
    "mk": "megakaryocyte",
    "hsc": "hematopoietic stem cell",
    "rbc": "erythrocyte",
    "red blood": "erythrocyte",
    "microglia": "microglial cell",
    "opc": "oligodendrocyte precursor cell",
    "oligo": "oligodendrocyte",
    "astro": "astrocyte",
    "excitatory neuron": "glutamatergic neuron",
    "inhibitory neuron": "GABAergic neuron",
    "endothelial": "endothelial cell",
    "epithelial": "epithelial cell",
    "smooth muscle": "smooth muscle cell",
    "vsmc": "vascular associated smooth muscle cell",
    "alpha": "pancreatic A cell",
    "beta": "type B pancreatic cell",
    "delta": "pancreatic D cell",
    "gamma": "pancreatic PP cell",
    "epsilon": "pancreatic epsilon cell",
    "acinar": "pancreatic acinar cell",
    "ductal": "pancreatic ductal cell",
    "at1": "pulmonary alveolar type 1 cell",
    "at2": "pulmonary alveolar type 2 cell",
    "cardiomyocyte": "cardiac muscle cell",
}


@dataclass(frozen=True, eq=False)
class Ontology:
    """Terms of the Cell Ontology."""

    names: Mapping[str, str]
    """Id → name."""

    parents: Mapping[str, tuple[str, ...]]
    """Id → ids of the terms that it is a kind of."""

    @cached_property
    def _exact(self) -> dict[str, str]:
        return {name: term for term, name in self.names.items()}

    @cached_property
    def _ids(self) -> dict[str, str]:
        """Normalised name → id."""
        terms = sorted(self.names.items(), key=lambda item: (-len(item[1]), item[0]))  # ", human" is left out of a name
        exact = {normalise_label(name): term for term, name in terms}
        spelled = {label: exact[normalise_label(name)] for label, name in SPELLINGS.items()}
        return spelled | exact

    @cached_property
    def _above(self) -> dict[str, frozenset[str]]:
        return {}

    @cached_property
    def below(self) -> Mapping[str, int]:
        """Id → number of terms below it, itself included."""
        counts = dict.fromkeys(self.names, 0)
        for term in self.names:
            for parent in self.above(term):
                counts[parent] += 1
        return counts

    def id_of(self, label: str) -> str | None:
        """Id of a label: an id itself, or a name of the ontology in any spelling, or one of :data:`SPELLINGS`.

        ``None`` if it is none of them. "CD4 T cells", "CD4 T" and "CD4-positive, alpha-beta T cell" have one id.
        """
        if (found := _ID.fullmatch(str(label).strip())) is not None:
            term = f"CL:{found[1]}"
            return term if term in self.names else None
        if label in self._exact:
            return self._exact[label]
        plain = normalise_label(label)
        for spelling in (plain, plain.removesuffix(" cell"), f"{plain} cell"):
            if (term_of := self._ids.get(spelling)) is not None:
                return term_of
        return None

    def above(self, term: str) -> frozenset[str]:
        """Ids of all terms that a term is a kind of, itself included.

        Raises
        ------
        KeyError
            There is no such term.
        """
        if term not in self.names:
            raise KeyError(f"the Cell Ontology has no term {term!r}; ids are such as 'CL:0000084' (T cell)")
        if term not in self._above:
            above = {term}
            for parent in self.parents[term]:
                above |= self.above(parent)
            self._above[term] = frozenset(above)
        return self._above[term]

    def common_parent(self, first: str, second: str) -> str:
        """Id of the most specific term that two terms are kinds of: the one with the fewest terms below it.

        Of equally specific ones the first by id. A term that is a kind of the other has that as its common parent.
        """
        shared = self.above(first) & self.above(second)
        if not shared:
            raise ValueError(f"{first} and {second} have no parent in common")
        return min(shared, key=lambda term: (self.below[term], term))

    def generality(self, first: str, second: str) -> int:
        """Number of terms below the common parent of two terms; more than all terms have if they have none."""
        if not self.above(first) & self.above(second):
            return len(self.names) + 1
        return self.below[self.common_parent(first, second)]


@lru_cache(maxsize=1)
def cell_ontology() -> Ontology:
    """The Cell Ontology that comes with the package: 3,324 cell types."""
    with gzip.open(TABLE, "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return Ontology(
        names={row["id"]: row["label"] for row in rows},
        parents={row["id"]: tuple(filter(None, row["parents"].split("|"))) for row in rows},
    )


def ids_of(labels: Iterable[str | None]) -> dict[str, str]:
    """Id of each label that has one (:meth:`Ontology.id_of`)."""
    ontology = cell_ontology()
    found = {str(label): ontology.id_of(str(label)) for label in dict.fromkeys(labels) if label is not None}
    return {label: term for label, term in found.items() if term is not None}
