"""Make reference.npz: what the real Foolbox 1.8.0 and 2.4.0 do to a small network.

Three calls, in three environments, from the root of the repository:

    .venv/bin/python tests/attacks/foolbox_reference/make_reference.py train
    foolbox18/bin/python tests/attacks/foolbox_reference/make_reference.py foolbox18
    foolbox24/bin/python tests/attacks/foolbox_reference/make_reference.py foolbox24

where the two others are Python 3.11 with `foolbox==1.8.0 numpy<1.24 scipy<1.11` and
`foolbox==2.4.0 numpy<1.24 scipy<1.11` (no torch: the network is computed with numpy). The first
trains a 784-32-10 network on synthetic digits and stores it with images that it gets right. The
second adds every attack of the paper's tool; the third adds the local search as corrected in
Foolbox 2.1. Takes a few minutes.
"""

import collections
import collections.abc
import sys
from pathlib import Path

import numpy as np

PATH = Path(__file__).with_name("reference.npz")
IMAGES = 200
SEARCHED = 100  # images for the local search
SEEDS = 5
ROUNDS = {"foolbox1": 20, "fixed": 3}  # at which some images succeed and some do not
DEEPFOOL_STEPS = 50
PROBES = 4  # random directions along which DeepFool's iterates are stored
SIGN_EPS = (0.02, 5.0)  # not enough for all; so much that a finer grid is searched too
ITERATIVE_EPS = 0.02
ITERATIVE_IMAGES = 50
GRADIENT_EPS = 0.02


def train():
    sys.path.insert(0, "src")
    import torch
    from torch import nn

    from funn.data.synthetic import SyntheticDigits

    torch.set_num_threads(1)
    torch.manual_seed(0)
    train_set, test_set = SyntheticDigits(Path(), 4000, 6000).load()
    # Every second image of each class is grey, so that the local search in its old order has
    # some success: on black and white it goes the wrong way at first.
    for part in (train_set, test_set):
        grey = torch.arange(len(part.labels)) // 10 % 2 == 1
        part.images[grey] = 64 + part.images[grey] // 2
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    adam = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(4):
        for batch in torch.randperm(4000).split(100):
            logits = network(train_set.images[batch] / 255)
            loss = nn.functional.cross_entropy(logits, train_set.labels[batch])
            adam.zero_grad()
            loss.backward()
            adam.step()
    logits = network(test_set.images / 255).detach()
    own = logits.gather(1, test_set.labels[:, None])[:, 0]
    margins = own - logits.scatter(1, test_set.labels[:, None], -torch.inf).amax(1)
    print(f"accuracy {(margins > 0).float().mean():.3f}")
    # Of each kind those that it is least sure of, so that the weak attacks succeed too.
    margins[margins <= 0] = torch.inf
    grey = torch.arange(6000) // 10 % 2 == 1
    chosen = torch.stack(
        [margins.where(kind, torch.inf).argsort()[:IMAGES:2] for kind in (grey, ~grey)], dim=1
    ).flatten()
    weights = {
        name: value.detach().numpy()
        for name, value in zip(("w1", "b1", "w2", "b2"), network.parameters(), strict=True)
    }
    images, labels = test_set.images[chosen].numpy(), test_set.labels[chosen].numpy()
    save(images=images, labels=labels, **weights)


def save(**arrays):
    np.savez_compressed(PATH, **arrays)


def load():
    with np.load(PATH) as arrays:
        return dict(arrays)


def model(foolbox, stored):
    """The network, in the shape that both Foolboxes ask for (1.8 and the v1 part of 2.4)."""

    class Network(foolbox.models.DifferentiableModel):
        def __init__(self):
            super().__init__(bounds=(0, 1), channel_axis=1)
            self.iterates = []

        def num_classes(self):
            return 10

        def batch_predictions(self, images):
            self.hidden = images.reshape(len(images), -1) @ stored["w1"].T + stored["b1"]
            return np.maximum(self.hidden, 0) @ stored["w2"].T + stored["b2"]

        def predictions_and_gradient(self, image, label):
            if not (self.iterates and self.iterates[-1] is image):
                self.iterates.append(image)
            logits = self.batch_predictions(image[None])[0]
            change = np.exp(logits - logits.max())
            change /= change.sum()
            change[label] -= 1
            gradient = ((change @ stored["w2"]) * (self.hidden[0] > 0)) @ stored["w1"]
            return logits, gradient.reshape(image.shape)

        def gradient(self, image, label):
            return self.predictions_and_gradient(image, label)[1]

        def backward(self, gradient, image):
            raise NotImplementedError

        # Foolbox 2 has other names, and the local search needs the first alone.
        forward = batch_predictions

        def forward_and_gradient(self, inputs, labels):
            raise NotImplementedError

    return Network()


