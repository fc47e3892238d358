"""What specifications read, how they round-trip, and what they say when they do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedseal import defense
from fedseal.defense.base import figure
from fedseal.errors import BadConfig, FedsealError, UnknownName


@given(st.floats(1e-12, 1e10))
def test_every_strength_reads_back_to_the_last_digit(strength: float) -> None:
    again = defense.parse(f"clip:{figure(strength)}+laplace:{figure(strength)}")
    assert again.name == defense.chain(defense.clip(strength), defense.laplace(strength)).name
    assert [step.figures for step in again.public] == [{"norm": strength}, {"scale": strength}]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("none", "none"),
        (" prune:0.5 ", "prune:0.5"),
        ("prune:.50,scope=tensor", "prune:0.5"),
        ("prune:0.5, scope=global + gaussian:1e-3", "prune:0.5,scope=global+gaussian:0.001"),
        ("clip:1e+3+gaussian:2e+0", "clip:1000+gaussian:2"),
        ("int8:levels=127", "int8"),
        ("int8:levels=7", "int8:levels=7"),
        ("topk:0.1,feedback=True", "topk:0.1"),
        ("topk:0.1,feedback=false", "topk:0.1,feedback=false"),
        ("dpsgd:1.1,delta=1e-5,clip=1", "dpsgd:1.1,clip=1"),
        ("dpsgd:1.1,clip=1,sample_rate=0.01,delta=1e-6", "dpsgd:1.1,clip=1,sample_rate=0.01,delta=1e-06"),
        ("none+sign", "none+sign"),
    ],
)
def test_a_specification_has_one_canonical_name(written: str, name: str) -> None:
    assert defense.parse(written).name == name
    assert defense.parse(name).name == name


@pytest.mark.parametrize(
    ("written", "kind", "words"),
    [
        ("prune", BadConfig, "'prune' has no strength; write it as 'prune:0.1'"),
        ("prune:", BadConfig, "the defense 'prune:' has no strength"),
        ("prune:much", BadConfig, "the strength 'much' of 'prune' has no meaning; give a number"),
        ("prune:scope=global", BadConfig, "has no strength"),
        ("float16:2", BadConfig, "'float16' has no strength, and 'float16:2' gives one"),
        ("prune:0.5,scope", BadConfig, "the option 'scope' of 'prune' has no value; write it as scope=VALUE"),
        ("prune:0.5,scope=", BadConfig, "the option 'scope=' of 'prune' has no value"),
        ("prune:0.5,0.6", BadConfig, "the option '0.6' of 'prune' has no value"),
        ("prune:0.5,scop=global", UnknownName, "did you mean 'scope'"),
        ("prune:0.5,scope=layer", UnknownName, "Known: global, tensor"),
        ("gaussian:1,scope=global", UnknownName, "there is no option of 'gaussian' 'scope'"),
        ("prune:0.5,scope=global,scope=tensor", BadConfig, "is there twice"),
        ("int8:levels=2.5", BadConfig, "give a whole number"),
        ("topk:0.1,feedback=maybe", BadConfig, "give true or false"),
        ("gausian:1", UnknownName, "did you mean 'gaussian'"),
        ("", BadConfig, "a defense without a name"),
        ("+", BadConfig, "a defense without a name"),
        ("prune:0.5+", BadConfig, "a defense without a name"),
        ("none:1", UnknownName, "there is no defense 'none'"),
    ],
)
def test_what_cannot_be_read_is_told(written: str, kind: type[FedsealError], words: str) -> None:
    with pytest.raises(kind) as caught:
        defense.parse(written)
    assert words in str(caught.value)
