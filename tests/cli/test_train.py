from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cli.conftest import Command
from fedseal.cli.app import run_command
from fedseal.cli.rounds import who_could_read
from fedseal.federation import View
from fedseal.federation.report import RoundReport
from fedseal.federation.secure import Secure

QUICK = ("--owners", "3", "--rounds", "2", "--model", "zoo:mlp:widths=[8]")


def arrays(path: Path, count: int = 12, side: int = 6, seed: int = 0) -> Path:
    generator = torch.Generator().manual_seed(seed)
    images = (torch.rand(count, side, side, generator=generator) * 255).byte().numpy()
    np.savez(path, images=images, labels=np.arange(count) % 3)
    return path


def test_a_run_says_what_it_reached_and_what_could_be_read(fedseal: Command, tmp_path: Path) -> None:
    answer = fedseal("train", *QUICK, "--save", "out/model.safetensors")
    assert answer.code == 0, answer.err
    assert [line.split(":")[0] for line in answer.err.splitlines()] == ["round 1/2", "round 2/2"]
    assert "3 owners, training loss" in answer.err
    assert "MB from each" in answer.err
    first, second, third, fourth = answer.out.splitlines()
    assert first.startswith("2 rounds; loss ")
    assert "who follows the protocol could" in second
    assert "unless aggregator 0, aggregator 1 and aggregator 2 collude" in second
    assert third.startswith("the smallest round added up 3 owners: 2 of them together could subtract theirs")
    assert fourth == "the model is in out/model.safetensors"
    assert set(load_file(tmp_path / "out/model.safetensors")) == {"1.weight", "1.bias", "3.weight", "3.bias"}


@pytest.mark.parametrize(
    ("secure", "cohorts", "said"),
    [
        (Secure("sharing", aggregators=2), (3, 2), ["aggregator 0 and aggregator 1", "either could subtract"]),
        (Secure("sharing", noise=1.0, clip=1.0), (4, 5), ["collude", "3 of them together .* has the noise of --dp"]),
        (Secure("masking", minimum=4), (6,), ["colludes with 2 or more owners", "5 of them together"]),
        (Secure("masking", minimum=3), (12,), ["colludes with 1 or more owners", "11 of them together"]),
        (Secure("masking", minimum=40, degree=8), (50,), ["3 or more of one owner's neighbors", "49 of them"]),
        (Secure("masking", minimum=4, quorum=(1, 2)), (6,), ["colludes with an owner", "5 of them together"]),
        (Secure("plain"), (1,), ["the server could read every owner's update"]),
        (Secure("sharing"), (), ["no owner answered, and nobody could read"]),
    ],
)
def test_who_could_read_what_hangs_on_the_smallest_cohort(
    secure: Secure, cohorts: tuple[int, ...], said: list[str]
) -> None:
    history = [RoundReport(number, clients, clients) for number, clients in enumerate(cohorts)]
    history.append(RoundReport(len(cohorts), 0, 0, failure="nobody answered"))  # opened nothing, so it says nothing
    lines = who_could_read(secure, history, noisy=secure.noise is not None)
    assert len(lines) == len(said)
    assert all(re.search(one, line) for one, line in zip(said, lines, strict=True))


@pytest.mark.parametrize(
    ("secure", "said"),
    [
        (Secure("plain"), "the server could read every owner's update"),
        (Secure("ring", minimum=3), "a part of the update of the owner before it"),
        (Secure("ring", minimum=2), "either owner could read the other's update"),
        (Secure("sharing", aggregators=2), "no sum was opened; .* unless aggregator 0 and aggregator 1 collude"),
    ],
)
def test_what_was_sent_in_a_round_that_opened_nothing_could_be_read_all_the_same(secure: Secure, said: str) -> None:
    (line,) = who_could_read(secure, [RoundReport(0, 0, 0, uploaded=1000, failure="the minimum is 3")])
    assert re.search(said, line)


