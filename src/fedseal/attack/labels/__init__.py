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

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
