"""Targets that lead through modules a config may name to code that it may not, or to code that writes files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lrflow.config import locate
from lrflow.config.targets import check_name
from lrflow.errors import ConfigError

HOSTILE = """
    os.system  subprocess.run  subprocess.Popen  builtins.exec  builtins.eval  builtins.open  builtins.__import__
    importlib.import_module  runpy.run_path  pty.spawn  shutil.rmtree  pathlib.Path.write_text  webbrowser.open
    functools.partial  operator.methodcaller  types.FunctionType  ctypes.CDLL  pickle.loads  marshal.loads
    code.interact  torch.load  torch.save  torch.hub.load  torch.hub.download_url_to_file  torch.jit.load
    torch.jit.script  torch.package.PackageImporter  torch.utils.collect_env.run  torch.utils.cpp_extension.load
    torch.utils.cpp_extension.load_inline  torch.utils.model_zoo.load_url  torch.utils.benchmark.Timer
    torch.utils.tensorboard.SummaryWriter  torch.utils.file_baton.FileBaton  torch.os.system  torch.compile
    torch.distributed.run.main  torch.multiprocessing.spawn  torch.serialization.add_safe_globals
    torch.ops.load_library  torch.classes.load_library  torch.export.load  torch.library.custom_op
    torch.set_default_device  torch.nn.modules.module.torch.load  torch.nn.functional.importlib.import_module
    torch.nn.functional.torch.hub.load  torch.nn.modules.container.operator.methodcaller
    torch.nn.parallel.distributed.os.system  torch.nn.parallel.distributed.inspect.getsource
    torch.nn.parallel.distributed.logging.FileHandler  torch.nn.utils.parametrize.copyreg.pickle
    torch.nn.utils.prune.partial  torch.nn.attention._fa3.register_flash_attention_fa3
    torch.nn.utils._deprecation_utils.lazy_deprecated_import  torch.nn.init.warnings.warn
    torch.nn.Module.__reduce__  torch.nn.Module.__init__.__globals__  torch.nn.Linear.mro
    torch.nn.Linear.forward.__code__  torch.optim.optimizer.functools.partial  torch.optim.swa_utils.torch.save
    torch.optim.lr_scheduler.LambdaLR  torch.utils.data.dataloader.os.system
    torch.utils.data.dataloader.multiprocessing  torch.utils.data.datapipes.utils.common
    torch.utils.data.dataset.Dataset  torch.utils.data.DataLoader.__class__  pytorch_lightning.Trainer
    pytorch_lightning.LightningModule.load_from_checkpoint
    pytorch_lightning.callbacks.model_checkpoint.shutil.rmtree
    pytorch_lightning.callbacks.ModelCheckpoint.format_checkpoint_name
    pytorch_lightning.core.saving.load_hparams_from_yaml  pytorch_lightning.utilities.cloud_io
    pytorch_lightning.cli.LightningCLI  pytorch_lightning.loggers.csv_logs.os.system  lightning.pytorch.Trainer
    lightning.fabric.Fabric  lightning.pytorch.callbacks.os.system  lightning_fabric.Fabric  torchmetrics.functional
    torchmetrics.utilities.imports.os  torchmetrics.metric.pickle  numpy.load  numpy.save  numpy.fromfile
    numpy.f2py.compile  scipy.io.loadmat  sklearn.datasets.fetch_openml  pandas.read_pickle  joblib.load
    yaml.unsafe_load  omegaconf.OmegaConf.save  hydra.utils.instantiate  hydra.utils.call
    hydra._internal.core_plugins.basic_launcher.BasicLauncher  wandb.init  optuna.create_study  lrflow.cli.main
    lrflow.cli.command.main  lrflow.config.os  lrflow.config.targets.importlib.import_module
    lrflow.config.instantiate  lrflow.config.packages.trust_packages  lrflow.config.saved.save_config
    lrflow.files.write_whole  lrflow.memory.garbage_collection  lrflow.data.cache.write_file  lrflow.data.cache._run
    lrflow.data.cache.subprocess.run  lrflow.data.fetch.main  lrflow.data.module.os.system
    lrflow.data.fashion_mnist.files.download  lrflow.data.DataModule.load  lrflow.models.torch.load
    lrflow.schedules.pieces.shape_factory  lrflow.schedules.serialization.from_spec  lrflow.schedules.np.load
    lrflow.optimizers.factory.build_optimizer  lrflow.optimizers.shampoo.os  lrflow.health.sharpness.csv
    lrflow.training.checkpoint_file.read_checkpoint  lrflow.tasks.train.run  lrflow.sweeps.study.open_storage
    lrflow.reports.page.HERE  lrflow.recipes.stability.picture.main  lrflow.recipes.stability.picture.draw_run
    lrflow.recipes.stability.picture.instantiate  lrflow.recipes.stability.picture.load_config
    lrflow.recipes.stability.picture.argparse.FileType  lrflow.recipes.stability.model.write_path
    lrflow.recipes.stability.model.Path.unlink  lrflow.recipes.logistic.picture.draw
    lrflow.recipes.logistic.picture.main  lrflow.recipes.logistic.picture.read_sweep
    lrflow.recipes.logistic.data.torch.load  lrflow.recipes.logistic.model.nn
    lrflow.recipes.resnet.model.ConfigError  lrflow.recipes.resnet.model.flipped
    lrflow.recipes.resnet.model.Supervised.compile  lrflow.recipes.own_model.my_project.data.load_diabetes
    lrflow.recipes.own_model.my_project.data.train_test_split
    lrflow.recipes.own_model.my_project.data.TensorDataset
