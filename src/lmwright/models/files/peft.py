"""Adapter folders of PEFT (adapter_config.json, adapter_model.safetensors), read and written.

An adapter there is on a module of a checkpoint, here on a map of ours, which may be several of them
in one product: the family's map of weights says which rows are whose.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.reading import read_json_object
from lmwright.models.core.frozen import FrozenLinear
from lmwright.models.core.linear import Linear, linears
from lmwright.models.core.low_rank import LowRankLinear
from lmwright.models.core.spec import ModelSpec
from lmwright.models.family.family import Family, Weight, to_ours, to_theirs
from lmwright.models.files.weights import (
    PICKLED,
    check_floating,
    read_tensors,
    refuse_pickle,
    some,
    write_tensors,
)
from lmwright.models.network.network import Network, build

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ROOT = "base_model.model."
"""What PEFT puts before the names of the model's modules."""
LEAVES = re.compile(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?")
READ = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "init_lora_weights"),
    *("target_modules", "rank_pattern", "alpha_pattern"),
}
"""Fields of a config that are read."""
INERT = {
    *("auto_mapping", "base_model_name_or_path", "revision", "peft_version", "task_type"),
    *("inference_mode", "runtime_config", "lora_dropout", "fan_in_fan_out", "modules_to_save"),
    *("exclude_modules", "layers_pattern", "layers_to_transform", "ensure_weight_tying"),
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "qalora_group_size"),
    *("megatron_config", "megatron_core"),
}
"""Fields that change no output of the tensors that are there."""
NEUTRAL: tuple[Any, ...] = (None, False, "none", [], {})
INITIAL = (None, True, False, "gaussian", "eva", "orthogonal")
"""Beginnings of adapters that leave the base as it is."""
NAME = re.compile(r"\^?[\w.\\]+")
"""A key of a pattern that is a module's name, or the end of one."""
TASKS = {"lm": "CAUSAL_LM", "classify": "SEQ_CLS", "tokens": "TOKEN_CLS"}
"""PEFT's types of tasks by the use of a head; of others it is told none."""


@dataclass(frozen=True)
class Site:
    """A module of a checkpoint as rows (out) of a map of ours; ``turned``: stored transposed."""

    name: str
    rows_o: Tensor
    turned: bool


@dataclass(frozen=True)
class Adapter:
    """An adapter in our terms.

    ``tune`` are the settings of the tune ``lora`` that it needs, ``matrices`` the weights of its
    maps by our names, ``magnitudes`` those of some of a map's rows, ``others`` what the file holds
    beside, under a checkpoint's names.
    """

    tune: dict[str, Any]
    matrices: dict[str, Tensor]
    magnitudes: dict[str, list[tuple[Tensor, Tensor]]]
    others: dict[str, Tensor]

    @torch.no_grad()
    def put(self, network: Network, head: list[Weight], where: str) -> None:
        """Set the weights of a network to which the tune has been applied.

        ``head`` maps the weights of its head. BadInput for weights of another head.
        """
        names = {name for weight in head for name in weight.theirs}
        if odd := sorted(self.others.keys() - names):
            raise BadInput(
                f"{where} holds {some(odd)} beside its adapters",
                "adapters, and weights of the head that the model has",
                "save it without modules_to_save, or merge it with the software that made it",
            )
        check_floating(self.others, self.others, where)
        whole = [each for each in head if all(name in self.others for name in each.theirs)]
        if odd := sorted(self.others.keys() - {n for each in whole for n in each.theirs}):
            raise BadInput(f"{where} holds {some(odd)} without its other parts", "all of them")
        known = dict(network.named_parameters())
        for name, tensor in {**self.matrices, **to_ours(whole, self.others)}.items():
            if known[name].shape != tensor.shape:
                raise BadInput(
                    f"{where}: {name} has shape {tuple(tensor.shape)}",
                    f"{tuple(known[name].shape)}, as the model has it",
                    "give it the base and the task that it was trained on",
                )
            known[name].copy_(tensor)
        maps = dict(linears(network))
        for name, parts in self.magnitudes.items():
            adapted = maps[name]
            assert isinstance(adapted, LowRankLinear) and adapted.magnitude is not None
            for rows_o, values_o in parts:
                adapted.magnitude[rows_o] = values_o.to(adapted.magnitude)