@pytest.mark.parametrize("before", [2, 3])
def test_who_could_read_what_hangs_on_the_weakest_terms_before_a_resume_too(fedseal: Command, before: int) -> None:
    run = ("train", *QUICK, "--protocol", "sharing", "--checkpoint", "run.st")
    assert fedseal(*run, "--aggregators", str(before)).code == 0
    answer = fedseal(*run, "--aggregators", str(5 - before), "--resume", "--rounds", "3")
    assert "unless aggregator 0 and aggregator 1 collude" in answer.out


def test_a_run_without_noise_is_not_said_to_have_had_some_after_it_went_on_with_it(fedseal: Command) -> None:
    run = ("train", *QUICK, "--clip", "1", "--checkpoint", "run.st")
    assert fedseal(*run).code == 0
    answer = fedseal(*run, "--dp", "1", "--resume", "--rounds", "3")
    assert "no differential privacy: 2 of 3 rounds" in answer.out
    assert "has the noise of --dp" not in answer.out
    assert "has the noise of --dp" in fedseal("train", *QUICK, "--dp", "1").out


@pytest.mark.parametrize("way", [[], ["--epochs", "2"], ["--reptile"], ["--local-learning-rate", "0.05"]])
def test_every_way_to_train_learns(fedseal: Command, way: list[str]) -> None:
    options = ["--owners", "3", "--rounds", "4", "--batch-size", "40", "--json", *way]
    answer = fedseal("train", *options)
    assert answer.err == ""
    found = json.loads(answer.out)
    losses = [report["validation"]["loss"] for report in found["rounds"]]
    assert losses[-1] < losses[0]
    assert found["secure"]["protocol"] == "sharing"
    assert found["epsilon"] is None


def test_protocols_agree_and_a_record_is_kept(fedseal: Command, tmp_path: Path) -> None:
    for protocol in ("plain", "masking"):
        answer = fedseal(
            "train", *QUICK, "--protocol", protocol, "--save", f"{protocol}.st", "--record", protocol, "-q"
        )
        assert (answer.code, answer.err) == (0, "")
        kinds = {entry.kind for entry in View.load(tmp_path / protocol).entries}
        assert kinds == ({"step", "sum"} if protocol == "plain" else {"masked", "sum"})
    one, other = (load_file(tmp_path / f"{protocol}.st") for protocol in ("plain", "masking"))
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-6


@pytest.mark.parametrize(
    "wrong", [["--owners", "1"], ["--topology", "gossip", "--owners", "1"], ["--checkpoint", "run.st", "--resume"]]
)
def test_a_command_that_is_refused_leaves_a_record_as_it_is(fedseal: Command, tmp_path: Path, wrong: list[str]) -> None:
    assert fedseal("train", *QUICK, "--record", "seen").code == 0
    assert fedseal("train", *QUICK, "--checkpoint", "run.st").code == 0
    files = {name: (tmp_path / "seen" / name).read_bytes() for name in ("asked.json", "view.json")}
    assert fedseal("train", *QUICK, "--batch-size", "7", "--record", "seen", *wrong).code == 2
    assert files == {name: (tmp_path / "seen" / name).read_bytes() for name in files}


def test_noise_is_accounted(fedseal: Command) -> None:
    answer = fedseal("train", *QUICK, "--dp", "2,clip=0.5")
    assert "epsilon" in answer.out.splitlines()[-1]
    assert "training loss" not in answer.err


RESNET = ["--model", "zoo:resnet:width=4,blocks=[1,1]", "--data", "photos", "--shape", "3,8,8", "--owners", "2"]


def _trains(fedseal: Command, epochs: int, *way: str) -> None:
    options = ["--epochs", str(epochs), "--batch-size", "5", "--local-learning-rate", "0.01"]
    answer = fedseal("train", *RESNET, *options, *way, "--validation-split", "0.6", "--rounds", "1", "--json")
    assert answer.code == 0
    (report,) = json.loads(answer.out)["rounds"]
    assert (report["clients"], report["failure"]) == (2, "")
    assert report["validation"]["loss"] is not None


