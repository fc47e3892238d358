from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import nn

from cli.conftest import Command
from fedseal import LocalTraining, Observation, Outcome, Progress, Reconstruction, local_update, modality, zoo
from fedseal.attack.base import BestOf
from fedseal.audit.verification import Verified
from fedseal.cli import attack_result
from fedseal.cli.attack import STARTS, attack_of
from fedseal.errors import BadConfig, UnknownName
from fedseal.setup.attack import AttackSpec, Target, target
from fedseal.setup.training import training
from fedseal.threat import ThreatModel
from fedseal.types import Batch, ProgressCallback, Update

TINY = ("--model", "zoo:mlp:num_classes=4", "--size", 8, "--label", 2)
FILES = {"original.png", "reconstruction.png", "strip.png", "iterations.gif", "result.json"}


def test_files_and_words_agree(fedseal: Command, tmp_path: Path) -> None:
    answer = fedseal("attack", *TINY, "--out", "run", "--seed", 3)
    assert answer.code == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result["route"]) == ("exact", "linear")
    assert result["labels"] == result["true_labels"] == [2]
    assert result["residual"] < 1e-5
    (sample,) = result["scores"]
    assert sample["psnr"]["value"] > 60
    assert {baseline["name"] for baseline in sample["psnr"]["baselines"]} >= {"grey", "mean picture"}
    said = dict(line.split(":", 1) for line in answer.out.splitlines())
    assert "exact: " in said["status"]
    assert said["label"].split() == ["2,", "right"]
    assert f"{sample['psnr']['value']:.1f} dB (blind guesses: grey" in said["PSNR"]
    assert said["files"].strip() == "run/"


def test_reconstruction_is_the_original(fedseal: Command, tmp_path: Path) -> None:
    fedseal("attack", *TINY, "--out", "run", "--index", 7)
    original, reconstruction = (_pixels(tmp_path / "run" / name) for name in ("original.png", "reconstruction.png"))
    assert original.shape == (128, 128, 3)  # enlarged until a person sees something
    assert torch.equal(original, reconstruction)


def test_json_alone_is_what_the_file_holds(fedseal: Command, tmp_path: Path) -> None:
    answer = fedseal("attack", *TINY, "--json")
    assert answer.code == 0
    assert json.loads(answer.out) == json.loads((tmp_path / "runs" / "attack-auto-photos0" / "result.json").read_text())


def test_explanation_gives_every_route_and_its_reason(fedseal: Command, tmp_path: Path) -> None:
    lines = fedseal("attack", *TINY, "--explain").out.splitlines()
    routes = [line.split(": ") for line in lines if line.startswith("route ")]
    assert [(route, verdict) for route, verdict, *_ in routes] == [
        ("route linear", "taken"),
        ("route matching", "refused"),
    ]
    notes = json.loads((tmp_path / "runs" / "attack-auto-photos0" / "result.json").read_text())["explanation"]
    assert [": ".join(reason) for _, _, *reason in routes] == [note["reason"] for note in notes]


def test_search_leaves_a_strip_and_a_film_of_its_iterations(fedseal: Command, tmp_path: Path) -> None:
    fedseal("attack", *TINY, "--recipe", "dlg", "--steps", 14, "--out", "run")
    with Image.open(tmp_path / "run" / "iterations.gif") as film:
        assert len(ImageSequence.all_frames(film)) > 2
        assert film.size == (128, 128)
    assert _pixels(tmp_path / "run" / "strip.png").shape == (128, 10 * 128 + 9 * 2, 3)


def test_batch_is_shown_in_its_own_order_with_a_row_for_each_picture(fedseal: Command, tmp_path: Path) -> None:
    wide = ("--model", "zoo:mlp:num_classes=10", "--size", 8, "--data", "fashion_mnist")
    answer = fedseal("attack", *wide, "--index", 3, "--batch", 4, "--out", "run")
    assert answer.code == 0
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == FILES
    original, reconstruction = (_pixels(folder / name) for name in ("original.png", "reconstruction.png"))
    assert original.shape[:2] == (128, 4 * 128 + 3 * 2)
    assert torch.equal(original, reconstruction)
    assert _pixels(folder / "strip.png").shape[0] == 4 * 128 + 3 * 2
    result = json.loads((folder / "result.json").read_text())
    assert (result["status"], result["route"]) == ("exact", "spear")
    assert sorted(result["labels"]) == sorted(result["true_labels"])
    said = [line.split(":", 1) for line in answer.out.splitlines()]
    assert [rest.split(":")[0].strip() for key, rest in said if key == "PSNR"] == [f"picture {n}" for n in (1, 2, 3, 4)]
    assert dict(said)["label"].strip().endswith("all right")


