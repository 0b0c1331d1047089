"""`lrflow dashboard`: binds a port of this machine, prints the address, and serves until Ctrl-C."""

from __future__ import annotations

import errno
import secrets
import signal
import socket
import sys
import webbrowser
from pathlib import Path

import uvicorn

from lrflow.dashboard.app import application
from lrflow.dashboard.index import Index
from lrflow.errors import ConfigError, Problem, SignalReceived
from lrflow.output import put

HOST = "127.0.0.1"
"""Only this machine reaches it; from another one, `ssh -L` does."""


def serve(folder: Path, port: int, opens: bool) -> None:
    """Serve the runs below a folder until Ctrl-C, which is its end and no error.

    Args:
        folder: of the run folders.
        port: 0: any that is free.
        opens: whether to open the browser.

    Raises:
        ConfigError: the port cannot be had.
    """
    token = secrets.token_urlsafe(24)
    with _bound(port) as listener:
        listener.listen(128)
        address = f"http://{HOST}:{listener.getsockname()[1]}/?token={token}"
        put(getattr(sys.stdout, "unmasked", sys.stdout), f"{folder}/ is shown at {address}\nCtrl-C ends it.\n")
        config = uvicorn.Config(
            application(Index(folder).start(), token), log_config=None, access_log=False, lifespan="off", ws="none",
            proxy_headers=False, server_header=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        if opens:
            webbrowser.open(address)
        try:
            uvicorn.Server(config).run([listener])
        except (KeyboardInterrupt, SignalReceived) as error:
            if getattr(error, "number", signal.SIGINT) != signal.SIGINT:
                raise


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        in_use = error.errno == errno.EADDRINUSE
        message = "another program uses it" if in_use else f"cannot be used: {error.strerror}"
        raise ConfigError([Problem("port", message, port, "leave it out to take one that is free")]) from None
    return listener
