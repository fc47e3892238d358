"""Certificates and node keys of a deployment: one authority, one server, an ECDSA key for each node.

The authority signs one certificate and is forgotten: nobody can sign another one later, for whatever host.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedseal.errors import BadConfig, StorageFailure

DAYS = 365
LOOPBACK = ("localhost", "127.0.0.1")
AUTHORITY, CERTIFICATE, KEY, NODE_KEY = "ca.pem", "server.pem", "server.key", "node.key"
SLACK = datetime.timedelta(minutes=10)  # by which clocks of different hosts may differ
LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


def host_name(text: str) -> str:
    """The name or address of a host, as it goes into a certificate.

    Raises:
        BadConfig: it is none.

    >>> host_name("fl.example.org"), host_name("10.0.0.7")
    ('fl.example.org', '10.0.0.7')
    """
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    labels = text.split(".")
    if len(text) > 253 or not all(map(LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise BadConfig(f"'{text}' is no name of a host", "give a name or an address: --host fl.example.org")
    return text


def write_server(folder: Path, hosts: Sequence[str], *, days: float = DAYS) -> None:
    """`ca.pem`, which every party gets, and `server.pem` with `server.key`, which the model owner keeps.

    Args:
        hosts: names and addresses under which the model owner is reached, besides those of its own machine.
        days: how long they are valid from now; negative for certificates that expired.

    Raises:
        BadConfig: a name that is none.
    """
    names = _names(hosts)
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    span = (ends - datetime.timedelta(days=abs(days)) - SLACK, ends)
    authority_key, server_key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    authority = (
        _begun("fedseal deployment", authority_key.public_key(), span)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_others=True), critical=True)
        .sign(authority_key, SHA384())
    )
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    served = (
        _begun("model owner", server_key.public_key(), span)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_others=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority_key, SHA384())
    )
    (folder / AUTHORITY).write_bytes(authority.public_bytes(Encoding.PEM))
    (folder / CERTIFICATE).write_bytes(served.public_bytes(Encoding.PEM))
    write_secret(folder / KEY, server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def write_node_key(folder: Path) -> str:
    """A fresh `node.key` with which a node proves who it is; its public part comes back, as a line of OpenSSH."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_secret(folder / NODE_KEY, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def check(folder: Path) -> None:
    """The certificates of a party's folder are there, whole and valid today.

    Raises:
        StorageFailure: one is missing or damaged.
        BadConfig: one is not valid yet, or no more.
    """
    names = (AUTHORITY, CERTIFICATE) if (folder / KEY).is_file() else (AUTHORITY,)
    for path in (folder / name for name in names):
        try:
            found = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StorageFailure(f"'{path}' is no certificate ({error})", "copy this party's folder again") from None
        begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
        now = datetime.datetime.now(datetime.UTC)
        if not begins <= now <= ends:
            when = f"expired on {ends:%Y-%m-%d %H:%M}" if now > ends else f"is valid from {begins:%Y-%m-%d %H:%M} only"
            raise BadConfig(
                f"the certificate '{path}' {when} UTC",
                "check this machine's clock, or make a new deployment: fedseal train --deploy",
            )


def valid_until(folder: Path) -> datetime.datetime:
    """The end of the server's certificate."""
    return x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes()).not_valid_after_utc


def write_secret(path: Path, content: bytes) -> None:
    """A new file for its user's eyes only."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in dict.fromkeys((*LOOPBACK, *map(host_name, hosts))):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _begun(
    name: str, key: ec.EllipticCurvePublicKey, span: tuple[datetime.datetime, datetime.datetime]
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named("fedseal deployment"))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(span[0])
        .not_valid_after(span[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs_others: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_others,
        key_cert_sign=signs_others,
        crl_sign=signs_others,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
