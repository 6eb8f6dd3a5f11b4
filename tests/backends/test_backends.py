"""The menu of backends: this folder's files, and entry points of installed packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from cell2sen import backends
from cell2sen.backends.fake import FakeBackend
from cell2sen.inference.session import load_model
from cell2sen.model import Model

MODEL = Model(name="fake", path="fake")

#: Module of a package outside: the fake backend with another context.
ENGINE = """
from cell2sen.backends.fake import FakeBackend


def check_device(device):
    if device != "abacus":
        raise ValueError(f"no device {device!r}; available: auto, cpu, abacus")


def load(model, *, device="auto", url=""):
    backend = FakeBackend(model, context=77)
    backend.url = url
    return backend
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution on sys.path with three entry points: a module, one with the name of an own file, a broken one."""
    (tmp_path / "outside_engine.py").write_text(ENGINE)
    information = tmp_path / "outside-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    lines = ("outside = outside_engine", "fake = outside_engine", "broken = outside_engine_that_is_missing")
    (information / "entry_points.txt").write_text("\n".join((f"[{backends.GROUP}]", *lines, "")))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_own_files_without_packages() -> None:
    assert {"fake", "openai", "transformers"} <= set(backends.names())
    assert "outside" not in backends.names()


@pytest.mark.usefixtures("installed")
def test_a_package_adds_a_backend() -> None:
    assert {"outside", "fake", "transformers"} <= set(backends.names())
    assert len(backends.names()) == len(set(backends.names()))
    assert backends.load(MODEL, "outside").context == 77
    assert load_model({"model": MODEL, "backend": "outside", "url": "http://there"}).url == "http://there"  # type: ignore[attr-defined]
    backends.check_device("abacus", "outside")
    with pytest.raises(ValueError, match="available: auto, cpu, abacus"):
        backends.load(MODEL, "outside", device="cuda")


@pytest.mark.usefixtures("installed")
def test_own_files_go_before_entry_points() -> None:
    backend = backends.load(MODEL, "fake")
    assert isinstance(backend, FakeBackend)
    assert backend.context == 4096


@pytest.mark.usefixtures("installed")
def test_a_broken_entry_point_names_its_package() -> None:
    assert "broken" in backends.names()
    with pytest.raises(ImportError, match=r"'broken' of the package outside .*outside_engine_that_is_missing"):
        backends.load(MODEL, "broken")


def test_unknown_backends_and_options() -> None:
    with pytest.raises(ValueError, match=r"no backend 'vlm'; available: \['fake'"):
        backends.load(MODEL, "vlm")
    with pytest.raises(ValueError, match="fake runs in this process and takes no url"):
        backends.load(MODEL, "fake", url="http://localhost:8000")
