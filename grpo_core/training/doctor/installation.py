"""Is what grpo-core needs installed, in versions it knows, and do the plugins load?"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from grpo_core import __version__
from grpo_core.config import RunConfig
from grpo_core.errors import GrpoError, PluginError
from grpo_core.plugin_manager import DISABLED_VARIABLE, load_plugins
from grpo_core.records.manifest import hardware
from grpo_core.training.doctor.finding import Bench, Check, Finding, ok, problem, warning

_DISTRIBUTION = "grpo-core"
_OPTIONAL = ("vllm", "peft", "trl")


def check_packages(bench: Bench) -> Iterator[Finding]:
    """Python and every required package, against the ranges of the installed distribution."""
    python = platform.python_version()
    try:
        wanted = [Requirement(text) for text in requires(_DISTRIBUTION) or ()]
        range_of_python = SpecifierSet(metadata(_DISTRIBUTION)["Requires-Python"])
    except PackageNotFoundError:
        yield warning(
            "packages",
            f"grpo-core {__version__} runs from its source folder; it is not installed, so its "
            "built-in verifiers and tasks are not found by themselves",
            "pip install -e . in that folder",
        )
        return
    needed = [item for item in wanted if item.marker is None or item.marker.evaluate({"extra": ""})]
    wrong = [] if range_of_python.contains(python) else [f"Python {python} ({range_of_python})"]
    for item in needed:
        there = _version(item.name)
        if there is None:
            wrong.append(f"{item.name} is missing ({item.specifier})")
        elif not item.specifier.contains(there, prereleases=True):
            wrong.append(f"{item.name} {there} ({item.specifier})")
    if wrong:
        cure = f"pip install --upgrade '{_DISTRIBUTION}=={__version__}'"
        yield problem("packages", f"outside the supported ranges: {', '.join(wrong)}", cure)
        return
    yield ok(
        "packages",
        f"grpo-core {__version__}, Python {python}, {len(needed)} required packages in range",
        python=python,
        grpo_core=__version__,
    )


def check_torch(bench: Bench) -> Iterator[Finding]:
    """Both libraries import; device, threads, and what bfloat16 is worth here.

    Raises:
        GrpoError: if they do not. ConfigError: if model.device is not there.
    """
    try:  # here, for the command must answer where they cannot be imported
        import torch
        import transformers

        from grpo_core.models.load import choose_device, compute_dtype
    except Exception as error:  # a broken installation fails in many ways
        raise GrpoError(
            f"torch or transformers cannot be imported: {type(error).__name__}: {error}. "
            f"Install them anew: pip install --force-reinstall '{_DISTRIBUTION}=={__version__}'"
        ) from error
    device = choose_device(bench.config.model.device)
    automatic = compute_dtype("auto", device)
    dtype = compute_dtype(bench.config.trainer.dtype, device)
    native = automatic == torch.bfloat16
    threads, cores = torch.get_num_threads(), int(hardware()["cores"])
    policy, spins = os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT")
    waiting = "sleep at once" if policy and policy.lower() == "passive" else "spin while they wait"
    if spins is not None:
        waiting = f"wait for {spins} rounds before they sleep"
    found = (
        f"torch {torch.__version__}, transformers {transformers.__version__}; {_describe(device)}; "
        f"{threads} threads on {cores} cores, which {waiting}; bfloat16 "
        f"{'native' if native else 'emulated'}, computing in {str(dtype).removeprefix('torch.')}"
    )
    numbers = {"device": str(device), "threads": threads, "cores": cores, "bfloat16_native": native}
    cures = []
    if device.type == "cpu" and threads > cores:
        cures.append(f"set OMP_NUM_THREADS={cores}: more threads than cores wait for each other")
    if device.type == "cpu" and policy and policy.lower() == "active" and spins is None:
        cures.append("unset OMP_WAIT_POLICY: threads that spin for ever slow others tenfold")
    if dtype == torch.bfloat16 and not native:
        cures.append("set trainer.dtype = 'auto': emulated bfloat16 is slower than float32")
    if cures:
        yield warning("torch", found, "; ".join(cures), **numbers)
    else:
        yield ok("torch", found, **numbers)


def check_extras(bench: Bench) -> Iterator[Finding]:
    """Optional packages, and those among them that the config asks for."""
    there = [name for name in _OPTIONAL if find_spec(name) is not None]
    needed = _needed_extras(bench.config)
    lines = {name: _pip_line(name) for name in _OPTIONAL if name not in there}
    found = ", ".join(
        f"{name} {_version(name) or 'installed'}" if name in there else f"{name} not installed"
        for name in _OPTIONAL
    )
    if missing := [name for name in needed if name in lines]:
        cure = "; ".join(f"{lines[name]}  (for {needed[name]})" for name in missing)
        yield problem("extras", found, cure, installed=there)
    else:
        wanted = "; ".join(lines.values())
        found += f". None is needed now; to get them: {wanted}" if wanted else ""
        yield ok("extras", found, installed=there)


def check_plugins(bench: Bench) -> Iterator[Finding]:
    """All plugins load, and everything they register can be imported.

    Raises:
        PluginError: if a plugin does not load.
    """
    bench.plugins = load_plugins(bench.sources)
    shown = ", ".join(f"{info.name} ({info.origin})" for info in bench.plugins.infos)
    disabled = os.environ.get(DISABLED_VARIABLE, "")
    found = f"{len(bench.plugins.infos)} loaded: {shown}"
    found += f"; {DISABLED_VARIABLE}={disabled}" if disabled else ""
    broken = []
    for registry in bench.plugins.registries:
        for registration in registry:
            try:
                registration.load()
            except PluginError as error:
                broken.append(f"{registration.kind} '{registration.name}': {error}")
    origins = {info.name: info.origin for info in bench.plugins.infos}
    if broken:
        cure = "Repair or uninstall these plugins, or do without what they register."
        yield warning("plugins", f"{found}. {' '.join(broken)}", cure, plugins=origins)
    else:
        yield ok("plugins", found, plugins=origins)


def _needed_extras(config: RunConfig) -> dict[str, str]:
    """Package -> the setting that asks for it."""
    needed = {}
    if config.sampling.engine == "vllm":
        needed["vllm"] = "sampling.engine = 'vllm'"
    if config.lora.rank > 0:
        needed["peft"] = f"lora.rank = {config.lora.rank}"
    return needed


def _pip_line(package: str) -> str:
    """How to get an optional package: by the extra that has it, where there is one."""
    try:
        wanted = [Requirement(text) for text in requires(_DISTRIBUTION) or ()]
        extras = metadata(_DISTRIBUTION).get_all("Provides-Extra") or ()
    except PackageNotFoundError:
        return f"pip install {package}"
    for extra in extras:
        for item in wanted:
            if item.name == package and item.marker and item.marker.evaluate({"extra": extra}):
                return f"pip install '{_DISTRIBUTION}[{extra}]'"
    return f"pip install {package}"


def _version(package: str) -> str | None:
    for name in (package, f"{package}-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _describe(device: object) -> str:
    import torch

    if str(device) == "cpu":
        return "no GPU in use"
    name = torch.cuda.get_device_name(0)
    return f"{torch.cuda.device_count()} GPU(s), first {name}"


CHECKS = (
    Check("packages", check_packages),
    Check("torch", check_torch),
    Check("extras", check_extras),
    Check("plugins", check_plugins, needs=("torch",)),
)
