"""No byte of what the command line writes shows a secret: terminal, run folders, sweeps, dashboards, checkpoints."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from omegaconf import OmegaConf

from lrflow.cli import main
from lrflow.config import load_config
from lrflow.config.failures import one_line
from lrflow.errors import ConfigError
from lrflow.schedules import Tabulated

ENVIRONMENT = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "PGPASSWORD": "hunter2",
    "DB_PASS": 'it\'s "odd"\n\\und größer €',
    "MYSQL_PWD": "p4%ss w0rd",
    "STRIPE_KEY": "sk-live/9+x==",
    "GITHUB_PAT": "ghp_abcdefghijklmnopqrstuvwxyz",
    "VAULT_PASSPHRASE": "correct horse battery staple",
    "BASIC_AUTH": "Zaphod:42!x",
    "SLACK_WEBHOOK": "https://hooks.example/T0/B0/xyzzy-8",
    "APP_CREDENTIALS": '{"private_key": "-----BEGIN\\nQUJD"}',
    "COOKIE": "sid=4f5e6d;path",
    "DATABASE_URL": "postgresql://lr:Pa55w%2Frd@host/trials",
    "FEED_LOCATION": "zone-9-quux",  # a secret by its use alone
}
PLANTED = {**ENVIRONMENT, "DATABASE_URL": "Pa55w%2Frd", "decoded": "Pa55w/rd"}

MODULE = '''
import hashlib, json, logging, sys, warnings
from dataclasses import dataclass
from torch import nn

@dataclass
class Account:
    password: str
    others: dict

class Net(nn.Module):
    """Shows its arguments in every way, as a careless author would while looking for a mistake."""

    def __init__(self, secrets, nested, fails=False, **others):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        print("digest", hashlib.sha256(repr((secrets, dict(nested), others["address"])).encode()).hexdigest())
        given = Account(secrets[0], {"all": secrets, "nested": dict(nested), secrets[1]: 1})
        for text in (given, repr(given), json.dumps(list(secrets)), json.dumps(repr(given)), ascii(given), *secrets):
            print(text)
            print(text, file=sys.stderr)
            logging.getLogger("lrflow").warning("given: %s", text)
            warnings.warn(str(text))
        sys.stdout.buffer.write(repr(given).encode())
        try:
            raise KeyError(given)
        except KeyError:
            logging.getLogger("leaky").exception("failed with %r", secrets)
        if fails:
            raise ValueError(given, "and more:\\n" + "\\n".join(secrets))

        self.given = given  # once more when training has begun, and dashboards read what is printed

    def forward(self, inputs):
        if self.training and self.given:
            print(self.given, json.dumps(repr(self.given)))
            if (run := getattr(sys.modules.get("wandb"), "run", None)) is not None:
                run.config.update({"given": self.given.others, self.given.password: repr(self.given)})
                run.summary["given"] = repr(self.given)
                run.log({"text": ascii(self.given)})
                run.notes = str(self.given)
            self.given = None
        return self.layers(inputs)
'''

NET = [
    "trust=leaky", "model=custom", "model._target_=leaky.Net", "model.loss=cross_entropy",
    "+model.secrets=[" + ",".join(f"'${{oc.env:{name}}}'" for name in ENVIRONMENT) + "]",
    "+model.nested={deep: {er: '${oc.env:PGPASSWORD}'}}",
    "+model.address='postgresql://me:${oc.env:DB_PASS}@host'",
    "trainer=cpu", "trainer.progress=false", "trainer.max_steps=3", "data.batch_size=256",
]  # fmt: skip
LR = "optimizer.lr=interval(1e-4,1e-2)"


@pytest.fixture(autouse=True)
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "leaky.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


def spellings(value: str) -> set[str]:
    """A value as other programs write it."""
    found = {value, value.strip(), repr(value)[1:-1], ascii(value)[1:-1], json.dumps(value)[1:-1], html.escape(value)}
    found |= {json.dumps(value, ensure_ascii=False)[1:-1], quote(value), quote(value, safe=""), repr(repr(value))[2:-2]}
    found |= {json.dumps(repr(value)[1:-1])[1:-1], yaml.safe_dump(value, allow_unicode=True).strip("'\"\n.")}
    found |= {
        base64.b64encode(value.encode()).decode().rstrip("=")[:-1],
        *(x for x in value.splitlines() if len(x) > 7),
    }
    return found


WANTED = {form.encode(): name for name, value in PLANTED.items() for form in spellings(value)}


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder, and every member of those that are archives; W&B's log also without its framing."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink() or path.name == "leaky.py" or path.suffix == ".pyc":
            continue
        data = path.read_bytes()
        yield str(path.relative_to(folder)), data
        if path.suffix == ".wandb":  # blocks of 32 KiB; a record's parts have headers of 7 bytes
            parts = []
            at = 7
            while at + 7 <= len(data):
                if 32768 - at % 32768 < 7:
                    at += 32768 - at % 32768
                    continue
                size = int.from_bytes(data[at + 4 : at + 6], "little")
                parts.append(data[at + 7 : at + 7 + size])
                at += 7 + size
            assert len(parts) > 5
            yield f"{path.name} (joined)", b"".join(parts)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield f"{path.name}:{name}", archive.read(name)


def shown(texts: Mapping[str, str], folder: Path) -> list[tuple[str, str, bytes]]:
    """Where which secret is shown, and how."""
    streams = [(name, text.encode(errors="surrogateescape")) for name, text in texts.items()]
    return [
        (where, name, data[max(0, at - 40) : at + len(form) + 20])
        for where, data in [*streams, *contents(folder)]
        for form, name in WANTED.items()
        if (at := data.find(form)) >= 0
    ]


def test_no_command_shows_a_secret(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    commands: dict[str, tuple[list[str], int]] = {
        "plan": ([*NET, "task=plan"], 0),
        "train": ([*NET, "logger=tensorboard", "name=trained", "hydra.output_subdir=.hydra"], 0),
        "evaluate": (["trust=leaky", "task=evaluate"], 0),
        "resume": (["trust=leaky", "resume=last", "trainer.max_steps=5", "resume.horizon=rescale"], 0),
        "crash": ([*NET, "+model.fails=true"], 1),
        "find": ([*NET, "task=find", "find.steps=40", "find.sweeps=1"], 0),
        "multirun": (["-m", *NET, "+model.also='${oc.env:PGPASSWORD}','${oc.env:FEED_LOCATION}'"], 0),
        "search": (["-m", *NET, LR, "sweep.n_trials=2", "sweep.sampler=random", "+model.fails=false,true"], 1),
        "analyze": (["task=analyze"], 0),
        "config": (["--cfg", "job", "--resolve", *NET], 0),
        "info": (["--info", "all", *NET], 0),
        "wrong key": (
            [*NET, f"+model.{ENVIRONMENT['PGPASSWORD']}-{ENVIRONMENT['BASIC_AUTH']}=1", "optimizer.lr=x"],
            2,
        ),
        "secret in a key": ([*NET, f"+optimizer.{ENVIRONMENT['GITHUB_PAT']}=1"], 2),
        "secret as a value": ([*NET, f"optimizer.lr={ENVIRONMENT['PGPASSWORD']}"], 2),
        "secret in a flag": ([f"--passwords={ENVIRONMENT['PGPASSWORD']}", "--api-key", "swordfish"], 2),
        "secret in a path": ([f"--config-dir=/{ENVIRONMENT['COOKIE']}/{ENVIRONMENT['PGPASSWORD']}"], 2),
    }
    monkeypatch.setenv("LRFLOW_DEBUG", "")
    found: list[Any] = []
    digests = {}
    for name, (words, code) in commands.items():
        capfd.readouterr()
        if name == "crash":
            monkeypatch.setenv("LRFLOW_DEBUG", "1")
        ended = main(words)
        monkeypatch.setenv("LRFLOW_DEBUG", "")
        out, err = capfd.readouterr()
        if ended != code:
            found.append((name, "exit code", f"{ended}\n{out[-500:]}\n{err[-1500:]}".encode()))
        jobs = "".join(path.read_text() for path in tmp_path.rglob("output.txt"))  # what the jobs of a grid print
        digests[name] = re.findall(r"digest (\w+)", out + jobs)
        assert "swordfish" not in out + err
        found += [(name, *one) for one in shown({"stdout": out, "stderr": err}, tmp_path / "none")]
    found += [("files", *one) for one in shown({}, tmp_path)]
    assert found == []
    for name in ("evaluate", "resume", "crash", "find", "multirun"):
        assert {*digests[name]} == {*digests["train"]}, name  # the true values, not what is shown of them
    texts = [text.read_text() for text in tmp_path.rglob("config.yaml")]
    assert all("- ${oc.env:DB_PASS}" in text for text in texts)
    (path,) = tmp_path.glob("outputs/*_trained")
    typed: Any = OmegaConf.to_container(load_config(path / "config.yaml"))
    assert "model.nested={deep: {er: '${oc.env:PGPASSWORD}'}}" in typed["lrflow"]["overrides"]
    monkeypatch.delenv("PGPASSWORD")
    assert main(["trust=leaky", f"resume={path}", "trainer.max_steps=9", "resume.horizon=rescale"]) == 2
    err = capfd.readouterr().err
    assert "lrflow: 1 problem\n" in err
    assert "the environment variable PGPASSWORD is not set; model.nested.deep.er needs it too" in " ".join(err.split())


def test_weights_and_biases_get_no_secret(tmp_path: Path, lrflow: Callable[..., Any]) -> None:
    """In a process of its own, since W&B hangs on to the streams that it finds first."""
    remote = f"https://oauth2:{PLANTED['GITHUB_PAT']}0123456789@github.com/me/x.git"
    for words in (["init", "-q"], ["remote", "add", "origin", remote]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    words = [*NET, "logger=wandb", "name=trained", "+model.fails=false", "trainer.max_steps=2"]
    done = lrflow(*words, cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}", **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    found = shown({"stdout": done.stdout, "stderr": done.stderr}, tmp_path)
    assert [one for one in found if not one[0].startswith(".git/")] == []
    (log,) = [data for name, data in contents(tmp_path) if name.endswith(" (joined)")]
    assert b"github.com/me/x.git" in log
    assert log.count(b"***") > 20


def test_a_secret_that_a_message_cuts_is_masked_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of a secret would not be found afterwards."""
    secret = "eyJhbGciOiJIUzI1NiJ9." + "Zm9vYmFy" * 50
    monkeypatch.setenv("BIG_TOKEN", secret)
    Path("table.csv").write_text(f"{secret},1\n")
    with pytest.raises(ConfigError) as caught:
        Tabulated(file="table.csv")
    for text in (str(caught.value), one_line(ValueError("x" * 200 + secret))):
        assert "***" in text
        assert secret[:8] not in text
