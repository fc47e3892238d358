"""Label inference: which labels a batch has, from what its update shows. One method a file, one table.

Every method is a frozen value that takes an `Observation` and gives `Labels`; none sees the truth. `best` combines
them.

>>> import torch, fedseal as fs
>>> model, batch = fs.zoo.lenet(size=16, num_classes=10), fs.zoo.photos(size=16, num_classes=10)[:4]
>>> update = fs.local_update(model, batch, training=fs.LocalTraining.fedsgd())
>>> observation = fs.ThreatModel.honest_but_curious().observe(model, update, modality=fs.Image(shape=(3, 16, 16)))
>>> found = best(observation, generator=torch.Generator().manual_seed(0))
>>> found.labels.tolist() == sorted(batch.labels.tolist()), found.certified
(True, True)
"""

from __future__ import annotations

from fedseal.attack.labels.base import LabelMethod, Labels, Method
from fedseal.attack.labels.best import Best
from fedseal.attack.labels.dimitrov import Dimitrov
from fedseal.attack.labels.geng import Geng
from fedseal.attack.labels.gradinversion import GradInversionRule
from fedseal.attack.labels.ilrg import ILRG
from fedseal.attack.labels.llg import LLG
from fedseal.attack.labels.moments import Moments
from fedseal.attack.labels.rlu import RLU
from fedseal.attack.labels.sign import Sign
from fedseal.attack.labels.soft import Soft

__all__ = ["METHODS", "LabelMethod", "Labels", "Method", "best"]

METHODS = {
    method.name: method
    for method in (
        Method(
            "sign",
            "one example: the class whose logit's gradient is negative",
            (),
            "Zhao, Mopuri and Bilen 2020, arXiv:2001.02610",
            Sign(),
        ),
        Method(
            "soft",
            "one example: its whole target, hard, smoothed or mixed",
            ("state",),
            "fedseal",
            Soft(),
        ),
        Method(
            "gradinversion",
            "the classes with the least entries in the head's gradient; none twice",
            (),
            "Yin et al., CVPR 2021, arXiv:2104.07586",
            GradInversionRule(),
        ),
        Method(
            "llg",
            "labels one by one, each taking its share of the head gradient's row sums",
            (),
            "Wainakh et al., PoPETs 2022, arXiv:2105.09369",
            LLG(),
        ),
        Method(
            "geng",
            "counts by random inputs, from the head's weight gradient",
            ("state",),
            "Geng et al. 2021, arXiv:2110.09074",
            Geng(),
        ),
        Method(
            "geng_bias",
            "counts by random inputs, from the head's bias gradient",
            ("state",),
            "Geng et al. 2021, arXiv:2110.09074",
            Geng(bias=True, name="geng_bias"),
        ),
        Method(
            "ilrg",
            "counts by linear equations in class-wise embeddings; falls back to geng_bias",
            ("state",),
            "Ma et al., ICLR 2023",
            ILRG(),
        ),
        Method(
            "dimitrov",
            "counts after local steps, interpolated between the weights before and after",
            ("state", "training"),
            "Dimitrov et al., TMLR 2022, arXiv:2206.12395",
            Dimitrov(),
        ),
        Method(
            "rlu",
            "counts after local steps, by least squares over a simulated client",
            ("state", "training"),
            "Chen et al., ICML 2024, arXiv:2405.00955",
            RLU(),
        ),
        Method(
            "moments",
            "counts by the mean logits that the head's own gradient implies, with an error",
            ("state",),
            "fedseal",
            Moments(),
        ),
        Method(
            "best",
            "separates the batch at the head and certifies the labels; else the count that fits the update",
            (),
            "fedseal",
            Best(),
        ),
    )
}

best: LabelMethod = METHODS["best"].infer  # takes the place of the module of that name, which is private
