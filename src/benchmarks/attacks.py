"""`make bench`, second part: our attacks against other libraries' in one run.

The same trained classifier, the same images, the same steps. What a library returns is judged as
ours is: verified by a float64 copy of the classifier.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchattacks
from torch import Tensor, nn

from funn.artifacts.files import write_json
from funn.artifacts.provenance import provenance
from funn.attacks import BIM, FGSM, DeepFool, LocalSearch, SinglePixel
from funn.attacks.core.interface import BatchedAttack
from funn.attacks.core.norms import Norm
from funn.config import cli
from funn.config.build import build
from funn.config.compose import ROOT
from funn.data.dataset import ImageData
from funn.evaluation.records.verification import float64_verifier, verify
from funn.evaluation.trials.run_attack import Passes, counted, predict
from funn.fast_layers import with_fast_layers
from funn.loading import find_run, load_classifier
from funn.runtime.malloc import keep_freed_memory

_PEERS = ROOT / "outputs" / "bench" / "peers"
_FOOLBOX2 = ROOT / "outputs" / "bench" / "foolbox2"
Attack = Callable[[Tensor, Tensor], Tensor]


class Contender(NamedTuple):
    """A library's attack.

    Attributes:
        name: the library.
        attack: images and labels to adversarial images.
        images: on how many images it is timed.
    """

    name: str
    attack: Attack
    images: int


def deepfools(model: nn.Module, norm: Norm, steps: int) -> list[Contender]:
    """DeepFool everywhere: ours first."""
    fast = with_fast_layers(model)
    found = [
        Contender("funn, strict", DeepFool(fast, norm, steps), 1000),
        Contender("funn, strict, push=score", DeepFool(fast, norm, steps, push="score"), 1000),
        Contender("funn, strict, plain gradient", DeepFool(model, norm, steps), 1000),
        Contender("funn, foolbox1", DeepFool(fast, norm, steps, protocol="foolbox1"), 1000),
        Contender("Foolbox 3", foolbox3(model, norm, steps), 1000),
    ]
    if norm == "l2":
        found.append(Contender("torchattacks", torchattacks.DeepFool(model, steps=steps), 60))
    for name, library in (("adv-lib", adv_lib), ("ART", art)):
        try:
            found.append(Contender(name, library(model, norm, steps), 1000))
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return found


def foolbox3(model: nn.Module, norm: str, steps: int) -> Attack:
    """Foolbox 3's DeepFool."""
    import foolbox

    attacks = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}
    attack = attacks[norm](steps=steps)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return lambda images, labels: attack.run(wrapped, images, labels)


def adv_lib(model: nn.Module, norm: str, steps: int) -> Attack:
    """adv-lib's DeepFool, whose package imports visdom for a logger that nothing here uses."""
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))
    from adv_lib.attacks import df

    kind = {"l2": 2, "linf": float("inf")}[norm]
    return lambda images, labels: df(model, images, labels, steps=steps, norm=kind)


def art(model: nn.Module, norm: str, steps: int) -> Attack:
    """ART's DeepFool, which has one norm."""
    if norm != "l2":
        raise ImportError("it has no DeepFool in the Linf norm")
    from art.attacks.evasion import DeepFool as ArtDeepFool
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0, 1), device_type="cpu"
    )
    attack = ArtDeepFool(classifier, max_iter=steps, epsilon=0.02, batch_size=128, verbose=False)

    def run(images: Tensor, labels: Tensor) -> Tensor:
        return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))

    return run


def measure(
    contender: Contender, model: nn.Module, images: Tensor, labels: Tensor
) -> dict[str, Any]:
    """Time a contender and judge what it returns."""
    images, labels = images[: contender.images], labels[: contender.images]
    contender.attack(images[:8].clone(), labels[:8].clone())  # warm
    ours = isinstance(contender.attack, BatchedAttack)
    attack = getattr(contender.attack, "run", contender.attack) if ours else contender.attack
    # Ours count by themselves: a probe that is computed from the layers passes by the hooks.
    counting = counted(getattr(contender.attack, "model", model))
    with nullcontext(Passes()) if ours else counting as passes:
        start = time.perf_counter()
        found: Any = attack(images.clone(), labels.clone())
        seconds = time.perf_counter() - start
    forwards = found.forwards.sum() if ours else passes.forward
    backwards = found.backwards.sum() if ours else passes.backward
    adversarials = (found.adversarials if ours else found).detach()
    return {
        "library": contender.name,
        "images": len(images),
        "images_per_second": len(images) / seconds,
        "forwards": float(forwards) / len(images),
        "backwards": float(backwards) / len(images),
        **judged(model, images, labels, adversarials),
    }


