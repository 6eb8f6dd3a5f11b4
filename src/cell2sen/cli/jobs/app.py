"""The command app: a page to look at cells, in the browser."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from cell2sen.cli.options import CellOptions, File, ModelOptions, OutputOptions, RunOptions, arguments

#: Names of loopback, which other machines cannot reach.
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def app(
    file: File,
    port: Annotated[int, typer.Option(help="Port. 0: any free one.", min=0, max=65535)] = 0,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Another than 127.0.0.1 needs --anyone-with-the-address."),
    ] = "127.0.0.1",
    public: Annotated[
        bool,
        typer.Option(
            "--anyone-with-the-address",
            help="Allow other machines: whoever has the address with its token reads the cells, unencrypted.",
        ),
    ] = False,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    reference: Annotated[
        Path | None, typer.Option(help="File of labelled cells whose labels can be transferred.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", "-l", help="obs column of the reference.")] = None,
    *,
    cells: CellOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Look at cells in the browser: map, sentences, labels and responses of what you select.

    The file is not changed; results are downloaded as a new one.
    """
    import secrets
    import webbrowser

    try:
        from cell2sen.app.server import listen, serve
    except ImportError as error:
        raise ImportError("the page needs starlette and uvicorn: pip install 'cell2sen[app]'") from error
    from cell2sen.app.page import Page
    from cell2sen.data.files.opening import read_anndata

    if host not in _LOOPBACK and not public:
        raise ValueError(
            f"--host {host} lets other machines read the cells, unencrypted, with the address and its token: add "
            "--anyone-with-the-address if that is wanted, or forward the port: ssh -L PORT:127.0.0.1:PORT MACHINE"
        )
    if (reference is None) != (label is None):
        raise ValueError("--reference and --label belong together: a file of labelled cells, and its column")
    page = Page(
        read_anndata(file),
        name=file.name,
        source=file,
        reference=reference,
        label=label,
        **arguments(cells, model, run, output),
    )
    opened = listen(host, port)
    token = secrets.token_urlsafe(24)
    chosen = opened.getsockname()[1]
    shown = host if host != "0.0.0.0" else "127.0.0.1"
    shown = f"[{shown}]" if ":" in shown else shown
    url = f"http://{shown}:{chosen}/?token={token}"
    server = serve(page, opened, token=token, hosts=_names(host) if public else frozenset())
    page.prepare()
    output.summarise(
        f"{len(page.cells.expression):,} cells of {file}; the page is at\n  {url}\n  Ctrl+C ends it",
        file=str(file),
        n_cells=len(page.cells.expression),
        url=url,
    )
    if output.quiet and not output.as_json:
        typer.echo(url)
    if browser:
        webbrowser.open(url)
    try:
        server.run(sockets=[opened])
    except KeyboardInterrupt:
        pass
    finally:
        page.close()
        opened.close()


def _names(host: str) -> frozenset[str]:
    """Names under which other machines reach this one."""
    import socket

    own = {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    if host in ("0.0.0.0", "::"):
        with contextlib.suppress(OSError):
            own |= {str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None)}
    return frozenset(f"[{name}]" if ":" in name else name for name in own)
