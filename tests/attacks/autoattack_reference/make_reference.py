"""Make reference.npz: where the authors' AutoAttack goes on a small network, query by query.

From the root of the repository, with a folder that holds their code:

    .venv/bin/pip install --no-deps --target FOLDER pyautoattack==0.2.0
    PYTHONPATH=FOLDER .venv/bin/python tests/attacks/autoattack_reference/make_reference.py

The package repeats github.com/fra31/auto-attack at a392200, the attacks' code without a change.
The network and the images are those of foolbox_reference, but images of one class alone, with a
reserve on that class's logit, so that it takes far and crooked ways to fool them. Each attack gets
one image at a time, with a seed of 0. Takes a minute.
"""

from pathlib import Path

import numpy as np
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import nn

PATH = Path(__file__).with_name("reference.npz")
FOOLBOX = Path(__file__).parents[1] / "foolbox_reference" / "reference.npz"
LABEL, RESERVE = 8, 4.0
IMAGES = slice(0, 100, 33)  # of those with the label
# Radii within which some images are fooled and some resist.
EPS = {"L2": 1.5, "Linf": 0.08}
TARGETS = 3
QUERIES = 600
PROBES = 2  # random directions along which the queried images are stored


class Recorder(nn.Module):
    """The network, and every image that it was asked about."""

    def __init__(self, stored):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
        names = ("w1", "b1", "w2", "b2")
        for parameter, name in zip(self.layers.parameters(), names, strict=True):
            parameter.data = torch.from_numpy(stored[name])
        self.layers[3].bias.data[LABEL] += RESERVE
        self.queries = []

    def forward(self, x):
        self.queries.append(x.detach().clone())
        return self.layers(x)


class RecordedFAB(FABAttack_PT):
    """FAB, without what it asks beside its walk: the verdict on its result for each target."""

    def perturb(self, x, y):
        self.walk = []
        return super().perturb(x, y)

    def _get_predicted_label(self, x):
        self.walk.append(x.clone())
        return super()._get_predicted_label(x)

    def get_diff_logits_grads_batch_targeted(self, imgs, la, la_target):
        self.walk.append(imgs.clone())
        return super().get_diff_logits_grads_batch_targeted(imgs, la, la_target)


def attacks(model, norm):
    settings = {"norm": norm, "eps": EPS[norm], "seed": 0, "device": torch.device("cpu")}
    return {
        "apgd_ce": APGDAttack(model, loss="ce", **settings),
        "apgd_t": APGDAttack_targeted(model, n_target_classes=TARGETS, **settings),
        "fab_t": RecordedFAB(model, targeted=True, n_target_classes=TARGETS, **settings),
        "square": SquareAttack(model, n_queries=QUERIES, resc_schedule=False, **settings),
    }


def way(queries, image, probes, repeats):
    """Scalar products (M, PROBES) of the queries' noise with the probes, the clean image left out.

    So is a query that repeats the one before, unless told.
    """
    noise = [(query - image).flatten() for query in queries]
    moved = [one for one in noise if one.any()]
    new = [
        one
        for i, one in enumerate(moved)
        if i == 0 or repeats or not torch.equal(one, moved[i - 1])
    ]
    return torch.stack(new).numpy() @ probes.T


def main():
    torch.set_num_threads(1)
    with np.load(FOOLBOX) as arrays:
        stored = dict(arrays)
    rows = np.flatnonzero(stored["labels"] == LABEL)[IMAGES]
    images = torch.from_numpy(stored["images"][rows]).float() / 255
    labels, probes = torch.from_numpy(stored["labels"][rows]), stored["probes"][:PROBES]
    model = Recorder(stored)
    made = {"probes": np.array(PROBES), "rows": rows}
    made |= {"label": np.array(LABEL), "reserve": np.array(RESERVE, np.float32)}
    made |= {"targets": np.array(TARGETS), "queries": np.array(QUERIES)}
    for norm, eps in EPS.items():
        made[f"eps_{norm.lower()}"] = np.array(eps)
        for name, attack in attacks(model, norm).items():
            ways, fooled = [], []
            for image, label in zip(images.split(1), labels.split(1), strict=True):
                model.queries = []
                adversarial = attack.perturb(image, label)
                queries = attack.walk if name == "fab_t" else model.queries
                ways.append(way(queries, image, probes, name != "fab_t"))
                fooled.append(bool((model(adversarial).argmax(1) != label).all()))
            key = f"{name}_{norm.lower()}"
            longest = max(map(len, ways))
            padded = [np.pad(one, ((0, longest - len(one)), (0, 0)), constant_values=np.nan)
                      for one in ways]  # fmt: skip
            made[key], made[f"{key}_fooled"] = np.stack(padded), np.array(fooled)
            print(key, [len(one) for one in ways], fooled)
    np.savez_compressed(PATH, **made)


if __name__ == "__main__":
    main()
