"""Certificates for tests: an authority of one's own, and one key pair that it vouches for."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def dask_tls(folder: Path) -> dict[str, str]:
    """Write an authority and a certificate; returns what Dask's configuration is told of them, as its environment."""
    folder.mkdir(parents=True)
    authority = ec.generate_private_key(ec.SECP256R1())
    root = _signed("test authority", authority, "test authority", authority, is_authority=True)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _signed("127.0.0.1", key, "test authority", authority)
    (folder / "ca.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    prefix = "DASK_DISTRIBUTED__COMM__"
    environ = {f"{prefix}REQUIRE_ENCRYPTION": "true", f"{prefix}TLS__CA_FILE": str(folder / "ca.pem")}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        environ[f"{prefix}TLS__{role}__CERT"] = str(folder / "cert.pem")
        environ[f"{prefix}TLS__{role}__KEY"] = str(folder / "key.pem")
    return environ


def as_configuration(environ: Mapping[str, str]) -> dict[str, str]:
    """Write Dask's environment variables as its configuration names them, for a process that runs already."""
    names = {name: name.removeprefix("DASK_").lower().replace("__", ".").replace("_", "-") for name in environ}
    return {names[name]: value for name, value in environ.items()}


def _signed(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    is_authority: bool = False,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if not is_authority:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