def test_class_named_for_a_batch_is_that_of_all_its_pictures() -> None:
    aim = target(AttackSpec(model="zoo:mlp", size=8, index=2, batch=3, label=7))
    assert aim.title == "photos2-4"
    assert aim.observation.update.num_examples == 3
    assert aim.truth is not None
    assert aim.truth.labels.tolist() == [7, 7, 7]


def test_some_of_a_batchs_labels_are_counted(fedseal: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedseal.cli.attack.attack_of", lambda *_, **__: _Mistaken((1, 2)))
    said = dict(line.split(":", 1) for line in fedseal("attack", *TINY, "--batch", 2).out.splitlines())
    assert said["label"].strip() == "1, 2, 1 of 2 right, the truth is 2, 2"


def test_own_picture_says_what_was_changed(fedseal: Command, tmp_path: Path) -> None:
    Image.new("L", (64, 48), 90).save(tmp_path / "cat.png")
    answer = fedseal("attack", "--image", "cat.png", "--model", "zoo:mlp", "--size", 8)
    assert answer.code == 0
    said = " ".join(answer.err.splitlines())
    assert "cropped the center 48x48 of 64x48" in said
    assert "resized to 8x8" in said
    assert "repeated its grey channel" in said
    assert "--label" in said
    assert (tmp_path / "runs" / "attack-auto-cat" / "result.json").is_file()


def test_captured_update_is_read_without_the_truth(fedseal: Command, own: str, tmp_path: Path) -> None:
    model, batch = zoo.mlp(inputs=192, widths=(16,), num_classes=4, seed=1), zoo.photos(size=8, num_classes=4)[2:3]
    local_update(model, batch, training=LocalTraining.fedsgd()).save(tmp_path / "u.safetensors")
    arguments = ["attack", "--update", "u.safetensors", "--model", f"{own}:build", "--shape", "3,8,8", "--out", "run"]
    answer = fedseal(*arguments)
    assert answer.code == 0
    assert "not measured: the truth" in answer.out
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES - {"original.png"}
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["scores"], result["true_labels"], result["status"]) == (None, None, "exact")
    assert result["labels"] == batch.labels.tolist()
    shown = _pixels(tmp_path / "run" / "reconstruction.png")[::16, ::16]
    assert torch.equal(shown, (batch.inputs[0] * 255).round().permute(1, 2, 0).to(torch.uint8))


def test_normalization_is_undone_in_the_pictures(fedseal: Command, tmp_path: Path) -> None:
    for folder, normalization in (("plain", ()), ("normalized", ("--mean", "0.5,0.4,0.3", "--std", "0.2,0.3,0.4"))):
        fedseal("attack", *TINY, *normalization, "--out", folder)
    for name in ("original.png", "reconstruction.png"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "normalized" / name).read_bytes()


def test_zoo_models_take_options_and_fit_the_data() -> None:
    aim = target(AttackSpec(data="fashion_mnist", model="zoo:lenet:width=2,activation=tanh"))
    assert aim.modality.shape == (1, 28, 28)
    assert aim.observation.update.tensors["0.weight"].shape == (2, 1, 5, 5)
    assert aim.observation.update.tensors["7.bias"].shape == (10,)


