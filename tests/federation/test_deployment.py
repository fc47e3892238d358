"""A deployment's files, and what a party makes of them: everything that needs no process."""

from __future__ import annotations

import datetime
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from federation.small import federation
from fedseal.client import state_of
from fedseal.errors import BadConfig, EngineFailure, StorageFailure
from fedseal.federation.deployment import Place, certificates, node, place, processes, take_part, write_folders
from fedseal.federation.deployment.folder import places
from fedseal.federation.keys import StoredKeys
from fedseal.federation.ledger import LEDGER, new_ledger, stored_ledger
from fedseal.federation.protocol import Ask
from fedseal.federation.secure import Secure
from fedseal.secagg import SERVER, Party, aggregator
from fedseal.secagg.errors import OutOfPhase

SECURE = Secure("sharing", aggregators=2).settled(3, 8, {})
PARTIES = [SERVER, 0, 1, 2, aggregator(0), aggregator(1)]


def deployed(folder: Path, secure: Secure = SECURE, **facts: Any) -> Path:
    trainings = {number: {"own": f"data-{number}.npz" if number < 3 else None} for number in PARTIES}
    write_folders(folder, secure, 3, trainings, **facts)
    return folder


def test_every_party_gets_what_it_needs_and_no_secret_of_others(tmp_path: Path) -> None:
    root = deployed(tmp_path / "new" / "all", hosts=["fl.example.org", "10.1.2.3"], port=4433)
    assert sorted(path.name for path in root.iterdir()) == sorted(
        ["README.md", *(Party.of(number).folder for number in PARTIES)]
    )
    for number in PARTIES:
        own = root / Party.of(number).folder
        secrets = {path.name for path in own.rglob("*") if path.name.endswith(".key")}
        assert secrets == {Party.of(number).key_file, "server.key" if number == SERVER else "node.key"}
        assert all((own / name).stat().st_mode & 0o777 == 0o600 for name in secrets)
        assert (own / "start.sh").stat().st_mode & 0o100
        found = place(own)
        assert (found.number, found.address, found.listen) == (number, "fl.example.org:4433", "0.0.0.0")
        assert found.training == {"own": f"data-{number}.npz" if number < 3 else None}
        assert found.pact == place(root / "model-owner").pact
        assert found.pact.secure == SECURE
        public = found.keys.identity(number).public
        roster = found.pact.roster
        assert public in {roster.opener, *roster.clients.values(), *roster.aggregators}
        others = [other for other in PARTIES if other != number]
        for other in others:
            with pytest.raises(StorageFailure, match="no key"):
                found.keys.identity(other)
    text = (root / "README.md").read_text()
    assert all(f"| `{Party.of(number).folder}` |" in text for number in PARTIES)
    assert "fl.example.org" in text
    assert [found.number for found in places(root)] == PARTIES


def test_nodes_are_known_by_the_keys_that_they_hold(tmp_path: Path) -> None:
    root = deployed(tmp_path / "all")
    nodes = place(root / "model-owner").nodes
    assert list(nodes) == PARTIES[1:]
    assert len(set(nodes.values())) == 5
    for number, line in nodes.items():
        key = load_ssh_private_key((root / Party.of(number).folder / "node.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP384R1)
        assert key.public_key() == load_ssh_public_key(line.encode())


def test_the_certificate_stands_for_the_named_hosts_and_this_machine(tmp_path: Path) -> None:
    certificates.write_server(tmp_path, ["fl.example.org", "10.1.2.3", "::1"], days=30)
    certificates.check(tmp_path)
    served = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    authority = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    served.verify_directly_issued_by(authority)
    names = served.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "fl.example.org"]
    assert [str(found) for found in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "10.1.2.3", "::1"]
    left = certificates.valid_until(tmp_path) - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=29) < left <= datetime.timedelta(days=30)


def shaken(server: Path, client: Path, host: str) -> None:
    """A TLS handshake in memory, as strict as OpenSSL gets."""
    there, here = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(client / "ca.pem"))
    there.load_cert_chain(server / "server.pem", server / "server.key")
    here.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [here.wrap_bio(down, up, server_hostname=host), there.wrap_bio(up, down, server_side=True)]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