def judged(
    model: nn.Module, images: Tensor, labels: Tensor, adversarials: Tensor
) -> dict[str, float]:
    """Verified success, and the median L2 norm with failures as infinite."""
    fooled = verify(float64_verifier(model), adversarials, labels).success
    l2 = (adversarials.double() - images.double()).flatten(1).norm(dim=1)
    return {
        "success_verified": float(fooled.double().mean()),
        "median_l2": float(torch.where(fooled, l2, torch.inf).median()),
    }


def foolbox2(
    run: Path, attack: str, images: Tensor, labels: Tensor, model: nn.Module
) -> dict[str, Any]:
    """Foolbox 2.4's attack, in a process of its own since Foolbox 3 has the same name."""
    with tempfile.TemporaryDirectory() as folder:
        given, got = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(given, images=images.numpy(), labels=labels.numpy())
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.foolbox2", str(run), attack]
        subprocess.run(
            [*command, str(given), str(got)],
            check=True,
            env={"PYTHONPATH": f"{_FOOLBOX2}:{ROOT / 'src'}", "OMP_NUM_THREADS": "2"},
        )
        with np.load(got) as content:
            adversarials = torch.from_numpy(content["adversarials"])
            seconds, forwards = float(content["seconds"]), float(content["forwards"])
    return {
        "library": "Foolbox 2.4",
        "images": len(images),
        "images_per_second": len(images) / seconds,
        "forwards": forwards,
        "backwards": 0.0,
        **judged(model, images, labels, adversarials),
    }


def table(title: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print the rows; the ratio is the first row's speed, ours, over each one's."""
    print(
        f"\n{title}\n\n| library | images/s | verified | median L2 | forwards | backwards | ratio |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        row["ratio"] = rows[0]["images_per_second"] / row["images_per_second"]
        print(
            f"| {row['library']} | {row['images_per_second']:.2f} "
            f"| {100 * row['success_verified']:.1f} % | {row['median_l2']:.4f} "
            f"| {row['forwards']:.1f} | {row['backwards']:.1f} | {row['ratio']:.2f} |",
            flush=True,
        )
    return list(rows)


def main() -> None:
    """Run every comparison on one trained classifier, and write outputs/bench/attacks.json."""
    keep_freed_memory()
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?", default=str(ROOT / "outputs/latest/classic"))
    run = find_run(parser.parse_args().run)
    sys.path.append(str(_PEERS))
    model = load_classifier(run.folder).requires_grad_(False)
    data: ImageData = build(run.result["config"]["data"], data_dir=ROOT / "data")
    images, labels = data.test.floats(1100), data.test.labels[:1100]
    right = predict(model, images, 500) == labels
    images, labels = images[right][:1000], labels[right][:1000]

    def compare(title: str, contenders: Sequence[Contender]) -> list[dict[str, Any]]:
        return table(title, [measure(each, model, images, labels) for each in contenders])

    content: dict[str, Any] = {
        "DeepFool L2": compare("DeepFool L2, 50 steps", deepfools(model, "l2", 50)),
        "DeepFool Linf": compare("DeepFool Linf, 50 steps", deepfools(model, "linf", 50)),
        "FGSM": compare("FGSM, eps 0.005", [
            Contender("funn", FGSM(with_fast_layers(model)), 1000),
            Contender("torchattacks", torchattacks.FGSM(model, eps=0.005), 1000),
        ]),
        "BIM": compare("BIM, eps 0.005, 10 steps", [
            Contender("funn", BIM(with_fast_layers(model)), 1000),
            Contender("torchattacks", torchattacks.BIM(model, 0.005, 0.001, 10), 1000),
        ]),
    }  # fmt: skip
    for name, attack in (("SinglePixel", SinglePixel(model)), ("LocalSearch", LocalSearch(model))):
        few = images[:200], labels[:200]
        rows = [measure(Contender("funn", attack, 200), model, *few)]
        try:
            rows.append(foolbox2(run.folder, name, *few, model))
        except subprocess.CalledProcessError:
            print("Foolbox 2.4 is left out: it does not run here")
        content[name] = table(name, rows)
    path = ROOT / "outputs" / "bench" / "attacks.json"
    write_json(path, {"attacks": content, "run": run.name, **provenance()})
    print(path)


if __name__ == "__main__":
    cli.run(main)