def test_seed_chooses_the_weights() -> None:
    one, same, two = (target(AttackSpec(model="zoo:mlp", size=8, seed=seed)) for seed in (0, 0, 1))
    first = [next(iter(aim.observation.update.tensors.values())) for aim in (one, same, two)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_training_of_the_client_is_simulated() -> None:
    request = AttackSpec(model="zoo:mlp", size=8, training="fedavg:lr=0.1,epochs=2", mode="eval")
    update = target(request).observation.update
    assert update.kind == "difference"
    assert update.training == LocalTraining.fedavg(lr=0.1, epochs=2, mode="eval")


def test_dlg_starts_again_where_it_diverges_unless_told() -> None:
    for recipe in ("dlg", "idlg:steps=7"):
        attack = attack_of(recipe, steps=None, restarts=None)
        assert isinstance(attack, BestOf)
        assert (attack.times, attack.only_if_diverged) == (STARTS, True)
    assert attack_of("dlg", steps=None, restarts=1) == attack_of("dlg:restarts=1", steps=None, restarts=None)
    assert not isinstance(attack_of("dlg", steps=None, restarts=1), BestOf)
    assert not isinstance(attack_of("auto", steps=None, restarts=None), BestOf)
    wrapped = attack_of("linear", steps=None, restarts=2)
    assert isinstance(wrapped, BestOf)
    assert wrapped.times == 2


def test_steps_win_over_the_recipes_own() -> None:
    assert "steps=9," in repr(attack_of("dlg:steps=7", steps=9, restarts=1))
    with pytest.raises(UnknownName, match="steps"):
        attack_of("linear", steps=9, restarts=None)


def _pixels(path: Path) -> torch.Tensor:
    """`(H, W, C)` uint8."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image))


@dataclass(frozen=True)
class _Runaway:
    """Reports two starts of two steps each, and diverges."""

    name: str = "runaway"

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        assert progress is not None
        for start in (0.0, 1.0):
            for step in (1, 2):
                progress(Progress("runaway", step, 2, 1.0, torch.full((1, 3, 8, 8), start)))
        return Reconstruction(None, None, Outcome("diverged", "runaway", None, 2, 0.1))


@dataclass(frozen=True)
class _Mistaken:
    """Gives grey pictures and another class than the true one."""

    labels: tuple[int, ...] = (1,)
    name: str = "mistaken"

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        end = Outcome("budget", "mistaken", 0.5, 1, 0.1)
        return Reconstruction(torch.full((len(self.labels), 3, 8, 8), 0.5), torch.tensor(self.labels), end)


def test_wrong_guess_is_not_sold_as_a_result(fedseal: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedseal.cli.attack.attack_of", lambda *_, **__: _Mistaken())
    said = dict(line.split(":", 1) for line in fedseal("attack", *TINY).out.splitlines())
    assert said["label"].strip() == "1, the truth is 2"
    assert said["status"].strip().startswith("diverged")  # a wrong class, so the gradient points away
    assert said["certain"].strip() == "no: does not explain the update"
    assert said["residual"].strip() != "0.5 of the update is unexplained"  # which the attack said of itself
    assert "blind guesses" in said["PSNR"]


def test_divergence_is_said_plainly_and_leaves_no_stale_picture(
    fedseal: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fedseal("attack", *TINY, "--out", "run")
    monkeypatch.setattr("fedseal.cli.attack.attack_of", lambda *_, **__: _Runaway())
    answer = fedseal("attack", *TINY, "--out", "run")
    assert answer.code == 0
    assert "diverged" in answer.out
    assert "--restarts" in answer.out
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES - {"reconstruction.png"}
    strip = _pixels(tmp_path / "run" / "strip.png")
    assert strip.shape == (128, 2 * 128 + 2, 3)  # of the last start alone
    assert strip.min() == 255


def test_interruption_has_a_sentence_and_its_own_code(
    fedseal: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> Reconstruction:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedseal.cli.attack.attack_of", lambda *_, **__: interrupted)
    answer = fedseal("attack", *TINY)
    begun, *rest = answer.err.splitlines()
    assert begun == "honest_but_curious attacks photos0 with auto"
    assert (answer.code, answer.out, rest) == (130, "", ["interrupted; nothing was written"])
    monkeypatch.setattr("fedseal.setup.attack.target", interrupted)
    assert fedseal("attack", *TINY).code == 130


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["--recipe", "dgl"], "did you mean 'dlg'?"),
        (["--recipe", "dlg:steps"], "'steps'"),
        (["--model", "zoo:lenett"], "did you mean 'lenet'?"),
        (["--model", "zoo:lenet:wide=3"], "did you mean 'width'?"),
        (["--model", "zoo:lenet:width"], "has no value"),
        (["--model", "zoo:lenet:width=wide"], "width"),
        (["--model", "lenet"], "names no object"),
        (["--data", "cifar"], "no data set 'cifar'"),
        (["--index", "350"], "--index 0 to 349"),
        (["--index", "348", "--batch", "4"], "'photos' holds 350 pictures, and 348 to 351 are asked for"),
        (["--image", "grey.png", "--batch", "2"], "--image is one picture, and --batch is 2"),
        (["--update", "u.safetensors", "--batch", "2"], "give --examples"),
        (["--batch", "0"], "--batch"),
        (["--index", "1", "--image", "x.png"], "more than one of"),
        (["--image", "x.png"], "does not exist"),
        (["--image", "."], "is a folder"),
        (["--label", "4"], "label"),
        (["--shape", "3,8"], "--shape has 2 numbers"),
        (["--shape", "2,8,8"], "1 or 3 channels"),
        (["--shape", "3,8,9"], "square"),
        (["--mean", "0.5"], "normalization"),
        (["--std", "0,1,1"], "positive"),
        (["--mean", "a,b,c"], "--mean is 'a,b,c'"),
        (["--training", "fedprox"], "no training 'fedprox'"),
        (["--training", "fedavg"], "learning rate"),
        (["--training", "fedavg:lr=fast"], "the option 'lr=fast' of 'fedavg' has no meaning; give a number"),
        (["--training", "fedavg:lr=0.1,epoch=2"], "did you mean 'epochs'?"),
        (["--training", "fedavg:lr=0.1,epochs=0"], "at least 1"),
        (["--threat", "eavesdroper"], "did you mean 'eavesdropper'?"),
        (["--recipe", "dlg", "--threat", "eavesdropper"], "withholds"),
        (["--threat", "aggregate_only", "--image", "grey.png"], "aggregate"),
        (["--defense", "prune"], "no strength"),
        (["--device", "cuda:99"], "the device 'cuda:99' cannot be used"),
        (["--out", "grey.png"], "cannot write to the folder"),
        (["--out", "grey.png/below"], "cannot write to the folder"),
        (["--out", "/proc/below"], "cannot write to the folder"),
    ],
)
def test_bad_option_is_one_line(fedseal: Command, tmp_path: Path, arguments: list[str], fact: str) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "grey.png")
    assert fact in fedseal("attack", *TINY, "-q", *arguments).complaint


def test_training_that_means_nothing_is_refused() -> None:
    for option in ("epochs=1.5", "shuffle=maybe", "momentum=much"):
        with pytest.raises(BadConfig, match="no meaning"):
            training(f"fedavg:lr=0.1,{option}", "train")


def test_training_takes_all_that_local_training_knows() -> None:
    text = "fedavg:lr=0.1,epochs=2,batch_size=4,optimizer=adam,weight_decay=0.01,shuffle=true"
    expected = LocalTraining.fedavg(
        lr=0.1, epochs=2, batch_size=4, optimizer="adam", weight_decay=0.01, shuffle=True, mode="eval"
    )
    assert training(text, "eval") == expected


ROWS = {
    "findings": (
        torch.tensor([[1.0, 0.0, 1.0]]),
        torch.tensor([[0.9, 0.75, 0.8]]),
        "2 of 3 right, the truth is 1, 0, 1",
    ),
    "numbers": (torch.tensor([[-1.5]]), torch.tensor([[0.25]]), "0.25, the truth is -1.5"),
    "probabilities of a class": (torch.tensor([1]), torch.tensor([[0.1, 0.9]]), "1, right"),
    "findings nobody knows": (None, torch.tensor([[0.9, 0.75, 0.0]]), "0.9, 0.75, 0"),
    "many": (None, torch.zeros(1, 40), f"{', '.join(['0'] * attack_result.LONG)}, ..."),
}


@pytest.mark.parametrize("kind", ROWS)
def test_labels_that_are_rows_are_said_in_numbers(kind: str) -> None:
    truth, named, said = ROWS[kind]
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    seen = Update("gradient", {name: torch.ones_like(p) for name, p in model.named_parameters()})
    image = modality.Image(shape=(3, 8, 8))
    observation = ThreatModel.eavesdropper().observe(model, seen, modality=image)
    aim = Target(observation, image, None if truth is None else Batch(pixels, truth), "own")
    found = Reconstruction(pixels, named, Outcome("budget", "own", None, 1, 0.1))
    result = attack_result.grade("own", AttackSpec(), aim, Verified(found, 0.0))
    assert said in attack_result._labels(result)
    json.dumps(result.plain())
