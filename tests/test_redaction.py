"""Which names and values are secrets, and that each way of writing them is found."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import yaml

from lrflow.redaction import Redactor, is_secret_name, is_secret_variable, redact, redact_text, redactor


@pytest.fixture(autouse=True)
def _knows_nothing() -> None:
    redactor.forget()


def test_names_of_secrets() -> None:
    names = [
        "api_key",
        "logger.wandb.api_key",
        "WANDB_API_KEY",
        "hf_token",
        "token",
        "password",
        "x.secret",
        "apikey",
        "accessToken",
        "dbPassword",
        "--api-key",
        "--db-password",
        "db_pass",
        "mysql.pwd",
        "github_pat",
        "passphrase",
        "webhook",
        "slack_webhook_url",
        "cookie",
        "credentials[0]",
        "pgpassword",
        "client_secret",
        "aws_secret_access_key",
        "encryption_key",
    ]
    assert [name for name in names if not is_secret_name(name)] == []
    others = [
        "tokenizer",
        "max_tokens",
        "pad_token",
        "bytes_per_token",
        "num_tokens",
        "key",
        "monkey",
        "secretary",
        "keyframe",
        "primary_key",
        "tokens_per_second",
        "monitor",
        "sort_key",
        "forward_pass",
        "high_pass",
        "bypass",
        "pattern",
        "compass",
        "path",
        "author",
        "session_length",
        "passes",
        "authors",
        "sessions",
        "token_count",
        "cookiecutter",
    ]
    assert [name for name in others if is_secret_name(name, "val/loss")] == []
    assert is_secret_name("openai_key", "sk-abc123def456ghi789jkl")
    assert is_secret_name("session", "5f2b9c0d1e3a4f6b")


def test_variables_of_secrets() -> None:
    names = [
        "PGPASSWORD",
        "DB_PASS",
        "MYSQL_PWD",
        "STRIPE_KEY",
        "GITHUB_PAT",
        "PASSPHRASE",
        "AUTH",
        "BASIC_AUTH",
        "SLACK_WEBHOOK",
        "GOOGLE_CREDENTIALS",
        "COOKIE",
        "SESSION",
        "AWS_SESSION_TOKEN",
        "AWS_ACCESS_KEY_ID",
        "HF_TOKEN",
        "WANDB_API_KEY",
        "SENTRY_DSN",
        "JWT",
        "OAUTH_CLIENT_SECRET",
        "myPassword",
    ]
    assert [name for name in names if not is_secret_variable(name)] == []
    others = [
        "PATH",
        "HOME",
        "PWD",
        "OLDPWD",
        "XDG_SESSION_TYPE",
        "DESKTOP_SESSION",
        "SSH_AUTH_SOCK",
        "DBUS_SESSION_BUS_ADDRESS",
        "AUTHOR",
        "TOKENIZERS_PARALLELISM",
        "MONKEY",
        "PUBLIC_KEY",
        "KEY_FILE",
        "TOKEN_LENGTH",
        "MAX_TOKENS",
        "KEYBOARD",
        "GIT_AUTHOR_NAME",
    ]
    assert [name for name in others if is_secret_variable(name)] == []


VALUES = (
    "s3cr3t-0123456789",
    "hunter2",
    "p4$",
    'it\'s "quoted" 12',
    "two\nlines of 7 words",
    "back\\slash/and%20more",
    "größe-€-日本-🔑",
    "tab\tand\x1bescape",
    "correct horse battery staple",
    "<b>&amp;'x'</b>",
)


@dataclass
class Account:
    password_of_user: str
    nested: dict[str, object]


def written(value: str) -> dict[str, str]:
    """A value as programs write it, by the program."""
    table = io.StringIO()
    csv.writer(table).writerow([value, 1])
    basic = base64.b64encode(f"user:{value}".encode()).decode()
    return {
        "plain": f"see {value} here",
        "end of sentence": f"cannot use {value}.",
        "after an escape": f"a\\n{value}",
        "coloured": f"\x1b[1m{value}\x1b[0m",
        "repr": repr(value),
        "repr of repr": repr(repr(value)),
        "ascii": ascii({"a": [value]}),
        "bytes": repr(value.encode()),
        "data class": repr(Account(value, {"x": (value,)})),
        "exception": repr(ValueError({"url": value})),
        "json": json.dumps({"a": value}),
        "json, no ascii": json.dumps([value], ensure_ascii=False),
        "json of repr": json.dumps(repr([value])),
        "json of json": json.dumps(json.dumps([value])),
        "yaml": yaml.safe_dump({"a": value}, allow_unicode=True, width=1000),
        "yaml, ascii": yaml.safe_dump({"a": value}, allow_unicode=False, default_style='"', width=1000),
        "csv": table.getvalue(),
        "html": html.escape(value),
        "url": f"https://host/?q={quote(value, safe='')}&b={quote_plus(value)}",
        "shell": shlex.quote(value),
        **({"basic auth": f"Basic {basic}"} if len(value) >= 8 else {}),
    }


def test_each_way_of_writing_a_secret_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    for value in VALUES:
        monkeypatch.setenv("DB_PASS", value)
        for way, text in written(value).items():
            found = redact_text(text)
            if "***" not in found or value in found:
                shown.append((way, value, found))
    assert shown == []


def test_a_secret_that_is_no_valid_unicode_is_hidden() -> None:
    found = Redactor()
    for value in ("Tr0ub4dor\ud800&3", "\udce9t\u00e9-\udfff-9x8y7z"):
        found.add(value, "a config")
        assert found.text(f"a {value} b {json.dumps(value)} c {value!r}") == "a *** b \"***\" c '***'"


def test_what_only_looks_like_a_secret_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, text in {
        "sgd": "optimizer=sgd",  # an option of lrflow
        "val/loss": "val/loss is 1",
        "ab": "ab",  # too short
        "0.001": "optimizer.lr=0.001",
        "true": "trainer.compile=true",
        "1234": "0.1234 1234.5 12345 x1234",
        "hunter2": "hunter22 ahunter2",
        str(Path.cwd()): f"{Path.cwd()}/outputs",
        Path.cwd().name: f"{Path.cwd()}/outputs",
    }.items():
        monkeypatch.setenv("MY_TOKEN", value)
        assert redact_text(text) == text
    assert redact({"steps": 1234, "hunter2": 1}) == {"steps": 1234, "hunter2": 1}
    monkeypatch.setenv("MY_TOKEN", "1234")
    assert redact_text("pin 1234, step 12345") == "pin ***, step 12345"


def test_urls() -> None:
    for text in (
        "postgresql+psycopg://lr:p%40ss:w@host:5432/trials",
        "see mysql://lr:p%40ss:w@host, and me@host",
        "['ftp://lr:p%40ss:w@h']",
        "redis://:p%40ss:w@host",
    ):
        assert redact_text(text) == redact({"url": text})["url"] == text.replace("p%40ss:w", "***")
    assert redact_text("a://u:p@ss'w/rd@h/x") == "a://u:***@h/x"
    assert redact_text("git+https://ghp_0123456789abcdefABCD@github.com/x.git") == "git+https://***@github.com/x.git"
    for text in (
        "sqlite:///trials.db", "https://host:80/a", "https://host/a:b@c", "postgresql://lr@host/trials",
        "https://host:80/a@b", "a://${oc.env:U}:${oc.env:P}@h", "a://u:${oc.env:P}@h",
    ):  # fmt: skip
        assert redact_text(text) == redact([text])[0] == text


def test_the_password_of_a_url_is_hidden_alone_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE", "postgresql://lr:p%40ss-42@host/trials")
    assert redact_text("failed for p@ss-42 (p%40ss-42)") == "failed for *** (***)"
    monkeypatch.setenv("BROKERS", "amqp://lr:first-42@host/x,amqp://lr:other-43@host/x;redis://:third-44@host")
    assert redact_text("first-42 other-43 third-44") == "*** *** ***"


def test_values_that_a_text_gives_to_names_of_secrets_are_hidden() -> None:
    for text in ("connect(password='a b', n=1)", "{'api_key': 'a b'}", "?n=1&token=abc&m=2", '{"db_pass": "a\\"b"}'):
        assert "***" in redact_text(text)
        assert "a b" not in redact_text(text)
        assert "abc" not in redact_text(text)
    for text in (
        "train/token=0.5",
        "pad_token='<pad>'",
        "token=None",
        "secrets=['${oc.env:X}']",
        "api_key=${oc.env:X}",
        "key=value",
    ):
        assert redact_text(text) == text


def test_plain_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "s3cr3t-0123456789"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    given = {"api_key": "abc", "a": [f"x{secret}y", 1, None], "b": {"token": "${oc.env:T}", "lr": 0.1}, "password": ""}
    given["credentials"] = ["abc", {"user": "me"}]
    given[f"of-{secret}"] = (2.5, secret)
    assert redact(given) == {
        "api_key": "***",
        "a": ["x***y", 1, None],
        "b": {"token": "${oc.env:T}", "lr": 0.1},
        "password": "",
        "credentials": ["***", {"user": "me"}],
        "of-***": (2.5, "***"),
    }


def test_words_of_a_command_line() -> None:
    redactor.add_words(
        ["train.py", "--password", "hunter2", "--api-key=swordfish", "+m.token=opensesame", "--n", "gone"]
    )
    redactor.add_words(["model={a: {b: 1, db_pass: 'say friend'}, token: xyzzy-9, key: plugh}"])
    assert redact_text("hunter2 swordfish opensesame gone") == "*** *** *** gone"
    assert redact_text("say friend xyzzy-9 plugh") == "*** *** plugh"


def test_a_typed_secret_is_one_even_if_a_config_read_it_before() -> None:
    redactor.add("hunter2", "the environment variable PART", "PART", named=False)
    redactor.add_words(["--password", "hunter2"])
    redactor.add_plain(["hunter2"])
    assert redact_text("hunter2") == "***"
