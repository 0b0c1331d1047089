"""Secrets that this process knows, and their removal from every text that leaves it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import lrflow

MASK = "***"

_NAMES = (
    r"\w*(password|passwd|passphrase)|(api|access|private|secret|encryption|signing|account|auth|storage|deploy)_?keys?"
    r"|token|secrets?|credentials?|creds|bearer|jwt|otp|webhooks?(_url)?|cookies?|connection_string|pwd|pat|pass"
)
_NAME = re.compile(rf"(^|_)({_NAMES})$")
_NOT_A_NAME = re.compile(
    r"(^|_)((per|pad|eos|bos|unk|sep|cls|mask|special|start|end|stop|image|word|sub)_token"
    r"|(forward|backward|first|second|last|single|multi|one|two|high|low|band|num|n)_pass)$"
)
_NAME_OF_A_KEY = re.compile(r"_key$|(^|_)(auth|session|dsn|salt|signature)$")
_LOOKS_LIKE_A_KEY = re.compile(r"(?=[a-zA-Z]*\d)(?=\d*[a-zA-Z])[a-zA-Z0-9]{16}")
_VARIABLE = re.compile(rf"(^|_)({_NAMES}|auth|oauth|session|dsn|salt)(_|$)|(^|_)keys?$|pass(word|wd|phrase)")
_NOT_A_VARIABLE = re.compile(
    r"^(old_?)?pwd$|^(xdg|dbus|desktop|gdm|gnome|kde|term|iterm|ssh_auth|init|compass|bypass)(_|$)|session_manager"
    r"|(^|_)(public|primary|foreign|sort|partition|cache)_key$"
    r"|_(file|path|dir|sock|name|type|length|len|size|count|ttl|timeout|expiry|region|host|port|user|method|mode"
    r"|enabled|algorithm)$"
)
_URL = re.compile(r"://([^\s:/?#@'\"<>]*)(:(?!\d{1,5}(?:[/?#]|$))([^\s\"<>]*))?@")
_BETWEEN_URLS = re.compile(r"[,;|](?=[A-Za-z][\w+.-]*://)")
_INTERPOLATION = re.compile(r"\$\{[^{}]*\}")
_NAMED = re.compile(
    r"""([A-Za-z_][\w.-]*)(=|["']:\s?)("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s"'&,;(){}\[\]<][^\s"'&,;)\]}]*)"""
)
_IN_MAPPING = re.compile(r"""[{,]\s*([A-Za-z_]\w*)\s*:\s*("[^"]*"|'[^']*'|[^\s,{}\[\]]+)""")
_WORDS_OF_NAMES = ("pass", "pwd", "pat", "token", "secret", "key", "cred", "bearer", "jwt", "otp", "webhook", "cookie")
_SHORTEST = 3  # of a secret that is recognized in text
_DISTINCTIVE = 8  # characters of a text that does not appear by chance, if they are not only letters or digits
_OF_LETTERS = 16  # the same, of letters only


def is_secret_name(key: str, value: object = None) -> bool:
    """Return whether the last part of a config key, or of a flag, names a secret.

    Args:
        key: such as `logger.wandb.api_key`, `--db-password` or `accessToken`.
        value: a name that ends in `_key`, `auth` or `session` counts only if this looks like a key.
    """
    name = _plain(key.rpartition(".")[2].partition("[")[0])
    if _NAME_OF_A_KEY.search(name) and isinstance(value, str) and _LOOKS_LIKE_A_KEY.search(value):
        return True
    return bool(_NAME.search(name)) and not _NOT_A_NAME.search(name)


@lru_cache(maxsize=1024)
def is_secret_variable(name: str) -> bool:
    """Return whether an environment variable's name says that it holds a secret."""
    name = _plain(name)
    return bool(_VARIABLE.search(name)) and not _NOT_A_VARIABLE.search(name) and not _NOT_A_NAME.search(name)


def _plain(name: str) -> str:
    """Return a name in small letters and underscores: `accessToken`, `ACCESS-TOKEN` and `--access-token` are one."""
    if not name.isupper():
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


@dataclass(frozen=True)
class Secret:
    """A secret that the process knows.

    Args:
        value: its text.
        source: where it comes from, in words.
        variable: environment variable of that name; None: it comes from elsewhere.
        named: whether its name says that it is a secret; False: the config only reads it from the environment.
    """

    value: str
    source: str
    variable: str | None = None
    named: bool = True

    @cached_property
    def is_distinctive(self) -> bool:
        """Whether the value is hidden wherever it stands; others only as a whole word, and not in names and numbers."""
        value = self.value
        if value.isdigit():
            return False
        return len(value) >= (_OF_LETTERS if value.isascii() and value.isalpha() else _DISTINCTIVE)

    def hidden(self, text: str) -> str:
        """Return a text with this secret masked, in whatever way it is written."""
        parts, forms, pattern = self._looked_for
        if all(part in text for part in parts) and not self._is_word:
            for form in forms:
                text = text.replace(form, MASK)
            if pattern:
                text = pattern.sub(rf"\1{MASK}" if pattern.groups else MASK, text)
        for form in self._in_base64:
            if form in text:
                text = text.replace(form, MASK)
        return text

    @cached_property
    def _looked_for(self) -> tuple[tuple[str, ...], tuple[str, ...], re.Pattern[str] | None]:
        return _looked_for(self.value, self.is_distinctive)

    @cached_property
    def _in_base64(self) -> tuple[str, ...]:
        return _in_base64(self.value) if self.is_distinctive else ()

    @cached_property
    def _is_word(self) -> bool:
        """Whether the value is a word of lrflow's own options, and so cannot be told from it."""
        return len(self.value) < _OF_LETTERS and self.value.lower() in _vocabulary()


@lru_cache(maxsize=256)
def _looked_for(value: str, is_distinctive: bool) -> tuple[tuple[str, ...], tuple[str, ...], re.Pattern[str] | None]:
    """Return the parts that all spellings of a value have, the spellings, longest first, and a pattern."""
    kept = tuple(sorted(re.findall(r"[A-Za-z0-9]+", value), key=len, reverse=True))
    once = spellings(value)
    if is_distinctive:
        forms = once.union(*map(spellings, once)) if once != {value} else once
        words = value.split()  # YAML and terminals break lines at spaces
        folded = re.compile(r"[\s\\]+".join(map(re.escape, words))) if len(words) > 1 else None
        return kept, tuple(sorted(forms, key=len, reverse=True)), folded
    written = "|".join(map(re.escape, sorted(once, key=len, reverse=True)))
    # A letter before the word is part of it, unless it ends an escape (`\n`) or a terminal's colour.
    before = r"((?<![A-Za-z0-9])|(?<=\\[abfnrtv])|\x1b\[[0-9;]*[A-Za-z])" if value[0].isalnum() else "()"
    if value.isdigit():
        before = r"(?<![A-Za-z0-9])(?<!\d[.,])()"
    after = r"(?![A-Za-z0-9])" if value[-1].isalnum() else ""
    return kept, (), re.compile(f"{before}(?:{written}){after}{'(?![.,][0-9])' if value.isdigit() else ''}")


def spellings(text: str) -> set[str]:
    """Return the ways in which programs write a text: by `repr`, in JSON, YAML, CSV, HTML, shells, Hydra and URLs."""
    if re.fullmatch(r"[\w.~-]+", text, re.ASCII):
        return {text}
    import html
    import json
    from urllib.parse import quote, quote_plus

    as_is = "".join(one if one in "'\"" else repr(one)[1:-1] for one in text)
    ascii_only = "".join(one if one in "'\"" else ascii(one)[1:-1] for one in text)
    in_bytes = "".join(one if one in "'\"" else repr(one.encode(errors="replace"))[2:-1] for one in text)
    digits = r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
    in_yaml = re.sub(digits, lambda code: code[0][:2] + code[0][2:].upper(), ascii_only).replace("\\x1B", "\\e")
    in_json = json.dumps(text)[1:-1]
    found = {text, in_json, json.dumps(text, ensure_ascii=False)[1:-1], in_json.replace("/", "\\/")}
    for written in (as_is, ascii_only, in_bytes, in_yaml):
        found |= {written, written.replace("'", "\\'"), written.replace('"', '\\"')}
    found |= {text.replace("'", other) for other in ("''", "\\'", "'\"'\"'", "'\\''")}
    found |= {text.replace('"', '""'), text.replace('"', '\\"'), text.replace("\\", "\\\\")}
    found |= {html.escape(text), html.escape(text, quote=False), html.escape(text).replace("&#x27;", "&#39;")}
    raw = _bytes_of(text)
    for escaped in (quote(raw), quote(raw, safe=""), quote(raw, safe="!$&'()*+,;=:@/"), quote_plus(raw)):
        found |= {escaped, re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), escaped)}
    return found