def test_a_handshake_succeeds_with_the_right_authority_and_name_only(tmp_path: Path) -> None:
    for name, days in (("one", 1.0), ("other", 1.0), ("old", -1.0)):
        (tmp_path / name).mkdir()
        certificates.write_server(tmp_path / name, ["fl.example.org"], days=days)
    one, other, old = (tmp_path / name for name in ("one", "other", "old"))
    for host in ("fl.example.org", "localhost", "127.0.0.1"):
        shaken(one, one, host)
    for server, client, host, why in (
        (one, other, "localhost", "verify failed"),
        (one, one, "elsewhere.example.org", "Hostname mismatch"),
        (old, old, "localhost", "expired"),
    ):
        with pytest.raises(ssl.SSLCertVerificationError, match=why):
            shaken(server, client, host)


@pytest.mark.parametrize("days", [-1.0, -400.0])
def test_certificates_that_are_not_valid_are_named(tmp_path: Path, days: float) -> None:
    root = deployed(tmp_path / "all", days=days)
    with pytest.raises(BadConfig, match=r"ca\.pem' expired on 20.* UTC; check this machine's clock, or make a new"):
        certificates.check(root / "owner-0")
    with pytest.raises(BadConfig, match="expired on"):
        certificates.check(root / "model-owner")


def test_certificates_that_are_missing_or_damaged(tmp_path: Path) -> None:
    root = deployed(tmp_path / "all")
    (root / "model-owner" / "server.pem").write_text("rubbish")
    with pytest.raises(StorageFailure, match=r"server\.pem' is no certificate"):
        certificates.check(root / "model-owner")
    certificates.check(root / "owner-0")
    (root / "owner-0" / "ca.pem").unlink()
    with pytest.raises(StorageFailure, match=r"ca\.pem' is no certificate"):
        certificates.check(root / "owner-0")


@pytest.mark.parametrize("host", ["", "two words", "-a.org", "a..b", "x" * 64, "10.0.0.256", "1.2.3", "a/b", "a:b"])
def test_names_that_are_no_hosts(tmp_path: Path, host: str) -> None:
    with pytest.raises(BadConfig, match="no name of a host"):
        deployed(tmp_path / "all", hosts=[host])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("used", "file"):
        with pytest.raises(StorageFailure, match="is not empty"):
            deployed(tmp_path / name)
    (tmp_path / "empty").mkdir()
    root = deployed(tmp_path / "empty")
    with pytest.raises(StorageFailure, match=r"is not empty.*fedseal join"):
        deployed(root)
    with pytest.raises(BadConfig, match="port"):
        deployed(tmp_path / "other", port=70000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "used"]


def test_folders_that_are_no_partys(tmp_path: Path) -> None:
    with pytest.raises(StorageFailure, match=r"there is no '.*party\.json'; name a party's folder"):
        place(tmp_path)
    root = deployed(tmp_path / "all")
    for broken in ("{", "[]", '{"version": 2}', '{"version": 1}', '{"version": 1, "party": "x"}'):
        (root / "owner-0" / "party.json").write_text(broken)
        with pytest.raises(StorageFailure, match="is damaged"):
            place(root / "owner-0")


def test_a_ledger_on_disk_outlives_its_party(tmp_path: Path) -> None:
    setup = federation("sharing")
    members = setup.members_of(StoredKeys.at(tmp_path / "keys", setup.secure, 4))
    path, state = tmp_path / LEDGER, state_of(members.model)
    size = sum(tensor.numel() for tensor in state.values())
    new_ledger(path)

    def asked(round: int, shift: float) -> str:
        party = members.party(0, ledger=stored_ledger(path))  # as after a restart
        sent = {name: tensor + shift for name, tensor in state.items()}
        return party.answer(Ask(0, "train", round, size, (), sent)).refused

    questions = [(0, 0.0), (0, 0.0), (2, 0.1), (1, 0.2), (2, 0.2), (3, 0.0), (3, 0.2)]
    refused = ["", "OutOfPhase", "", "OutOfPhase", "OutOfPhase", "KnownState", ""]
    assert [asked(*question) for question in questions] == refused
    assert stored_ledger(path).rounds == {members.pact.session.hex(): 3}
    assert [found.name for found in tmp_path.iterdir() if found.is_file()] == [LEDGER]


