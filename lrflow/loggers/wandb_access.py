"""Access to Weights & Biases: the mode of a run there, and the change to offline where the server cannot be reached."""

from __future__ import annotations

import logging
import netrc
import os
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pytorch_lightning.loggers import WandbLogger

from lrflow.errors import ConfigError, LrflowError, Problem, did_you_mean

log = logging.getLogger("lrflow")

PATIENCE = 5.0
"""Seconds to wait for the server's answer; W&B (0.31) itself waits for minutes."""

_KEY = "logger.wandb.mode"
_MODES = {"online": "online", "run": "online", "shared": "online", "offline": "offline", "dryrun": "offline",
          "disabled": "disabled"}  # fmt: skip
"""The values of WANDB_MODE, and what they mean for lrflow."""


def resolve_mode(wanted: str, folder: Path) -> str:
    """Return the mode of a run: `online`, `offline` or `disabled`; online needs a key and a server that answers.

    Args:
        wanted: `logger.wandb.mode`. auto: as WANDB_MODE says; else online with a key in the environment.
        folder: the run folder, for the message.

    Raises:
        ConfigError: WANDB_MODE is no mode, or there is no key and nobody who could be asked for one.
    """
    if os.environ.get("WANDB_MODE") == "":
        del os.environ["WANDB_MODE"]  # W&B (0.31) takes the empty text for a mode and raises
    given = os.environ.get("WANDB_MODE", "") if wanted == "auto" else ""
    if given and given not in _MODES:
        raise ConfigError([Problem("WANDB_MODE", f"expected {', '.join(_MODES)}", given, did_you_mean(given, _MODES))])
    mode = _MODES.get(given or wanted) or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    if mode != "online":
        return mode
    server = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    if not _has_key(server) and not (sys.stdin and sys.stdin.isatty()):  # W&B asks on a terminal
        hint = f"set WANDB_API_KEY, or run `wandb login` once; {_KEY}=offline needs no key"
        raise ConfigError([Problem(_KEY, "needs an API key, and there is none", given or wanted, hint)])
    if reason := unreachable(server):
        _report_offline(server, reason, folder)
        return "offline"
    return mode


def _has_key(server: str) -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    paths = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for path in paths:
        with suppress(OSError, netrc.NetrcParseError, RuntimeError):
            host = urlsplit(server).netloc
            if netrc.netrc(os.path.expanduser(path)).authenticators(host):
                return True
    return False


def unreachable(server: str, patience: float = PATIENCE) -> str | None:
    """Return why a server, or the proxy in front of it, does not answer; None if it does.

    Args:
        server: its URL.
        patience: seconds to wait.
    """
    url = urlsplit(server)
    proxy = getproxies().get(url.scheme or "https")
    if proxy and not (url.hostname and proxy_bypass(url.hostname)):
        url = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    answer = [f"no answer within {patience:g} seconds"]

    def ask() -> None:
        try:
            port = url.port or (80 if url.scheme == "http" else 443)
            socket.create_connection((url.hostname or "", port), timeout=patience).close()
            answer.clear()
        except (OSError, ValueError) as error:
            answer[0] = getattr(error, "strerror", None) or str(error)

    # A thread, since the search for the server's address has no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience + 0.5)
    return answer[0] if answer else None


def _report_offline(server: str, reason: str, folder: Path) -> None:
    log.warning(
        "Weights & Biases cannot be reached at %s (%s): the run is logged offline; upload it later with "
        "`wandb sync %s/wandb/offline-run-*`",
        server,
        reason,
        folder,
    )


class ReachableWandbLogger(WandbLogger):
    """Lightning's logger for W&B; it continues offline if the server does not accept the run when it starts."""

    @property
    def experiment(self) -> Any:
        """The run of W&B, which the first access starts.

        Raises:
            ConfigError: W&B refuses the key or the settings.
            LrflowError: W&B cannot start the run, as when another process has a run of this id.
        """
        from wandb.errors import AuthenticationError, CommError, UsageError

        try:
            return super().experiment
        except (AuthenticationError, UsageError) as error:
            message = f"Weights & Biases refuses the run: {str(error).strip()}"
            raise ConfigError([Problem(_KEY, message, hint=f"{_KEY}=offline needs no key")]) from error
        except CommError as error:
            if self._wandb_init.get("mode") != "online":
                raise
            _report_offline("its server", str(error).partition("\n")[0], Path(self._wandb_init.get("dir") or "."))
            self._wandb_init["mode"] = "offline"
            return super().experiment
        except Exception as error:  # W&B's own process answers with any
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise LrflowError(f"Weights & Biases cannot start the run: {reason}") from error