@lru_cache(maxsize=256)
def _in_base64(text: str) -> tuple[str, ...]:
    """Return the middle of a text in base64, at its three positions in a longer text, such as `user:password`."""
    from base64 import b64encode

    raw = _bytes_of(text)
    found = set()
    for before in range(3):
        whole = b64encode(b"\0" * before + raw).decode().rstrip("=")
        middle = whole[(0, 2, 3)[before] : len(whole) - ((before + len(raw)) % 3 > 0)]
        found |= {middle, middle.replace("+", "-").replace("/", "_")}
    return tuple(found)


def _bytes_of(text: str) -> bytes:
    """Return a text in UTF-8, with the bytes that a surrogate stands for; of one that stands for none, its own."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")


class Redactor:
    """The secrets that a process knows: by the names of environment variables and flags, from URLs and `oc.env`."""

    def __init__(self) -> None:
        self._given: dict[str, Secret] = {}
        self._plain: set[str] = set()
        self._seen: Any = None
        self._secrets: tuple[Secret, ...] = ()

    def forget(self) -> None:
        """Forget what flags and configs brought, before another command in this process."""
        self._given, self._plain, self._seen = {}, set(), None

    def add(self, value: str, source: str, variable: str | None = None, named: bool = True) -> None:
        """Remember a secret that came from elsewhere than a variable with the name of a secret."""
        known = self._given.get(value)
        if known is None or (named and not known.named):
            self._given[value] = Secret(value, source, variable, named)
            self._seen = None

    def add_words(self, words: Iterable[str]) -> None:
        """Remember the values that a command line gives to names of secrets.

        Such as `--password=...`, `--api-key ...`, `model.token=...` and `model={token: ...}`.
        """
        awaited = ""
        for word in words:
            name, equals, value = word.partition("=")
            if awaited and not word.startswith("-"):
                self.add(word, f"the flag {awaited}")
            elif equals and "${" not in value and value and is_secret_name(name, value):
                self.add(value.strip("'\""), f"{name.lstrip('+~')} on the command line")
            awaited = word if word.startswith("--") and not equals and is_secret_name(word) else ""
            for key, item in _IN_MAPPING.findall(value):
                if "${" not in item and is_secret_name(key, item):
                    self.add(item.strip("'\""), f"{key} on the command line")
            for password in _passwords(word):
                self.add(password, "a URL on the command line")

    def add_plain(self, texts: Iterable[object]) -> None:
        """Except values that the config also has in plain text from what is hidden, unless their names are of secrets.

        A user who reads a name from the environment in one place and types it in another does not hide it.
        """
        typed = {text for text in texts if isinstance(text, str)} - self._plain
        if typed and any(not secret.named for secret in self._given.values()):
            self._plain |= typed
            self._seen = None

    def secrets(self) -> tuple[Secret, ...]:
        """Return the secrets that are hidden, the longest first."""
        environment: Any = getattr(os.environ, "_data", os.environ)  # compared without decoding
        if environment != self._seen:
            found = {secret.value: secret for secret in self._collect() if not _is_common(secret.value)}
            self._secrets = tuple(sorted(found.values(), key=lambda secret: -len(secret.value)))
            self._seen = dict(environment)
        return self._secrets

    def _collect(self) -> Iterator[Secret]:
        for secret in self._given.values():
            if secret.named or not any(secret.value in text for text in self._plain):
                yield secret
        for name, value in os.environ.items():
            source = f"the environment variable {name}"
            for password in _passwords(value):
                yield Secret(password, f"a URL in {source}")
            if is_secret_variable(name):
                for line in value.splitlines() if "\n" in value.strip() else ():
                    if len(line.strip()) >= _DISTINCTIVE:
                        yield Secret(line.strip(), source, name)
                yield from (Secret(text, source, name) for text in {value, value.strip()})

    def text(self, text: str) -> str:
        """Return a text for people with every secret masked."""
        for secret in self.secrets():
            text = secret.hidden(text)
        return without_password(without_named(text))

    def file(self, text: str) -> str:
        """Return the text of a file that programs read with secrets masked, except those that may be words of it."""
        for secret in self.secrets():
            if secret.is_distinctive:
                text = secret.hidden(text)
        return without_password(text)

    def data(self, value: Any, name: str = "") -> Any:
        """Return a copy of plain containers with secrets masked, by key and by value."""
        if isinstance(value, Mapping):
            return {
                self.file(key) if isinstance(key, str) else key: self.data(item, str(key))
                for key, item in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            items = [self.data(item, name) for item in value]
            is_named_tuple = hasattr(value, "_fields")  # which takes its items one by one
            return items if is_named_tuple else type(value)(items)
        if not isinstance(value, str):
            return value
        if value and is_secret_name(name, value) and "${" not in value:
            return MASK
        return self.text(value)

    def found_in(self, text: str) -> Secret | None:
        """Return the first secret that a text shows, or None; what a config only reads from the environment is none."""
        return next((one for one in self.secrets() if one.named and one.hidden(text) != text), None)


def without_named(text: str) -> str:
    """Return text with values masked that it gives to names of secrets: `password='...'`, `{"token": "..."}`."""
    low = text.lower()
    may_hold = ("=" in low or ":" in low) and any(word in low for word in _WORDS_OF_NAMES)
    return _NAMED.sub(_hide_named, text) if may_hold else text


def _hide_named(found: re.Match[str]) -> str:
    """Return `name=value` with the value masked if the name is that of a secret."""
    name, sign, value = found.groups()
    quote = value[0] if value[0] in "'\"" else ""
    inner = value.strip("'\"")
    if inner in ("", MASK, "None", "null", "True", "False") or "${" in inner or _is_number(inner):
        return found[0]
    return f"{name}{sign}{quote}{MASK}{quote}" if is_secret_name(name, inner) else found[0]


def without_password(text: str) -> str:
    """Return text with the passwords in URLs such as `postgresql://user:password@host/name` masked."""
    return _URL.sub(_hide_in_url, text) if "://" in text else text


def _hide_in_url(found: re.Match[str]) -> str:
    if "${" in found[0]:  # only what stands in plain text is hidden
        plain = _URL.fullmatch(_INTERPOLATION.sub("", found[0]))
        return f"://{MASK}@" if plain is None or plain[3] else found[0]
    user, colon, password = found.groups()
    if _LOOKS_LIKE_A_KEY.search(user):  # such as https://ghp_...@github.com
        user = MASK
    return f"://{user}{':' if colon else ''}{MASK if password else ''}@"


def _passwords(text: str) -> Iterator[str]:
    """Yield the passwords in the URLs of a text, as they stand there and decoded."""
    if "://" not in text:
        return
    from urllib.parse import unquote

    for url in _BETWEEN_URLS.split(text):
        for user, _, password in _URL.findall(url):
            for found in (user if _LOOKS_LIKE_A_KEY.search(user) else "", password):
                if found and "${" not in found and found != MASK:
                    yield from {found, unquote(found)}


def _is_common(value: str) -> bool:
    """Return whether a value cannot be told from other text: a short one, a number or a path."""
    if len(value) < _SHORTEST or value == MASK or "${" in value:
        return True
    if value.isdigit():
        return len(value) == _SHORTEST
    if _is_number(value) or value in _parts_of_paths():
        return True
    return ("/" in value or "\\" in value) and os.path.exists(value)


def _parts_of_paths() -> set[str]:
    """Return the names in the paths of the home and working directory, which many messages show."""
    with suppress(OSError):  # the working directory may be gone
        return {*os.path.expanduser("~").split(os.sep), *os.getcwd().split(os.sep)}
    return set()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@cache
def _vocabulary() -> frozenset[str]:
    """Return the words of lrflow's own options in `conf/`, and those that often stand in such variables."""
    words = {"true", "false", "yes", "no", "on", "off", "none", "null", "basic", "bearer", "default", "disabled"}
    for root in lrflow.__path__:
        for path in (Path(root) / "conf").rglob("*.yaml"):
            text = re.sub(r"#.*", "", path.read_text(encoding="utf-8")).lower()
            words |= {path.stem.lower(), *re.split(r"[\s:,\[\]{}\"']+", text)}
    return frozenset(words)


redactor = Redactor()
"""The redactor of this process."""


def redact(value: Any) -> Any:
    """Return a copy of plain containers with secrets masked, by key and by value."""
    return redactor.data(value)


def redact_text(text: str) -> str:
    """Return a text for people with every secret masked."""
    return redactor.text(text)