""".split()  # noqa: SIM905  # a table of names

ALLOWED = """
    torch.nn.Linear  torch.nn.modules.linear.Linear  torch.nn.functional.relu  torch.nn.Embedding.from_pretrained
    torch.nn.utils.parametrizations.weight_norm  torch.nn.init.xavier_uniform_  torch.optim.AdamW  torch.optim.Adafactor
    torch.utils.data.TensorDataset  torch.utils.data.default_collate  torchmetrics.Accuracy  lrflow.models.MLP
    pytorch_lightning.callbacks.ModelCheckpoint  pytorch_lightning.loggers.CSVLogger  lightning.pytorch.callbacks.Timer
    lrflow.recipes.stability.model.Quadratic  lrflow.recipes.stability.data.GradientNoise
    lrflow.recipes.logistic.model.LinearSVM  lrflow.recipes.logistic.data.BreastCancer  lrflow.data.FashionMNIST
    lrflow.recipes.own_model.my_project.net.Net  lrflow.recipes.own_model.my_project.data.Diabetes
    lrflow.recipes.resnet.model.AugmentedResNet
    lrflow.schedules.Cosine  lrflow.layers.MuP  lrflow.optimizers.shampoo.Shampoo  lrflow.health.Sharpness
""".split()  # noqa: SIM905


def test_hostile_targets() -> None:
    allowed = []
    for target in HOSTILE:
        try:
            allowed.append(f"{target}: {locate(target)}")
        except ConfigError as error:
            if [problem.key for problem in error.problems] != ["_target_"]:
                allowed.append(f"{target}: {error}")
    assert not allowed


def test_targets_of_models_and_data() -> None:
    for target in ALLOWED:
        assert callable(locate(target)), target


@pytest.mark.parametrize(
    "target", ["torch.nn\n.Linear", "torch.nn.Linear ", "torch.nn.Li\u200bnear", "torch.nn.Línear"]
)
def test_names_that_only_look_allowed(target: str) -> None:
    with pytest.raises(ConfigError):
        locate(target)


def test_every_function_that_a_config_may_name_is_free_of_files_and_processes() -> None:
    """A new version of torch or of an optimizer package may bring one."""
    import inspect
    import pkgutil

    import torch

    runs = re.compile(
        r"\b(open|exec|eval|system|popen|Popen|import_module|__import__|urlopen)\(|torch\.(load|save)\(|pickle\.load"
    )
    found = []
    for package in (torch.nn, torch.optim):
        names = [
            package.__name__,
            *(one.name for one in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")),
        ]
        for name in names:
            if any(part.startswith("_") for part in name.split(".")):
                continue
            module = inspect.importlib.import_module(name)  # type: ignore[attr-defined]
            for word, value in vars(module).items():
                if inspect.isfunction(value) and check_name(f"{name}.{word}") is None:
                    try:
                        locate(f"{name}.{word}")
                    except ConfigError:
                        continue
                    if runs.search(inspect.getsource(value)):
                        found.append(f"{name}.{word}")
    expected = {"interpolate", "pad", "max_pool3d_with_indices"}
    assert {name.rpartition(".")[2] for name in found} <= expected, found  # they import torch's own modules


def test_a_trusted_package_is_trusted_with_functions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LRFLOW_TRUST", "lrflow")
    assert locate("lrflow.recipes.stability.model.write_path").__name__ == "write_path"
