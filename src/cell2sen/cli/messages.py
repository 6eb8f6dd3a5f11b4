"""Messages on stderr: each once, with flags of the command line instead of arguments of Python."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator

#: Argument of Python → flag, where the names differ.
FLAGS = {
    "use_raw": "--raw",
    "offline": "--online",
    "guided": "--unguided",
    "progress": "--quiet",
    "k": "--nearest",
    "names": "--name",
}

#: Values with a flag of their own.
_SPECIAL = {
    "control=()": "--all-cells",
    "offline=False": "--online",
    "guided=False": "--unguided",
    "use_raw=True": "--raw",
}

#: An argument, with its value if that is a text, a number, a list or a tuple.
_ARGUMENT = re.compile(
    r"(?<![\w.\[-])(?<!\w\()(?P<name>[a-z_]\w*)=(?P<value>\[[^\]]*\]|\([^)]*\)|'[^']*'|\"[^\"]*\"|-?\d[\d.]*\d|-?\d|True|False|None)?"
)


class Flags:
    """Flags of the running command, for messages of functions that name their arguments."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.options: frozenset[str] = frozenset()

    def use(self, options: Iterable[str]) -> None:
        """Set the options of the running command, by their names in Python."""
        self.options = frozenset(options)
        own = {name: "--" + name.replace("_", "-") for name in self.options}
        other = {name: flag for name, flag in FLAGS.items() if flag.removeprefix("--").replace("-", "_") in own}
        self.names = own | other

    def in_text(self, text: str) -> str:
        """The text with flags: ``"pass symbols="`` → ``"pass --symbols"``."""

        def flag(match: re.Match[str]) -> str:
            name, value = match["name"], match["value"] or ""
            if name not in self.names:
                return match[0]
            special = _SPECIAL.get(match[0])
            if special is not None and special.removeprefix("--").replace("-", "_") in self.options:
                return special
            shown = value if re.fullmatch(r"-?[\d.]+|'.*'|\".*\"", value) else ""
            return f"{self.names[name]} {shown}".rstrip()

        return _ARGUMENT.sub(flag, text)


FLAGS_OF_COMMAND = Flags()


class OnceHandler(logging.Handler):
    """Handler that writes each message once, with flags, and keeps warnings for the summary in JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.written: set[str] = set()
        self.warnings: list[str] = []
        self.is_quiet = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless the same line was written before."""
        text = FLAGS_OF_COMMAND.in_text(record.getMessage())
        if text in self.written:
            return
        self.written.add(text)
        if record.levelno >= logging.WARNING:
            self.warnings.append(text)
        if self.is_quiet and record.levelno < logging.ERROR:
            return
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        print(prefix + text, file=sys.stderr, flush=True)


HANDLER = OnceHandler()


@contextlib.contextmanager
def on_stderr() -> Iterator[None]:
    """Context in which this package's messages are on stderr, and libraries give no advice and warnings."""
    HANDLER.written.clear()
    HANDLER.warnings = []
    HANDLER.is_quiet = False
    FLAGS_OF_COMMAND.use(())
    for name in ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "error")  # read when these libraries are imported
    logger = logging.getLogger("cell2sen")
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(HANDLER)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.filterwarnings("ignore", module=r"(?!cell2sen)")
            yield
    finally:
        logger.removeHandler(HANDLER)
        logger.setLevel(level)
        logger.propagate = propagate