WAYS: list[list[str]] = [[], ["--clip", "1"], ["--dp", "0.5,clip=1"], ["--statistics", "local"]]
PAIRS = [(protocol, way) for protocol in ("sharing", "masking") for way in WAYS]
QUICK_PAIRS = [PAIRS[0], PAIRS[5], PAIRS[2], PAIRS[7]]  # every way, and both protocols


@pytest.mark.parametrize(
    ("protocol", "way"),
    [pytest.param(*pair, marks=() if pair in QUICK_PAIRS else pytest.mark.slow) for pair in PAIRS],
)
def test_a_net_with_batchnorm_trains_for_9_local_steps(fedseal: Command, protocol: str, way: list[str]) -> None:
    _trains(fedseal, 3, "--protocol", protocol, *way)


@pytest.mark.slow
def test_a_net_with_batchnorm_trains_for_1002_local_steps(fedseal: Command) -> None:
    _trains(fedseal, 334, "--dp", "0.5,clip=1")


def test_a_training_that_diverges_is_an_error(fedseal: Command) -> None:
    options = ["--owners", "2", "--rounds", "3", "--learning-rate", "1e30", "--checkpoint", "run.st"]
    answer = fedseal("train", *options, "-q")
    assert (answer.code, answer.out) == (2, "")
    *given, complaint = answer.err.splitlines()
    assert complaint.startswith("error: the training diverged in round")
    assert "run.st" in complaint or "no round before it was good" in complaint
    assert given[0].startswith("nobody who follows the protocol could read an owner's update unless aggregator 0")
    assert given[1].startswith("a round added up 2 owners: either could subtract")


