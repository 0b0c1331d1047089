"""The streams, log records and messages to Weights & Biases by which text leaves the process, without its secrets."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from lrflow.errors import LrflowError
from lrflow.redaction import redactor, without_named


@contextmanager
def redacted_output(for_good: bool = False) -> Iterator[None]:
    """Mask secrets in what this process prints and logs within the block, and after it if `for_good`."""
    before, record = (sys.stdout, sys.stderr), logging.getLogRecordFactory()
    sys.stdout, sys.stderr = map(redacted_stream, before)
    logging.setLogRecordFactory(_RedactedRecord)
    try:
        yield
    finally:
        if not for_good:
            sys.stdout, sys.stderr = before
            logging.setLogRecordFactory(record)


def redacted_stream(stream: Any) -> Any:
    """Return a stream that masks secrets; None if the process has no such stream."""
    return stream if stream is None or isinstance(stream, RedactedStream) else RedactedStream(stream)


class RedactedStream:
    """A text stream that masks secrets in what is written to it; everything else is the stream's own.

    Args:
        stream: such as `sys.stdout`.
    """

    def __init__(self, stream: Any) -> None:
        self.__dict__["_stream"] = stream

    def write(self, text: str) -> int:
        """Write a text without its secrets, and return its length."""
        self._stream.write(redactor.text(text) if isinstance(text, str) else text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    @property
    def unmasked(self) -> Any:
        """The stream itself, for the one secret that a user has to read: the token of the dashboard."""
        return self._stream

    @property
    def buffer(self) -> Any:
        """The binary stream below."""
        return _RedactedBuffer(self._stream.buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_stream"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "write":  # Weights & Biases puts a function there that also sends the text away
            write: Callable[[str], int] = value
            self.__dict__["write"] = lambda text: write(redactor.text(text) if isinstance(text, str) else text)
        else:
            setattr(self._stream, name, value)


class _RedactedBuffer:
    """A binary stream that masks secrets in text that is written to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        text = bytes(data).decode(errors="surrogateescape")
        self._stream.write(redactor.text(text).encode(errors="surrogateescape"))
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_stream"], name)


class _RedactedRecord(logging.LogRecord):
    """A log record that masks secrets, for handlers that write elsewhere than to the terminal."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.exc_info and self.exc_info[0] is not None:
            self.exc_text = redactor.text(logging.Formatter().formatException(self.exc_info))

    def getMessage(self) -> str:  # noqa: N802
        """Return the message."""
        return redactor.text(super().getMessage())


def redact_messages_of_wandb() -> None:
    """Mask secrets in all that Weights & Biases sends to its own process, which writes its files and uploads them."""
    from wandb.sdk.lib.service.service_client import ServiceClient

    send: Any = ServiceClient._send_server_request
    if getattr(send, "redacts", False):
        return

    async def send_redacted(client: Any, request: Any) -> None:
        # The settings of a run hold the key with which it logs in.
        starts = request.HasField("inform_init")
        redact_message(request.inform_init.settings if starts else request, _OF_SETTINGS if starts else None)
        await send(client, request)

    send_redacted.redacts = True  # type: ignore[attr-defined]
    replacement: Any = send_redacted
    ServiceClient._send_server_request = replacement


_OF_SETTINGS = ("_args", "git_remote_url", "program", "program_abspath", "program_relpath", "run_name", "run_notes")


def redact_message(message: Any, only: Iterable[str] | None = None) -> None:
    """Mask secrets in the texts of a protobuf message, in place.

    Args:
        message: of Weights & Biases or TensorBoard.
        only: names of the fields to look into; None: all of them.
    """
    for field, value in message.ListFields():
        if only is not None and field.name not in only:
            continue
        many = not isinstance(value, str | bytes) and hasattr(value, "__len__")
        if field.type == field.TYPE_STRING and not many:
            setattr(message, field.name, _in_json(value) if field.name == "value_json" else redactor.text(value))
        elif field.type == field.TYPE_STRING:
            for index, text in enumerate(value):
                value[index] = redactor.text(text)
        elif field.name == "string_val":  # a text in TensorBoard
            for index, data in enumerate(value):
                value[index] = redactor.text(data.decode(errors="surrogateescape")).encode(errors="surrogateescape")
        elif field.type == field.TYPE_MESSAGE and not many:
            redact_message(value)
        elif field.type == field.TYPE_MESSAGE and hasattr(value, "items"):  # a map
            for key, item in list(value.items()):
                if isinstance(item, str):
                    value[key] = redactor.text(item)
                elif hasattr(item, "ListFields"):
                    redact_message(item)
        elif field.type == field.TYPE_MESSAGE:
            for item in value:
                redact_message(item)


def _in_json(text: str) -> str:
    """Return a text in JSON with secrets masked in its keys and texts; its numbers stay."""
    if '"' not in text:  # most rows of metrics hold only numbers
        return text
    return re.sub(r'"(?:[^"\\]|\\.)*"', lambda found: redactor.text(found[0]), without_named(text))


def open_streams() -> None:
    """Open closed standard streams on the null device, and let those without UTF-8 replace what they cannot show.

    Otherwise the next file that is opened, such as metrics.csv, would take the place of a closed stream, and what
    libraries print there would end up in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # for the whole process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if "utf" not in (getattr(stream, "encoding", None) or "utf") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def put(stream: TextIO, text: str = "") -> None:
    """Write a text to a stream, and flush it.

    Raises:
        BrokenPipeError: its reader is gone.
        LrflowError: it cannot be written to, such as a file on a full disk.
    """
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:  # ValueError: it is closed
        reason = getattr(error, "strerror", None) or error
        raise LrflowError(f"the output of this command could not be written: {reason}") from error


def show_start() -> None:
    """Write on a terminal that the command has begun: composition and the import of PyTorch can take many seconds.

    Nothing is written to a file, a pipe or a dumb terminal.
    """
    if sys.stderr and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with suppress(OSError):
            print("starting ...", file=sys.stderr, flush=True)


def discard_unwritable(stream: TextIO) -> None:
    """Redirect a stream that cannot be written to the null device; otherwise Python reports it at exit."""
    try:
        stream.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
