"""The recorder in NVFlare's own simulator: `make test-nvflare`, in an environment of its own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("nvflare")

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.client.config import ExchangeFormat, TransferType
from nvflare.recipe.sim_env import SimEnv

from fedseal import Image, ThreatModel, attack
from fedseal.errors import UnknownName
from fedseal.federation.view import View
from fedseal.nvflare import Recorder
from sites.perceptron import Perceptron, picture

SCRIPT = Path(__file__).parent / "sites" / "perceptron.py"
STEP = "fedavg:lr=0.1,epochs=1"


def simulated(folder: Path, recorder: Recorder, *, layers: str = "", **facts: Any) -> Path:
    """Two sites, two rounds; returns where the sites kept what they sent."""
    kept = folder / "kept"
    recipe = FedAvgRecipe(
        name="job",
        model=Perceptron(),
        min_clients=2,
        num_rounds=2,
        train_script=str(SCRIPT),
        train_args=f"{kept} {layers}",
        **facts,
    )
    recipe.add_server_input_filter(recorder, tasks=["train"])
    recipe.execute(SimEnv(num_clients=2, num_threads=2, workspace_root=str(folder / "simulated")))
    return kept


@pytest.mark.parametrize("transfer", [TransferType.FULL, TransferType.DIFF])
@pytest.mark.parametrize("form", [ExchangeFormat.NUMPY, ExchangeFormat.PYTORCH])
def test_what_sites_sent_is_in_the_record(tmp_path: Path, form: ExchangeFormat, transfer: TransferType) -> None:
    recorder = Recorder(str(tmp_path / "seen"), training=STEP)
    kept = simulated(tmp_path, recorder, server_expected_format=form, params_transfer_type=transfer)
    view = View.load(tmp_path / "seen")
    assert sorted((e.round, e.sender) for e in view.entries) == [(r, f"site-{n}") for r in (0, 1) for n in (1, 2)]
    for entry in view.entries:
        update, sent = view.update(entry), torch.load(kept / f"{entry.round}-{entry.sender}.pt")  # noqa: TID251
        assert update.tensors.keys() == sent.keys()
        assert max(float((update.tensors[name] - sent[name]).abs().max()) for name in sent) < 1e-7
        assert (update.kind, update.num_examples) == ("difference", None)
        assert entry.kind == ("weights" if transfer == TransferType.FULL else "difference")


def test_the_picture_is_read_from_a_record_without_the_last_layer(tmp_path: Path) -> None:
    simulated(tmp_path, Recorder(str(tmp_path / "seen"), rounds=[0], training=STEP), layers="first")
    view = View.load(tmp_path / "seen")
    assert [entry.round for entry in view.entries] == [0, 0]
    for entry in view.entries:
        update = view.update(entry)
        assert update.tensors.keys() == {"first.weight", "first.bias"}
        model = Perceptron()
        model.last.requires_grad_(False)
        seen = ThreatModel.honest_but_curious().observe(model, update, modality=Image(shape=(3, 4, 4)))
        found = attack.parse("linear")(seen, generator=torch.Generator().manual_seed(0))
        assert found.inputs is not None
        assert float((found.inputs - picture(entry.sender)).abs().max()) < 1e-3


class Heard:
    """A context of NVFlare's as far as the recorder looks."""

    def __init__(self, task: Any = None, site: str = "site-1", name: str = "t1") -> None:
        self.props = {FLContextKey.TASK_DATA: task, FLContextKey.TASK_ID: name}
        self.peer = SimpleNamespace(get_identity_name=lambda: site)

    def get_prop(self, key: str, default: Any = None) -> Any:
        return self.props.get(key, default)

    def get_peer_context(self) -> Any:
        return self.peer


STATE = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}
AFTER = {"w": torch.tensor([1.1, 2.1]), "b": torch.tensor([3.1])}


def message(kind: str, data: Any, round: int | None = 4) -> Any:
    found = DXO(kind, data).to_shareable()
    if round is not None:
        found.set_header(AppConstants.CURRENT_ROUND, round)
    return found


def passed(recorder: Recorder, answer: Any, task: Any = None) -> Any:
    """A result that went through, after its task."""
    heard = Heard(task or message(DataKind.WEIGHTS, STATE))
    recorder.handle_event(EventType.AFTER_TASK_DATA_FILTER, heard)
    return recorder.process(answer, heard)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"w": b"encrypted"}, "'w' holds no numbers that can be read (bytes)"),
        ({"w": np.array(["a", "b"])}, "'w' holds no numbers that can be read (ndarray)"),
        ({"w": np.array([1.0, np.nan])}, "'w' holds NaN or infinity"),
        ({}, "holds no tensor of the model"),
    ],
)
def test_what_cannot_be_kept_is_said_and_goes_on_unchanged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: Any, told: str
) -> None:
    recorder = Recorder(str(tmp_path / "seen"))
    answer = message(DataKind.WEIGHTS, data)
    assert passed(recorder, answer) is answer
    assert passed(recorder, answer) is answer
    assert caplog.text.count(told) == 1
    assert not (tmp_path / "seen").exists()


@pytest.mark.parametrize(
    "answer",
    [message(DataKind.METRICS, {"loss": 1.0}), make_reply(ReturnCode.EXECUTION_EXCEPTION), Shareable()],
    ids=["metrics", "failed", "other content"],
)
def test_what_is_no_model_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture, answer: Any) -> None:
    assert passed(Recorder(str(tmp_path / "seen")), answer) is answer
    assert not caplog.text
    assert not (tmp_path / "seen").exists()


def test_tensors_that_wait_on_disk_are_read(tmp_path: Path) -> None:
    waiting = {name: SimpleNamespace(materialize=lambda tensor=tensor: tensor) for name, tensor in AFTER.items()}
    passed(Recorder(str(tmp_path / "seen")), message(DataKind.WEIGHTS, waiting))
    (entry,) = View.load(tmp_path / "seen").entries
    found = View.load(tmp_path / "seen").update(entry).tensors
    assert entry.round == 4
    assert all(torch.allclose(tensor, torch.tensor(0.1)) for tensor in found.values())


def test_what_nvflare_calls_it_counts_unless_it_cannot_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    passed(Recorder(str(tmp_path / "seen")), message(DataKind.WEIGHT_DIFF, AFTER))
    assert "what is called a difference lies nearer to the model that was sent than to 0" in caplog.text
    passed(Recorder(str(tmp_path / "seen"), sends="weights"), message(DataKind.WEIGHT_DIFF, AFTER))
    assert View.load(tmp_path / "seen").entries[0].kind == "weights"


def test_a_folder_that_cannot_be_written_ends_the_record_and_not_the_training(tmp_path: Path) -> None:
    (tmp_path / "seen").write_text("a file")
    recorder = Recorder(str(tmp_path / "seen"))
    logged: list[str] = []
    recorder.log_error = lambda fl_ctx, text: logged.append(text)
    for _ in range(2):
        answer = message(DataKind.WEIGHTS, AFTER)
        assert passed(recorder, answer) is answer
    (text,) = logged
    assert text.startswith("the record ends here: cannot write")


def test_a_recorder_that_cannot_be_is_refused_where_the_job_is_made() -> None:
    with pytest.raises(UnknownName, match="training"):
        Recorder("seen", training="sgd")
    sends: Any = "steps"
    with pytest.raises(UnknownName, match="kind of update"):
        Recorder("seen", sends=sends)