def reordered(stored):
    """The same network with its hidden units in another order, so that sums round otherwise."""
    order = np.random.RandomState(0).permutation(len(stored["b1"]))
    units = {"w1": stored["w1"][order], "b1": stored["b1"][order], "w2": stored["w2"][:, order]}
    return {**stored, **units}


def attacked(attack, images, labels, **settings):
    """L2 norms (N,) of an attack's results, NaN for a failure."""
    norms = np.full(len(images), np.nan)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        try:
            result = attack(image, label, **settings)
        except ValueError:  # DeepFool when no class is left
            result = None
        if result is not None:
            norms[i] = np.linalg.norm((result.astype(np.float64) - image).ravel())
    return norms


def add_deepfool(attack, again, key, stored):
    """An attack's norms, those on the reordered network, and its iterates.

    Of each iterate the scalar products of its perturbation with `probes`: (IMAGES, steps, PROBES),
    NaN after the image's last.
    """
    images, labels = unit(stored["images"]), stored["labels"]
    probes = stored["probes"]
    norms, ways = [], np.full((IMAGES, DEEPFOOL_STEPS, PROBES), np.nan, np.float32)
    for i, image in enumerate(images):
        network = attack._default_model
        network.iterates.clear()
        norms.append(attacked(attack, image[None], labels[i : i + 1], steps=DEEPFOOL_STEPS)[0])
        for step, iterate in enumerate(network.iterates):
            ways[i, step] = probes @ (iterate - image).ravel()
    stored[key], stored[f"{key}_iterates"] = np.array(norms), ways
    # How far Foolbox agrees with itself: rounding decides where its steps cross the boundary.
    stored[f"{key}_reordered"] = attacked(again, images, labels, steps=DEEPFOOL_STEPS)


def add_local_search(foolbox, attack, stored, order):
    images, labels = unit(stored["images"])[:SEARCHED], stored["labels"][:SEARCHED]
    norms = []
    for seed in range(SEEDS):
        foolbox.set_seeds(seed)
        norms.append(attacked(attack, images, labels, R=ROUNDS[order]))
    stored[f"local_search_{order}"] = np.array(norms)
    stored[f"local_search_{order}_rounds"] = np.array(ROUNDS[order])


def unit(images):
    return images.astype(np.float32) / np.float32(255)


def foolbox18():
    import foolbox

    assert foolbox.__version__ == "1.8.0"
    stored = load()
    images, labels, network = unit(stored["images"]), stored["labels"], model(foolbox, stored)
    attacks = {name: getattr(foolbox.attacks, name)(network) for name in (
        "DeepFoolL2Attack", "DeepFoolLinfinityAttack", "SinglePixelAttack", "GradientSignAttack",
        "IterativeGradientSignAttack", "GradientAttack", "LocalSearchAttack",
    )}  # fmt: skip
    stored["probes"] = np.random.RandomState(0).randn(PROBES, 784).astype(np.float32)
    for name, key in (
        ("DeepFoolL2Attack", "deepfool_l2"),
        ("DeepFoolLinfinityAttack", "deepfool_linf"),
    ):
        again = getattr(foolbox.attacks, name)(model(foolbox, reordered(stored)))
        add_deepfool(attacks[name], again, key, stored)
    stored["single_pixel"] = ~np.isnan(attacked(attacks["SinglePixelAttack"], images, labels))
    stored["sign_eps"] = np.array(SIGN_EPS)
    stored["sign"] = np.array(
        [attacked(attacks["GradientSignAttack"], images, labels, max_epsilon=e) for e in SIGN_EPS]
    )
    stored["gradient_eps"] = np.array(GRADIENT_EPS)
    stored["gradient"] = attacked(
        attacks["GradientAttack"], images, labels, max_epsilon=GRADIENT_EPS
    )
    stored["iterative_eps"] = np.array(ITERATIVE_EPS)
    stored["iterative"] = attacked(
        attacks["IterativeGradientSignAttack"],
        images[:ITERATIVE_IMAGES],
        labels[:ITERATIVE_IMAGES],
        max_epsilon=ITERATIVE_EPS,
    )
    add_local_search(foolbox, attacks["LocalSearchAttack"], stored, "foolbox1")
    save(**stored)


def foolbox24():
    import foolbox

    assert foolbox.__version__ == "2.4.0"
    stored = load()
    attack = foolbox.v1.attacks.LocalSearchAttack(model(foolbox, stored))
    add_local_search(foolbox, attack, stored, "fixed")
    save(**stored)


if __name__ == "__main__":
    # Both Foolboxes look for these where they were before Python 3.10.
    collections.Iterable, collections.Mapping = collections.abc.Iterable, collections.abc.Mapping
    {"train": train, "foolbox18": foolbox18, "foolbox24": foolbox24}[sys.argv[1]]()
    print({key: value.shape for key, value in load().items()})