def test_every_party_has_a_ledger_from_the_first_day_and_none_answers_without(tmp_path: Path) -> None:
    root = deployed(tmp_path / "all")
    for number in PARTIES:
        assert stored_ledger(root / Party.of(number).folder / LEDGER).entries == ()
    (root / "owner-0" / LEDGER).unlink()
    found = place(root / "owner-0")
    with pytest.raises(StorageFailure, match="no record of rounds"):
        take_part(found, federation(SECURE).members_of(found.keys))


def test_a_round_that_cannot_be_noted_is_not_answered(tmp_path: Path) -> None:
    members = federation("sharing").members()
    ledger, state = new_ledger(tmp_path / LEDGER), state_of(members.model)
    (tmp_path / f".{LEDGER}.part").mkdir()
    size = sum(tensor.numel() for tensor in state.values())
    reply = members.party(0, ledger=ledger).answer(Ask(0, "train", 0, size, (), state))
    assert (reply.messages, reply.refused) == ((), "StorageFailure")
    with pytest.raises(OutOfPhase):
        ledger.enter(members.pact.terms(0, size))


def child(folder: Path, code: str) -> processes.Child:
    return processes.start("child", [sys.executable, "-c", code], folder)


@pytest.mark.slow
def test_a_process_that_does_not_get_up_says_why_and_ends(tmp_path: Path) -> None:
    failing = child(tmp_path, "print('hm'); raise SystemExit('Error: port in use')")
    with pytest.raises(EngineFailure, match=r"'child' does not start: Error: port in use; see its log"):
        processes.until_open(failing, processes.free_port())
    lasting = child(tmp_path, "import time; time.sleep(60)")
    assert lasting.runs
    lasting.end()
    assert not lasting.runs
    deaf = child(
        tmp_path, "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    while "up" not in deaf.log_tail():
        pass
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(processes, "GRACE", 0.1)
        deaf.end()
    assert deaf.process.returncode == -9


@pytest.mark.parametrize("name", ["flower-superlink", "flower-supernode"])
def test_a_daemon_is_flowers_own_and_loads_no_model_code(tmp_path: Path, name: str) -> None:
    started = processes.daemon(name, ["--help"], tmp_path)
    assert started.process.wait(60) == 1  # whatever it ends for, a daemon that ends has failed
    assert f"usage: {name}" in started.log.read_text()
    code = f"import sys, {processes.DAEMON}; print('torch' in sys.modules, 'flwr' in sys.modules)"
    loading = child(tmp_path, code)
    loading.process.wait(60)
    assert loading.log_tail().split() == ["False", "False"]


SAID = {
    "SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired": "has expired",
    "certificate verify failed: unable to get local issuer certificate": "does not vouch for",
    "Failed to initialize the connection.\n[code: 2004] The public key is not": "knows no key of data owner 1",
    "[code: 2001] Missing public key": "takes no node without a key",
}


@pytest.mark.parametrize("said", SAID)
def test_refusals_are_told_apart(tmp_path: Path, said: str) -> None:
    here = Place(tmp_path, 1, "fl.example.org:9443", "0.0.0.0")
    ended = child(tmp_path, f"print({said!r})")
    ended.process.wait()
    with pytest.raises(BadConfig, match=rf"{SAID[said]}.*; \w+"):
        node._refused(here, ended)
    quiet = child(tmp_path, "print('bye')")
    quiet.process.wait()
    node._refused(here, quiet)


def test_flower_knows_the_keys(tmp_path: Path) -> None:
    """As its own tool reads a public key, and as its messages have it."""
    from flwr.cli.supernode.register import try_load_public_key

    from fedseal.federation.deployment.engine import _wire

    line = certificates.write_node_key(tmp_path)
    (tmp_path / "node.pub").write_text(line)
    assert try_load_public_key(tmp_path / "node.pub") == _wire(line)


def test_openssh_reads_the_node_keys(tmp_path: Path) -> None:
    line = certificates.write_node_key(tmp_path)
    try:
        done = subprocess.run(
            ["ssh-keygen", "-y", "-f", tmp_path / "node.key"], capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed")
    assert done.stdout.strip() == line
