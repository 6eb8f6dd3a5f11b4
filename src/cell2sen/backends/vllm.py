"""Causal language models through vLLM: in a process of its own on this machine, or on a vLLM server."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from cell2sen.backend import Sampling, Unsupported
from cell2sen.data.progress import Progress, Report
from cell2sen.engine.decoding.answer_guide import AnswerRequest
from cell2sen.engine.network import cpu
from cell2sen.engine.serving.completions import CompletionsBackend
from cell2sen.engine.serving.http_client import Server
from cell2sen.engine.serving.token_backend import Checkpoint, Row, TokenBackend, read_checkpoint
from cell2sen.model import Model

Result = TypeVar("Result")

#: Requests given to vLLM at a time, which makes batches of them itself; between them progress is shown.
_AT_ONCE = 256

#: The logits processor of each of vLLM's model runners.
PROCESSORS = {
    False: "cell2sen.engine.serving.vllm_v1:GuidedAnswers",
    True: "cell2sen.engine.serving.vllm_v2:GuidedAnswers",
}


def load(
    model: Model,
    *,
    url: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    progress: bool | Report = True,
    offline: bool = True,
    engine: Mapping[str, Any] | None = None,
) -> TokenBackend:
    """Backend of a model in vLLM. Weights are loaded with the first verb.

    Parameters
    ----------
    url
        Address of a vLLM server, with ``#NAME`` if it has several models; None: vLLM on this machine.
    batch_size
        Requests given to vLLM at a time; None: 256, or 16 to a server. vLLM makes batches of them itself.
    offline
        Use the files on this machine; False downloads missing ones from the hub.
    engine
        Further arguments of ``vllm.LLM``, such as ``tensor_parallel_size`` or ``gpu_memory_utilization``.

    Raises
    ------
    ImportError
        vLLM is not installed.
    ValueError
        `model` is to be quantised while it is loaded.
    """
    if url:
        checkpoint = read_checkpoint(model, offline=offline)
        return VllmServer(model, checkpoint, Server(url), batch_size=batch_size, progress=progress)
    if importlib.util.find_spec("vllm") is None:
        raise ImportError(
            "the backend vllm needs vLLM; install it with: pip install 'cell2sen[vllm]' (NVIDIA GPUs), or name a "
            "server: --url http://localhost:8000"
        )
    if model.quantize is not None:
        raise ValueError(f"vLLM does not quantise a model while it loads it: leave out quantize={model.quantize!r}")
    import torch

    model = cpu.resolve_dtype(model, "cuda" if torch.cuda.is_available() else "cpu")
    checkpoint = read_checkpoint(model, offline=offline)
    return VllmBackend(
        model, checkpoint, folder=_folder(model, offline), engine=engine or {}, batch_size=batch_size, progress=progress
    )


def check_device(device: str) -> None:
    """Raise a ValueError: vLLM computes on the device that it was built for."""
    raise ValueError(f"device={device!r}, but vLLM computes on the device that it was built for; leave it out")


class VllmServer(CompletionsBackend):
    """A vLLM server with the logits processor of this package."""

    def _write_guided(self, rows: Sequence[Row], requests: Sequence[AnswerRequest]) -> list[list[int]]:
        if not self._has_guide:
            raise Unsupported(
                f"the server at {self.server.url} does not guide answers: start it with --logits-processors "
                f"{PROCESSORS[False]} (model runner V1, CPUs) or {PROCESSORS[True]} (V2, GPUs from vLLM 0.32 on), in "
                "an environment where cell2sen is installed; or use the backend openai, which is slower"
            )
        return super()._write_guided(rows, requests)


class VllmBackend(TokenBackend):
    """vLLM on this machine. One engine at a time is in memory: for answers and scores, or for vectors.

    Parameters
    ----------
    folder
        Directory of the checkpoint, or its id on the hub.
    engine
        Further arguments of ``vllm.LLM``.
    """

    def __init__(
        self,
        model: Model,
        checkpoint: Checkpoint,
        *,
        folder: str,
        engine: Mapping[str, Any],
        batch_size: int | None = None,
        progress: bool | Report = True,
    ) -> None:
        self._folder, self._options = folder, dict(engine)
        longest = self._options.pop("max_model_len", None)
        super().__init__(model, checkpoint, context=longest, batch_size=batch_size, progress=progress)
        self._llm: Any = None
        self._runner = ""

    def provenance(self) -> dict[str, Any]:
        """Model, settings that change results, and the engine."""
        return super().provenance() | {"engine": "vllm"}

    def close(self) -> None:
        """End vLLM's process and free its memory."""
        if self._llm is not None:
            engine = getattr(self._llm, "llm_engine", None)
            shutdown = getattr(getattr(engine, "engine_core", None), "shutdown", None)
            if shutdown is not None:
                shutdown()
            self._llm, self._runner = None, ""
            gc.collect()

    def _vectors(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        llm = self._engine("pooling")

        def embed(prompts: list[dict[str, Any]], _: slice) -> list[NDArray[np.float32]]:
            outputs = llm.embed(prompts, use_tqdm=False)
            return [np.asarray(output.outputs.embedding, dtype=np.float32) for output in outputs]

        return self._each(embed, rows, "embedding")

    def _write(self, rows: Sequence[Row], requests: Sequence[AnswerRequest], sampling: Sampling) -> list[Any]:
        limits: dict[str, Any] = {"max_tokens": sampling.max_new_tokens}
        if sampling.stop:  # a stop string may be a special token
            limits |= {"stop": list(sampling.stop), "detokenize": True, "skip_special_tokens": False}
        return self._written(rows, [limits] * len(rows), requests)

    def _write_guided(self, rows: Sequence[Row], requests: Sequence[AnswerRequest]) -> list[list[int]]:
        limits = [
            {"max_tokens": min(request.max_tokens, self.context + 1 - len(row.ids))}
            for row, request in zip(rows, requests, strict=True)
        ]
        return self._written(rows, limits, requests)

    def _written(
        self, rows: Sequence[Row], limits: Sequence[Mapping[str, Any]], requests: Sequence[AnswerRequest]
    ) -> list[list[int]]:
        """Token ids of answers. All draws are those of the guide, so vLLM's own temperature is 0."""
        settings = [
            {"temperature": 0.0, "detokenize": False, "stop_token_ids": sorted(self.eos)}
            | dict(limit)
            | ({"extra_args": request.arguments()} if request.is_drawn or request.trie is not None else {})
            for limit, request in zip(limits, requests, strict=True)
        ]
        outputs = self._generated(rows, settings, "writing sentences", lambda output: output.outputs[0].token_ids)
        return [list(ids) for ids in outputs]

    def _log_probabilities(self, rows: Sequence[Row]) -> list[float]:
        settings = [{"temperature": 0.0, "detokenize": False, "max_tokens": 1, "prompt_logprobs": 0}] * len(rows)
        found = self._generated(rows, settings, "scoring labels", lambda output: output.prompt_logprobs)
        return [
            float(sum(values[place][row.ids[place]].logprob for place in range(row.answer, len(row.ids))))
            for row, values in zip(rows, found, strict=True)
        ]

    def _generated(
        self, rows: Sequence[Row], settings: Sequence[Mapping[str, Any]], name: str, read: Callable[[Any], Result]
    ) -> list[Result]:
        from vllm import SamplingParams

        llm = self._engine("generate")

        def generate(prompts: list[dict[str, Any]], part: slice) -> list[Result]:
            params = [SamplingParams(**one) for one in settings[part]]
            return [read(output) for output in llm.generate(prompts, params, use_tqdm=False)]

        return self._each(generate, rows, name)

    def _each(
        self, work: Callable[[list[dict[str, Any]], slice], list[Result]], rows: Sequence[Row], name: str
    ) -> list[Result]:
        """Results of all rows, some at a time."""
        size = _AT_ONCE if self.batch_size is None else self.batch_size
        if size < 1:
            raise ValueError(f"batch_size must be at least 1 or None, found {size}")
        results: list[Result] = []
        show = self.progress if callable(self.progress) else self.progress and len(rows) > 3 * size
        with Progress(len(rows), name, show=show) as bar:
            for first in range(0, len(rows), size):
                part = slice(first, first + size)
                results += work([{"prompt_token_ids": row.ids} for row in rows[part]], part)
                bar.update(len(rows[part]))
        return results

    def _engine(self, runner: Literal["generate", "pooling"]) -> Any:
        """VLLM with one of its runners."""
        if self._runner == runner:
            return self._llm
        self.close()
        from vllm import LLM, EngineArgs

        options: dict[str, Any] = {
            "model": self._folder,
            "revision": None if self.model.is_local else self.model.revision,
            "dtype": self.model.resolved_dtype,
            "max_model_len": self.context + 1,
            "generation_config": "vllm",  # settings of a checkpoint would change answers
            "trust_remote_code": False,
        } | self._options
        if runner == "pooling":
            from vllm.config import PoolerConfig

            pooler = PoolerConfig(seq_pooling_type="MEAN", use_activation=False)
            options |= {"runner": "pooling", "convert": "embed", "pooler_config": pooler}
        else:
            is_v2 = bool(getattr(EngineArgs(**options).create_engine_config(), "use_v2_model_runner", False))
            options["logits_processors"] = [PROCESSORS[is_v2]]
        self._llm, self._runner = LLM(**options), runner
        return self._llm


def _folder(model: Model, offline: bool) -> str:
    """Directory of a checkpoint; its id if it may be downloaded."""
    if model.is_local or not offline:
        return model.path
    import transformers

    hf: Any = transformers  # typed in parts only
    found = hf.utils.cached_file(model.path, "config.json", revision=model.revision, local_files_only=True)
    return str(Path(str(found)).parent)