def test_a_training_that_is_broken_off_says_what_it_gave_away(
    fedseal: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said neither who could have read what was sent nor what was spent, whatever round it ended in."""

    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    noisy = [*QUICK, "--dp", "1.1,clip=1"]
    for place in ("fedseal.cli.rounds.round_line", "fedseal.federation.run.put_model"):  # after a round, and in one
        with monkeypatch.context() as patched:
            patched.setattr(place, interrupt)
            answer = fedseal("train", *noisy)
        assert answer.code == 130
        assert "aggregator 0, aggregator 1 and aggregator 2 collude" in answer.err
        assert "differential privacy of one owner's updates" in answer.err
        assert "after 1 rounds against who sees all sums" in answer.err
    failed = fedseal("train", *noisy, "--bound", "1e-6", "-q")
    assert "no owner answered, and nothing was spent of an owner's privacy\nerror: nothing was trained" in failed.err
    assert len(fedseal("train", *noisy, "--bound", "1e-6", "--json").err.splitlines()) == 1


def test_an_interrupted_run_goes_on(fedseal: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fedseal("train", *QUICK, "--save", "whole.st", "-q").code == 0

    def interrupt(report: RoundReport, rounds: int) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("fedseal.cli.rounds.round_line", interrupt)
        answer = fedseal("train", *QUICK, "--checkpoint", "run.st")
    assert answer.code == 130
    assert "interrupted after 1 rounds; go on with --resume --checkpoint run.st" in answer.err
    assert fedseal("train", *QUICK, "--checkpoint", "run.st", "--resume", "--save", "resumed.st", "-q").code == 0
    one, other = load_file(tmp_path / "whole.st"), load_file(tmp_path / "resumed.st")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_data_that_is_read_otherwise_is_not_gone_on_with(fedseal: Command, tmp_path: Path) -> None:
    """Columns in another order, or another normalization, of the same width: the model's inputs were permuted."""
    rows = [f"{20 + row % 30},{row % 7 + 0.5},{'yn'[row % 2]}" for row in range(40)]
    swapped = [",".join((line.split(",")[1], line.split(",")[0], line.split(",")[2])) for line in rows]
    wider = [*rows, "99,3.5,y"]
    for name, lines in {
        "a": ["age,size,label", *rows],
        "b": ["size,age,label", *swapped],
        "c": ["age,size,label", *wider],
    }.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    run = ("train", "--owners", "2", "--checkpoint", "run.st", "-q", "--epochs", "1")
    assert fedseal(*run, "--data", "a.csv", "--rounds", "1").code == 0
    for other in ("b.csv", "c.csv"):
        wrong = fedseal(*run, "--data", other, "--rounds", "2", "--resume")
        assert "is of another federation" in wrong.complaint
    assert fedseal(*run, "--data", "a.csv", "--rounds", "2", "--resume").code == 0


@pytest.mark.parametrize("way", [[], ["--protocol", "plain"], ["--topology", "ring", "--protocol", "plain"]])
def test_a_training_of_which_every_round_failed_is_an_error_and_saves_nothing(
    fedseal: Command, tmp_path: Path, way: list[str]
) -> None:
    """It ended with exit code 0 and "the model is in un.st", which was the model as it began."""
    unfit = ["--bound", "1e-6", "--statistics-bound", "1e-6", "--owners", "3", "--rounds", "2", "--save", "un.st"]
    answer = fedseal("train", *unfit, *way, "-q", "--checkpoint", "run.st")
    assert (answer.code, answer.out) == (2, "")
    assert "error: nothing was trained: no sum was opened in 2 rounds, in the last since" in answer.err
    assert not (tmp_path / "un.st").exists()
    again = fedseal("train", *unfit, *way, "-q", "--checkpoint", "run.st", "--resume")
    assert "nothing was trained" in again.err
    assert not (tmp_path / "un.st").exists()


@pytest.mark.parametrize(
    ("way", "said"),
    [
        (["--statistics", "local"], "updates, without its statistics, which are not sent, against"),
        ([], "updates, statistics included, against"),
    ],
)
def test_what_is_inside_of_epsilon_is_what_is_sent(fedseal: Command, way: list[str], said: str) -> None:
    answer = fedseal("train", *RESNET, "--dp", "1", "--rounds", "1", "--validation-split", "0.6", *way)
    assert said in answer.out
    assert "updates against zeros" in fedseal("train", *QUICK, "--dp", "1").out


def test_a_file_for_every_owner(fedseal: Command, tmp_path: Path) -> None:
    names = [str(arrays(tmp_path / f"{number}.npz", count=6 + number, seed=number)) for number in range(3)]
    data = [part for name in names for part in ("--data", name)]
    answer = fedseal("train", *data, "--validation", names[0], "--rounds", "1", "--json")
    (report,) = json.loads(answer.out)["rounds"]
    assert (report["clients"], report["weight"]) == (3, 6 + 7 + 8)
    assert "accuracy" in report["validation"]
    assert fedseal("train", *data, "--rounds", "1").out.startswith("1 rounds; no validation data")


def test_a_folder_of_pictures_and_a_table(fedseal: Command, tmp_path: Path) -> None:
    from PIL import Image

    for place in range(8):
        folder = tmp_path / "pictures" / f"class{place % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), 20 * place, np.uint8)).save(folder / f"{place}.png")
    options = ["--rounds", "1", "--owners", "2", "-q"]
    assert fedseal("train", "--data", "pictures", "--shape", "3,8,8", *options).code == 0
    lines = ["age,job,label", *(f"{20 + row},{'ab'[row % 2]},{'yn'[row % 2]}" for row in range(20))]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    assert fedseal("train", "--data", "rows.csv", *options).code == 0
    assert fedseal("train", "--data", "rows.csv", "--data", "rows.csv", "--rounds", "1", "-q").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "none.npz"], "there is no data 'none.npz'"),
        (["--data", "x.tfrecord"], "there is no data"),
        (["--split", "uneven"], "there is no split"),
        (["--owners", "900"], "900 data owners"),
        (["--owners", "1"], "one client is its update"),
        (["--minimum", "20"], "20 clients are asked for"),
        (["--model", "zoo:none"], "there is no model in the zoo 'none'"),
        (["--resume"], "nothing to go on from"),
        (["--resume", "--checkpoint", "none.st"], "there is no checkpoint"),
        (["--reptile", "--epochs", "2"], "give one of them"),
        (["--dp", "many"], "--dp has 'many'"),
        (["--save", "one.st", "--checkpoint", "./one.st"], "--save and --checkpoint both name"),
        (["--checkpoint", "one", "--record", "one"], "--checkpoint and --record both name"),
        (["--data", "taken", "--save", "./taken"], "--save would be written over 'taken', which --data reads"),
        (["--validation", "taken", "--checkpoint", "taken"], "--checkpoint would be written over 'taken'"),
        (["--record", "taken"], "cannot record into 'taken' (Not a directory)"),
        (["--dp", "1,size=2"], "there is no option of '--dp' 'size'"),
        (["--dp", "1", "--protocol", "plain"], "belong to a secure sum"),
        (["--bound", "-1"], "not above zero"),
        (["--statistics-bound", "-1"], "bound of -1 on statistics"),
        (["--learning-rate", "0"], "the learning rate is 0"),
        (["--local-learning-rate", "-1"], "local learning rate is -1"),
        (["--protocol", "none"], "--protocol"),
        (["--validation-split", "0.95"], "--validation-split"),
        (["--shape", "3,x"], "--shape"),
        (["--validation-split", "nan"], "--validation-split is nan"),
        (["--timeout", "nan", "--deploy", "hosts"], "--timeout is nan"),
        (["--seed", "99999999999999999999"], "--seed"),
        (["--minimum", "20", "--protocol", "plain"], "20 clients are asked for"),
        (["--dp", "1e-300"], "set a larger noise"),
        (["--topology", "gossip", "--statistics", "local"], "leave --statistics out"),
        (["--topology", "gossip", "--dp", "1"], "choose another --topology"),
        (["--topology", "gossip", "--floor", "0.01"], "--floor is of a secure sum"),
        (["--topology", "gossip", "--bits", "64"], "--bits is of a secure sum"),
        (["--topology", "gossip", "--statistics-clip", "2"], "--statistics-clip is of a secure sum"),
    ],
)
def test_what_is_typed_wrong_is_one_line(fedseal: Command, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "taken").write_text("a file, and no folder")
    assert said in fedseal("train", "--rounds", "1", *arguments).complaint