def sites_of(family: Family, setting: ModelSpec) -> dict[str, list[Site]]:
    """The modules that each map of the body is made of, by our name of the map.

    Stacks of experts and windows are no modules that PEFT adapts.
    """
    maps, found = dict(linears(build(setting))), dict[str, list[Site]]()
    for weight in family.weights(setting):
        name = weight.ours.removesuffix(".weight")
        if weight.ours == name or name not in maps or maps[name].members > 1:
            continue
        # Two columns, so that a row and a column of what comes out can be told apart.
        out = maps[name].out_features
        if len(tuple(dict(maps[name].named_parameters())["weight"].shape)) > 2:
            continue
        parts = weight.part(torch.arange(2 * out).view(out, 2))
        sites = []
        for theirs, part in zip(weight.theirs, parts, strict=True):
            turned = bool(part[0, 1] != part[0, 0] + 1)
            rows_o2 = part.T if turned else part
            sites.append(Site(theirs.removesuffix(".weight"), rows_o2[:, 0] // 2, turned))
        found[name] = sites
    return found


def head_map(family: Family, network: Network, use: str) -> list[Weight]:
    """The weights of a network's head, which has a published use, and a checkpoint's of it."""
    shares = bool(network.head_spec and network.head_spec.share)
    config = {**family.config(network.spec), "tie_word_embeddings": shares}
    return family.heads[use](config, network.spec)[1]


def parts_of(linear: Linear, rows_o: Tensor) -> list[int]:
    """The parts of a map that rows are of."""
    ends = torch.tensor(linear.parts).cumsum(0)
    return sorted(set(torch.searchsorted(ends, rows_o, right=True).tolist()))


# Reading


def read_adapter(folder: Path, family: Family, setting: ModelSpec) -> Adapter:
    """Read an adapter for a base of a family and spec.

    BadInput: no such folder, a pickle, another type than LoRA, a setting that changes outputs and
    is not read, modules that the base lacks, shapes of another base, and another rank than the
    config says. Corrupt: a damaged file, and weights that are not finite.
    """
    config = read_config(folder)
    found = read_tensors(folder / WEIGHTS)
    modules, others = dict[str, dict[str, Tensor]](), dict[str, Tensor]()
    for name, tensor in found.items():
        own = name.removeprefix(ROOT)
        if match := LEAVES.fullmatch(own):
            modules.setdefault(match[1], {})[match[2]] = tensor
        else:
            others[own] = tensor
    where = str(folder / WEIGHTS)
    if not modules:
        raise BadInput(f"{where} has no adapter", "lora_A and lora_B of some modules")
    check_floating(found, found, where)
    sites = {
        site.name: (ours, site) for ours, all_ in sites_of(family, setting).items() for site in all_
    }
    placed = dict[str, list[tuple[Site, dict[str, Tensor], float]]]()
    for module, tensors in modules.items():
        known = module if module in sites else module.removeprefix(family.prefix)
        if known not in sites:
            raise BadInput(
                f"{where} adapts {module}, which the base has not",
                f"linear maps of a {family.name} model, as {next(iter(sites))}",
                "give it the base that it was trained on",
            )
        ours, site = sites[known]
        scale = checked_scale(config, module, tensors, f"{where}: {module}")
        placed.setdefault(ours, []).append((site, tensors, scale))
    check_targets(config, modules, sites, folder)
    return joined(config, placed, dict(linears(build(setting))), others, where)


def read_config(folder: Path) -> dict[str, Any]:
    """The config of an adapter, if it is one that is read; BadInput otherwise."""
    refuse_pickle(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise BadInput(
            f"the adapter {folder} {what}",
            f"a folder with {CONFIG} and {WEIGHTS}",
            "unpack it with software that you trust" if folder.exists() else "correct its path",
        )
    if not (folder / CONFIG).is_file():
        raise BadInput(f"no {CONFIG} in {folder}", "an adapter's folder, as PEFT writes it")
    if not (folder / WEIGHTS).is_file():
        for path in sorted(folder.iterdir()):
            if path.suffix in PICKLED:
                refuse_pickle(path)
    config, where = read_json_object(folder / CONFIG), str(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise BadInput(
            f"{where}: peft_type is {config.get('peft_type')!r}",
            "LORA, with or without use_rslora and use_dora",
            "merge it with the software that made it",
        )
    for name, value in config.items():
        if name not in {*READ, *INERT} and value not in NEUTRAL:
            raise BadInput(
                f"{where}: {name} is {str(value)[:60]!r}, which is not read",
                "an adapter without it",
                "merge it with the software that made it",
            )
    if (begun := config.get("init_lora_weights")) not in INITIAL:
        raise BadInput(
            f"{where}: init_lora_weights is {begun!r}, which changes the base",
            "an adapter for the published base",
            "convert it as PEFT's guide of this method says",
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    numbers = [rank, *patterns(config, "rank_pattern", where).values()]
    if not all(isinstance(each, int) and each > 0 for each in numbers):
        raise BadInput(f"{where}: a rank is {numbers}", "whole numbers of 1 or more")
    numbers = [alpha, *patterns(config, "alpha_pattern", where).values()]
    if not all(isinstance(e, int | float) and 0 < e < math.inf for e in numbers):
        raise BadInput(f"{where}: lora_alpha is {numbers}", "numbers above 0")
    return config


def patterns(config: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """The values of a config by the ends of modules' names; BadInput for regular expressions."""
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise BadInput(f"{where}: {key} is {found!r}", "values by names of modules")
    if odd := [name for name in found if not NAME.fullmatch(name)]:
        raise BadInput(
            f"{where}: {key} has the regular expression {odd[0]!r}",
            "names of modules, or their ends",
            "write the names out",
        )
    return found


def of_module(config: Mapping[str, Any], key: str, module: str, otherwise: Any) -> Any:
    """The value of the first pattern that a module's name ends with."""
    for written, value in (config.get(key) or {}).items():
        name = written.removeprefix("^").replace("\\", "")
        if module == name or module.endswith(f".{name}"):
            return value
    return otherwise


def checked_scale(
    config: Mapping[str, Any], module: str, tensors: Mapping[str, Tensor], where: str
) -> float:
    """The scale of a module's update, whose matrices must be there and have the config's rank."""
    wanted = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if config.get("use_dora") else set())
    if tensors.keys() != wanted:
        raise BadInput(
            f"{where} has {', '.join(sorted(tensors))}",
            " and ".join(sorted(wanted)),
            "take the config and the weights from one adapter",
        )
    rank = of_module(config, "rank_pattern", module, config["r"])
    a, b = tensors["lora_A"], tensors["lora_B"]
    ranks = (a.shape[0] if a.dim() == 2 else 0, b.shape[1] if b.dim() == 2 else 0)
    if ranks != (rank, rank):
        raise BadInput(
            f"{where} has matrices {tuple(a.shape)} and {tuple(b.shape)}",
            f"the rank {rank}, as {CONFIG} says",
            "take the config and the weights from one adapter",
        )
    alpha = float(of_module(config, "alpha_pattern", module, config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def check_targets(
    config: Mapping[str, Any],
    modules: Mapping[str, Any],
    sites: Mapping[str, Any],
    folder: Path,
) -> None:
    """BadInput for target modules of a list that no module of the base, or of the file, is."""
    asked = config.get("target_modules")
    if not isinstance(asked, list):
        return  # "all-linear", or a regular expression: the file says which there are
    for name in asked:
        for known, what in ((sites, "the base"), (modules, WEIGHTS)):
            ends = (each == name or each.endswith(f".{name}") for each in known)
            if not any(ends) and not any(str(name).endswith(f".{each}") for each in known):
                raise BadInput(
                    f"{folder / CONFIG}: {what} has no module {name!r} to adapt",
                    "target modules that are there: "
                    + ", ".join(sorted({each.rsplit(".", 1)[-1] for each in known})),
                    "give it the base that it was trained on",
                )


def joined(
    config: Mapping[str, Any],
    placed: Mapping[str, list[tuple[Site, dict[str, Tensor], float]]],
    maps: Mapping[str, Linear],
    others: dict[str, Tensor],
    where: str,
) -> Adapter:
    """The adapters of modules as those of our maps.

    A part of a map that nothing adapts has matrices of zeros, which never learn; of a part that is
    several modules each has columns of its own.
    """
    matrices, magnitudes = dict[str, Tensor](), dict[str, list[tuple[Tensor, Tensor]]]()
    ranks, alphas = dict[str, int](), dict[str, float]()
    rooted = bool(config.get("use_rslora"))
    for ours, modules in placed.items():
        linear, scale = maps[ours], modules[0][2]
        used = [0] * len(linear.parts)
        columns = []
        for site, tensors, _ in modules:
            check_shapes(site, tensors, linear, f"{where}: {site.name}")
            first = {part: used[part] for part in parts_of(linear, site.rows_o)}
            columns.append(first)
            for part in first:
                used[part] += len(tensors["lora_A"])
        rank = max(used)
        a = torch.zeros(1, len(linear.parts), rank, linear.in_features)
        b = torch.zeros(1, linear.out_features, rank)
        ends = torch.tensor(linear.parts).cumsum(0)
        for (site, tensors, own), first in zip(modules, columns, strict=True):
            size = len(tensors["lora_A"])
            part_o = torch.searchsorted(ends, site.rows_o, right=True)
            for part, at in first.items():
                a[0, part, at : at + size] = tensors["lora_A"]
                here = part_o == part
                b[0, site.rows_o[here], at : at + size] = tensors["lora_B"][here] * (own / scale)
            if "lora_magnitude_vector" in tensors:
                values_o = tensors["lora_magnitude_vector"].flatten()
                magnitudes.setdefault(ours, []).append((site.rows_o, values_o))
        matrices |= {f"{ours}.lora_a": a, f"{ours}.lora_b": b}
        ranks[ours] = rank
        alphas[ours] = scale * (math.sqrt(rank) if rooted else rank)
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    tune = {
        "kind": "lora",
        "rank": rank,
        "alpha": alpha,
        "scaling": "root-rank" if rooted else "rank",
        "dora": bool(config.get("use_dora")),
        "linears": sorted(placed),
        "ranks": {name: each for name, each in ranks.items() if each != rank},
        "alphas": {name: each for name, each in alphas.items() if each != alpha},
    }
    return Adapter(tune, matrices, magnitudes, others)


def check_shapes(site: Site, tensors: Mapping[str, Tensor], linear: Linear, where: str) -> None:
    """BadInput where the matrices are for a module of another size."""
    found = tensors["lora_B"].shape[0], tensors["lora_A"].shape[1]
    sizes = {each.numel() for name, each in tensors.items() if name == "lora_magnitude_vector"}
    if found != (len(site.rows_o), linear.in_features) or sizes - {len(site.rows_o)}:
        raise BadInput(
            f"{where} is an adapter of a map from {found[1]} to {found[0]}",
            f"one from {linear.in_features} to {len(site.rows_o)}, as the base has it",
            "give it the base that it was trained on",
        )


# Writing


def write_adapter(
    folder: Path, family: Family, network: Network, use: str, head: list[Weight], rooted: bool
) -> None:
    """Write the adapters of a network, and its head's weights as modules that are saved whole.

    ``use`` is that of the head, which ``head`` maps (empty: it stays the base's). ``rooted``
    states the scale as alpha over the root of the rank. BadInput: no adapters of low rank, maps
    that PEFT has no modules for, and a base in fewer bits, which only a merge can tell.
    """
    maps = {name: each for name, each in linears(network) if isinstance(each, LowRankLinear)}
    if not maps:
        raise BadInput(
            "a model without LoRA", "one trained with tune: lora", "export it --as folder"
        )
    if any(isinstance(each.inner, FrozenLinear) for each in maps.values()):
        raise BadInput(
            "adapters that were trained on a base in fewer bits, which PEFT does not have",
            "a base in fp32",
            "export it --as folder: its weights are those that the base stands for",
        )
    sites = sites_of(family, network.spec)
    if odd := sorted(maps.keys() - sites.keys()):
        raise BadInput(f"adapters of {some(odd)}", "maps that are modules of a published class")
    prefix = family.prefix if use else ""
    tensors, ranks, alphas = dict[str, Tensor](), dict[str, int](), dict[str, float]()
    turned = False
    for name, adapted in maps.items():
        for site in sites[name]:
            a, b = of_rows(adapted, site.rows_o)
            if not a.any() and not b.any():
                continue  # a part that an adapter which was read has not
            module = f"{prefix}{site.name}"
            tensors[f"{ROOT}{module}.lora_A.weight"], turned = a, turned or site.turned
            tensors[f"{ROOT}{module}.lora_B.weight"] = b
            if adapted.magnitude is not None:
                values_o = adapted.magnitude.detach()[site.rows_o]
                tensors[f"{ROOT}{module}.lora_magnitude_vector"] = values_o
            ranks[module] = len(a)
            alphas[module] = adapted.scale * (math.sqrt(len(a)) if rooted else len(a))
    saved = to_theirs(head, dict(network.named_parameters()))
    tensors |= {f"{ROOT}{name}": each for name, each in saved.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    config = {
        "peft_type": "LORA",
        "task_type": TASKS.get(use),
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": plain(alpha),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": turned,
        "use_rslora": rooted,
        "use_dora": any(each.magnitude is not None for each in maps.values()),
        "target_modules": sorted(ranks),
        "rank_pattern": {name: each for name, each in ranks.items() if each != rank},
        "alpha_pattern": {name: plain(each) for name, each in alphas.items() if each != alpha},
        "modules_to_save": sorted({name.rpartition(".")[0] for name in saved}) or None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, config)
    write_tensors(folder / WEIGHTS, {name: each.clone() for name, each in tensors.items()})


@torch.no_grad()
def check_written(folder: Path, family: Family, network: Network) -> None:
    """Corrupt unless a folder is read as adapters with the updates of the network's."""
    maps, read = dict(linears(network)), read_adapter(folder, family, network.spec)
    for name in {each.rpartition(".")[0] for each in read.matrices}:
        adapted = maps[name]
        assert isinstance(adapted, LowRankLinear)
        rank = read.tune["ranks"].get(name, read.tune["rank"])
        alpha = read.tune["alphas"].get(name, read.tune["alpha"])
        scale = alpha / (math.sqrt(rank) if read.tune["scaling"] == "root-rank" else rank)
        a, b = (read.matrices[f"{name}.{leaf}"].to(adapted.lora_a) for leaf in ("lora_a", "lora_b"))
        found, wanted = scale * adapted.update(a, b), adapted.scale * adapted.update()
        if not torch.allclose(found, wanted, rtol=0, atol=1e-6 * float(wanted.abs().max())):
            raise Corrupt(f"{folder}: the adapter of {name} is another one", "the model's update")


def of_rows(adapted: LowRankLinear, rows_o: Tensor) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B (rows, rank) of some rows of a map: of several parts one below another."""
    parts = parts_of(adapted, rows_o)
    rank = adapted.lora_a.shape[2]
    b_or = adapted.lora_b.detach()[0, rows_o]
    if len(parts) == 1:
        return adapted.lora_a.detach()[0, parts[0]], b_or
    part_o = torch.searchsorted(torch.tensor(adapted.parts).cumsum(0), rows_o, right=True)
    wide = b_or.new_zeros(len(rows_o), rank * len(parts))
    for at, part in enumerate(parts):
        here = part_o == part
        wide[here, at * rank : (at + 1) * rank] = b_or[here]
    return adapted.lora_a.detach()[0, parts].flatten(0, 1), wide


def plain(alpha: float) -> float | int:
    """A whole number as one."""
    return int(alpha) if alpha == int(alpha) else alpha
