"""Settings of the model: start, architecture, tokens, adapters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, kw_only=True)
class NewTokenizer:
    """Tokenizer of a model from scratch."""

    kind: str = "genes"
    """``"genes"``: one token per gene, and pieces for other text. ``"bpe"``: pieces for all text; sentences are longer,
    and genes can be written that are not in the training cells."""

    text_tokens: int = 1500
    """Number of tokens, without those of whole genes."""

    min_cells: int = 10
    """Minimum number of training cells with a gene, for a token of its own (or for training the pieces on it)."""

    approved_symbols: bool = False
    """Name genes by their approved symbols of the packaged table, so that a gene with another name in each of several
    files is one token. Symbols of other years are recognised either way."""

    words: tuple[str, ...] = ()
    """Words that get one token now because later trainings use them, such as names of perturbations."""

    def __post_init__(self) -> None:
        if self.kind not in ("genes", "bpe"):
            raise ValueError(f"from_scratch.tokenizer.kind must be 'genes' or 'bpe', found {self.kind!r}")


@dataclass(frozen=True, kw_only=True)
class Initial:
    """First weights of a model from scratch."""

    gene_vectors: int = 64
    """Dimensions of a gene's vector that start from covariation in the training cells; 0 for a random start."""

    std: float | None = None
    """Standard deviation of random weights. By default ``hidden_size ** -0.5`` with whole-gene tokens: a small model
    learns several times faster than with 0.02, the default with pieces, which suits wide models."""

    layer_norm_eps: float | None = None
    """Constant that layer norms add to the variance. By default 0.05 with whole-gene tokens: vectors of uninformative
    genes stay small after the first layer norm, and a small model learns labels several times faster. 1e-5 with pieces:
    all vectors have the same norm after it."""


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """Architecture of a new model: GPT-NeoX with tied embeddings."""

    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 1024
    context: int = 1024
    """Maximum number of tokens of prompt and answer together."""

    tokenizer: NewTokenizer = field(default_factory=NewTokenizer)
    initial: Initial = field(default_factory=Initial)

    def __post_init__(self) -> None:
        if self.hidden_size % self.heads:
            raise ValueError(
                f"from_scratch: hidden_size must be a multiple of heads, found {self.hidden_size} and {self.heads}"
            )
        # Both defaults depend on the tokenizer: small weights have no effect beside the larger constant.
        whole = self.tokenizer.kind == "genes"
        std, epsilon = self.initial.std, self.initial.layer_norm_eps
        initial = replace(
            self.initial,
            std=(self.hidden_size**-0.5 if whole else 0.02) if std is None else std,
            layer_norm_eps=(0.05 if whole else 1e-5) if epsilon is None else epsilon,
        )
        object.__setattr__(self, "initial", initial)


@dataclass(frozen=True, kw_only=True)
class GeneTokens:
    """Whole-gene tokens for a model that writes genes in pieces: sentences become several times shorter.

    A new vector starts as the mean of those of the pieces that it replaces. In a first stage new vectors are trained
    alone, then with all weights (or with the adapters).
    """

    min_cells: int = 10
    """Minimum number of training cells with a gene, for a token of its own."""

    first: float = 0.2
    """Steps of the first stage; below 1 as a share of the steps after it; 0 for no first stage."""

    first_learning_rate: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters on all linear layers."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    merge: bool = True
    """Save merged weights only; if false, also the adapters, in a folder ``adapter``."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Model that is trained: one to start from, or a new architecture."""

    start: str | None = None
    """Model to fine-tune: known name, directory or Hugging Face id. ``None`` with `from_scratch`."""

    from_scratch: Scratch | None = None
    lora: Lora | None = None
    """Train low-rank adapters instead of all weights."""

    quantize: str | None = None
    """``"4bit"``: keep the weights in 4 bits while adapters are trained (QLoRA). The result is not quantised."""

    gene_tokens: GeneTokens | None = None
    """Add one token for each gene of the training cells."""

    change_vectors: int | None = None
    """Dimensions of a gene's vector that start from how perturbations change its frequency in the training cells, for
    models with whole-gene tokens; 0 for none. They contain which genes change together; in which cells and by how much
    is learned. By default 8 if a perturbation is new to a model with a name for no perturbation, otherwise 0."""

    dropout: float | None = None
    """Dropout, if the architecture has such layers (GPT-NeoX does, Gemma-2 does not). Useful for few cells. By default
    0.2 if a model below 50 million parameters is fine-tuned on pairs, otherwise 0."""

    start_share: float = 0.0
    """Share of the starting weights in the saved weights, by interpolation: less is forgotten (Wortsman et al., CVPR
    2022). For trainings of all weights, not of adapters."""

    def __post_init__(self) -> None:
        if (self.start is None) == (self.from_scratch is None):
            raise ValueError("name either model.start (a model to fine-tune) or model.from_scratch (an architecture)")
        if self.quantize not in (None, "4bit"):
            raise ValueError(f"model.quantize must be '4bit' (QLoRA) in a training, found {self.quantize!r}")
        if self.quantize and not self.lora:
            raise ValueError("quantised weights cannot be trained, only adapters to them: add model.lora: {}")
        if self.lora and self.from_scratch:
            raise ValueError("model.lora trains adapters to an existing model: leave out model.from_scratch")
        if self.gene_tokens and self.from_scratch:
            raise ValueError("model.gene_tokens extends an existing tokenizer: leave out model.from_scratch")
        if not 0 <= self.start_share < 1 or (self.start_share and (self.lora or self.from_scratch or self.gene_tokens)):
            raise ValueError(
                "model.start_share is the share of the starting weights, from 0 to below 1, and must be 0 with lora, "
                f"from_scratch and gene_tokens; found {self.start_share}"
            )