def test_owners_of_unlike_data(fedseal: Command, tmp_path: Path) -> None:
    arrays(tmp_path / "a.npz")
    arrays(tmp_path / "b.npz", side=7)
    both = ["--data", "a.npz", "--data", "b.npz"]
    assert "give all of one shape" in fedseal("train", *both).complaint
    assert "leave --owners out" in fedseal("train", *both, "--owners", "3").complaint


def test_a_shape_that_arrays_do_not_have_is_refused(fedseal: Command, tmp_path: Path) -> None:
    """It was taken, and read nowhere."""
    arrays(tmp_path / "a.npz", side=7)
    wrong = fedseal("train", "--data", "a.npz", "--shape", "1,4,4")
    assert "--shape is 1,4,4, and 'a.npz' holds examples of 1,7,7; leave --shape out" in wrong.complaint


@pytest.fixture(scope="module")
def proposed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The terms that are proposed for the bundled pictures."""
    path = tmp_path_factory.mktemp("terms") / "p.json"
    assert run_command(["train", "--data", "fashion_mnist", "--propose", str(path)]) == 0
    return path.read_text()


TABLE = "age,job,label\n" + "".join(f"{20 + row},{'ab'[row % 2]},{'yn'[row % 2]}\n" for row in range(20))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--data", "a.npz", "--data", "b.npz", "--split", "iid"], "is one owner's, whole, and --split is given"),
        (["--data", "a.npz", "--data", "b.npz", "--validation-split", "0.2"], "leave out --validation-split;"),
        (["--data", "a.npz", "--validation", "b.npz", "--validation-split", "0.2"], "--validation names the data"),
        (["--clip", "0.5", "--dp", "1.1,clip=1"], "--dp has a clip of its own, and --clip is given"),
        (["--iterations", "3"], "only --reptile takes a number of steps, and --iterations is given"),
        (["--aggregators", "3", "--protocol", "plain"], "no aggregators add under --protocol plain"),
        (["--aggregators", "3", "--topology", "ring"], "no aggregators add among owners alone"),
        (["--floor", "0.01", "--protocol", "plain"], "in secret under --protocol plain, and --floor is given"),
        (["--bits", "64", "--topology", "ring", "--protocol", "plain"], "--protocol plain, and --bits is given"),
        (["--statistics-clip", "2", "--protocol", "plain"], "--protocol plain, and --statistics-clip is given"),
        (["--statistics-clip", "2", "--statistics", "local", "--clip", "1"], "under --statistics local, and --stat"),
        (["--statistics-bound", "9", "--statistics", "local"], "--statistics local, and --statistics-bound is given"),
        (["--statistics-clip", "2"], "updates are not clipped without --clip or --dp, and --statistics-clip"),
        (["--port", "9443"], "nothing is deployed, and --port is given; leave out --port, or name its folder with"),
        (["--classes", "2", "--timeout", "600"], "leave out --classes, --timeout, or name its folder with --deploy"),
        (["--examples", "9"], "nothing is deployed, and --examples is given"),
        (["--deploy", "all", "--examples", "9"], "the number of examples is read off data that is here"),
        (["--label", "job"], "--label names a column, and no --data is a table"),
        (["--data", "t.csv", "--range", "0,9"], "a table has neither shape nor range to be told, and --range"),
        (["--data", "t.csv", "--shape", "2", "--propose", "x.json"], "to be told, and --shape is given"),
        (["--data", "t.csv", "--propose", "x.json", "--validation", "t.csv"], "--propose trains nothing, and --val"),
        (["--data", "t.csv", "--propose", "x.json", "--seed", "0", "--model", "zoo:mlp"], "leave out --model, --seed"),
        (["--terms", "p.json", "--propose", "x.json", "--shape", "2"], "--propose without --data reads no data"),
        (["--terms", "p.json"], "--terms says what data has to be like, and no data is named; name it: --data scans"),
    ],
)
def test_options_of_no_use_are_refused(
    fedseal: Command, tmp_path: Path, proposed: str, arguments: list[str], complaint: str
) -> None:
    """They were dropped without a word; as defaults they say nothing. Terms alone trained on the bundled pictures."""
    for name in "ab":
        arrays(tmp_path / f"{name}.npz")
    (tmp_path / "t.csv").write_text(TABLE)
    (tmp_path / "p.json").write_text(proposed)
    rounds = [] if "--propose" in arguments else ["--rounds", "1"]
    assert complaint in fedseal("train", *rounds, *arguments).complaint
    assert not (tmp_path / "x.json").exists()
    assert not (tmp_path / "all").exists()


def test_how_files_were_read_is_told_as_notes(fedseal: Command, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE.replace(",", ";"))
    run = ["train", "--data", "t.csv", "--owners", "2", "--rounds", "1"]
    assert fedseal(*run).err.splitlines()[0] == "note: 't.csv': columns are separated by semicolons"
    assert "note" not in fedseal(*run, "--json").err + fedseal(*run, "-q").err
    deployed = fedseal("train", "--data", "t.csv", "--data", "t.csv", "--deploy", "all", "--rounds", "1")
    assert "label" not in deployed.err  # what is in it is not how it was read
