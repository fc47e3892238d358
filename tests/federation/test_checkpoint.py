"""A run that was cut off goes on as if it had not been."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.small import federation, gap, weights
from fedseal.errors import BadConfig, StorageFailure
from fedseal.federation.report import RoundReport


class Killed(Exception):
    pass


def _stop(report: RoundReport) -> None:
    if report.round == 1:
        raise Killed


@pytest.mark.parametrize("protocol", ["sharing", "masking", "plain"])
def test_a_resumed_run_ends_where_the_whole_one_does(protocol: str, tmp_path: Path) -> None:
    place = tmp_path / "new" / "run.safetensors"
    whole = federation(protocol).fit(4)
    with pytest.raises(Killed):
        federation(protocol).fit(4, checkpoint=place, progress=_stop)
    resumed = federation(protocol).fit(4, checkpoint=place, resume=True)
    assert gap(weights(whole), weights(resumed)) == 0
    assert [report.round for report in resumed.history] == [0, 1, 2, 3]
    done = federation(protocol).fit(4, checkpoint=place, resume=True)
    assert gap(weights(whole), weights(done)) == 0
    assert {path.name for path in place.parent.iterdir()} == {"run.safetensors", "run.safetensors.ledger.json"}


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    place = tmp_path / "run.safetensors"
    with pytest.raises(BadConfig, match="nothing to resume"):
        federation().fit(1, resume=True)
    with pytest.raises(StorageFailure, match="no checkpoint"):
        federation().fit(1, checkpoint=place, resume=True)
    federation().fit(1, checkpoint=place)
    with pytest.raises(BadConfig, match="another federation"):
        federation("masking").fit(2, checkpoint=place, resume=True)
    with pytest.raises(BadConfig, match="another federation"):
        federation(seed=1).fit(2, checkpoint=place, resume=True)
    content = place.read_bytes()
    for broken in (content[:-9], content[:20], b"", b"x" * 99):
        place.write_bytes(broken)
        with pytest.raises(StorageFailure, match=r"no whole checkpoint|not a whole checkpoint"):
            federation().fit(2, checkpoint=place, resume=True)


def test_a_checkpoint_of_data_that_is_read_otherwise_is_refused(tmp_path: Path) -> None:
    """Two files of terms in the other order permuted a model's inputs, and the training went on."""
    place = tmp_path / "run.safetensors"
    federation(schema="age, sex").fit(1, checkpoint=place)
    for other in ("sex, age", ""):
        with pytest.raises(BadConfig, match=r"another federation; resume with .* data that is read alike"):
            federation(schema=other).fit(2, checkpoint=place, resume=True)
    assert len(federation(schema="age, sex").fit(2, checkpoint=place, resume=True).history) == 2


def test_a_checkpoint_from_before_schemas_were_kept_is_gone_on_from(tmp_path: Path) -> None:
    place = tmp_path / "run.safetensors"
    federation().fit(1, checkpoint=place)
    assert len(federation(schema="age, sex").fit(2, checkpoint=place, resume=True).history) == 2
    with pytest.raises(BadConfig, match="another federation"):
        federation().fit(3, checkpoint=place, resume=True)


def test_a_model_is_saved_for_others_to_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    trained = federation().fit(1)
    trained.save(tmp_path / "model.safetensors")
    assert gap(load_file(tmp_path / "model.safetensors"), weights(trained)) == 0
    with pytest.raises(StorageFailure, match="cannot write"):
        trained.save(tmp_path / "model.safetensors" / "under" / "a file")
