"""Adapters on one base: their answers are written in one batch, each as its model does alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from lmwright.models.blocks.pages import PAGE
from lmwright.models.core.device import Placement
from lmwright.models.core.linear import linears
from lmwright.models.core.low_rank import LowRankLinear
from lmwright.models.network.network import set_weight
from lmwright.models.network.together import share_products
from lmwright.models.text_model import TextModel
from lmwright.models.tunes.lora import LoRA
from tests.serve.test_paging import asked, drawn, eight, make, pytestmark  # noqa: F401 - fixtures
from tests.serve.test_texts import alone, submit


def adapted(base: TextModel, seed: int) -> TextModel:
    """The base with an adapter of its own, whose frozen weights are the base's tensors."""
    found = copy.deepcopy(base)
    LoRA(rank=2 + seed % 3).apply(found.network, seed)
    weights = dict(base.network.named_parameters())
    for name, _ in list(found.network.named_parameters()):
        if (plain := name.replace(".inner.", ".")) in weights:
            set_weight(found.network, name, weights[plain])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, each in linears(found.network):
            if isinstance(each, LowRankLinear):
                each.lora_b.normal_(std=0.3, generator=generator)
    found.network.requires_grad_(False)
    found.network.place(Placement("cpu", "int8"))
    share_products(found.network, base.network)
    return found


@pytest.fixture(scope="module")
def family(eight: TextModel) -> list[TextModel]:  # noqa: F811
    return [eight, *(adapted(eight, seed) for seed in (1, 2, 3))]


def test_answers_of_several_adapters_share_steps(
    make: Any,  # noqa: F811
    family: list[TextModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same prompts to each: what one adapter read of them is not taken for another one's."""
    scheduler, prompt = make(), drawn(family[0], 2 * PAGE + 7, 0)
    several, proper = list[int](), type(family[0].network).next

    def counted(self: Any, batch: Any, cache: Any, networks: Any = ()) -> Any:
        several.append(len({id(each) for each in networks}))
        return proper(self, batch, cache, networks)

    monkeypatch.setattr(type(family[0].network), "next", counted)
    for _ in range(2):  # the second time their beginnings are known
        those = [(each, asked(each, prompt, 5, 30)) for each in family for _ in range(2)]
        heard = [submit(scheduler, each, [one])[0] for each, one in those]
        assert all(each.ended.wait(60) and each.fault is None for each in heard)
    monkeypatch.undo()
    assert max(several) == len(family)
    wanted = [alone(each, one) for each, one in those]
    assert [each.texts[0] for each in heard] == wanted and len(set(wanted)) == len(family)
    assert len(scheduler.memories) == 1
    assert {each.network for each in family} <= set(scheduler.memories[0].networks)


def test_an_adapter_comes_and_goes_while_others_are_written(
    make: Any,  # noqa: F811
    eight: TextModel,  # noqa: F811
) -> None:
    """Twenty of them, one after another, beside the base, which goes on with the same bits."""
    scheduler = make()
    base = asked(eight, drawn(eight, 20, 1), 1, 300)
    heard, _ = submit(scheduler, eight, [base])
    for seed in range(20):
        own = adapted(eight, seed)
        one = asked(own, drawn(own, 9, seed), seed, 6)
        other, _ = submit(scheduler, own, [one], "other")
        assert other.ended.wait(60) and other.fault is None
        assert other.texts[0] == alone(own, one)
        del own
    assert heard.ended.wait(60) and heard.texts[0] == alone(eight, base)
    assert scheduler.engine.drain(20)
    assert len(scheduler.memories) == 1, "they were of the base's"


def test_the_guilty_adapter_fails_alone(make: Any, family: list[TextModel]) -> None:  # noqa: F811
    scheduler, broken = make(), adapted(family[0], 9)
    with torch.no_grad():
        next(e for _, e in linears(broken.network) if isinstance(e, LowRankLinear)).lora_b.fill_(
            torch.nan
        )
    those = [(each, asked(each, drawn(each, 30, n), n, 40)) for n, each in enumerate(family)]
    heard = [submit(scheduler, each, [one])[0] for each, one in those]
    guilty, _ = submit(scheduler, broken, [asked(broken, [3, 4, 5], 0)])
    assert guilty.ended.wait(60) and guilty.fault is not None
    assert all(each.ended.wait(60) and each.fault is None for each in heard)
    assert [each.texts[0] for each in heard] == [alone(each, one) for each, one in those]
