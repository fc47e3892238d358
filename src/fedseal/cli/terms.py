"""The terms of a training in plain words, which a party reads before it answers anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedseal.cli.rounds import by_colluding, written_epsilon

if TYPE_CHECKING:
    from fedseal.federation.deployment import Place
    from fedseal.federation.deployment.floors import Floors
    from fedseal.federation.federation import Federation
    from fedseal.federation.secure import Pact, Secure
    from fedseal.setup.deployment import PartySpec


def terms_in_words(place: Place, own: PartySpec, federation: Federation, floors: Floors) -> list[str]:
    """Sentences on what a data owner or an aggregator is about to take part in.

    Args:
        federation: as the party sees it.
        floors: of its own.
    """
    from fedseal.federation.packing import Packing, architecture_digest

    secure, model = place.pact.secure, federation.model_owner.model
    weights = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        f"{place.who}: the terms of this training, as the folder says them",
        f"the model is {own.plan.model} with {weights:,} weights: architecture {architecture_digest(model)}",
        *_data(own),
        f"up to {own.rounds} rounds among {own.owners} data owners; in each, an owner sends {_sent(own)}",
    ]
    if secure.protocol == "plain":
        return [*lines, "the model owner reads every update: nothing hides it", *_asked(floors)]
    assert secure.minimum is not None
    return [
        *lines,
        by_colluding(secure),
        f"a sum of {secure.minimum} owners or more is opened to the model owner: {_others(secure.minimum)} "
        "and read the last one's",
        *_bounds(secure),
        _noise(place.pact, own.rounds, Packing.of(model, secure).size),
        *_asked(floors),
    ]


def _data(own: PartySpec) -> list[str]:
    if own.plan.terms is None:
        sides = " x ".join(map(str, own.shape))
        return [f"the data of every owner has to be of {sides}: {own.values}"] if own.values else []
    head, *columns = own.plan.terms.words()
    return [f"the data of every owner is {head}", *columns]


def _others(cohort: int) -> str:
    return "either can subtract its own" if cohort == 2 else f"{cohort - 1} of them together can subtract theirs"


def _sent(own: PartySpec) -> str:
    plan = own.plan
    if plan.reptile:
        return f"where {plan.iterations} steps on {plan.batch_size} newly drawn examples each lead"
    if plan.epochs is not None or plan.local_learning_rate is not None:
        return f"where {plan.epochs or 1} passes over its examples lead, in steps of {plan.batch_size}"
    return f"one gradient of up to {plan.batch_size} of its examples"


def _bounds(secure: Secure) -> list[str]:
    clip = "not clipped" if secure.clip is None else f"scaled down to the norm {secure.clip:g} where longer"
    found = [f"an update is {clip}; one with an entry beyond {secure.bound:g} is not sent"]
    if secure.statistics != "none":
        where = "are in the sum" if secure.statistics == "shared" else "stay at their owner"
        found.append(f"BatchNorm's running statistics {where}")
    return found


def _noise(pact: Pact, rounds: int, size: int) -> str:
    from fedseal.federation.privacy import Spent

    secure = pact.secure
    if secure.noise is None:
        return "no noise is added: what the sums say of an owner has no bound"
    epsilon = Spent((pact.release(size),) * rounds).epsilon
    return (
        f"noise of {secure.noise:g} times the norm is on a sum of {secure.minimum} owners if all of them add theirs: "
        f"epsilon {written_epsilon(epsilon)} at delta 1e-05 for each, after all rounds"
    )


def _asked(floors: Floors) -> list[str]:
    asked = floors.model_dump(exclude_none=True)
    if not asked:
        return ["no owner.yaml asks for more than these terms"]
    return [f"owner.yaml asks for {', '.join(f'{name} {value}' for name, value in asked.items())}: kept"]
