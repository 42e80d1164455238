"""The identities of a simulated fleet: its own CA, an aggregator, and whoever else needs a key.

    RUN/keys/           mode 0700
        ca.key          the fleet's CA, Ed25519, mode 0600
        aggregator.key  signs for the aggregator, Ed25519, mode 0600
        sealing.key     opens what is sealed to the aggregator, X25519, mode 0600

The files are made once and found again by a resumed run and by the worker processes of this run. The key of
a vehicle or committee node follows from the CA's private key (HKDF, RFC 5869), so that every process of a run
finds the same one; certificates are made on demand and again before they end. One folder thus has the keys
of everybody: a simulation protects its messages from whoever has the wire, not from whoever has the folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from carpool.privacy import keyfiles
from carpool.privacy.errors import UsageError
from carpool.privacy.fleetfolder import SKEW
from carpool.privacy.identity import Certificate, Role, Trust, issue, public_bytes
from carpool.privacy.signing import message

KEYS = "keys"
"""Name of the folder in a run's folder."""
DAYS = 30.0
RENEWED = 86400
"""Seconds before its end at which a certificate is made anew, so that none ends on the way."""
LABEL, VERSION = "carpool/simulated-member", 1
KNOWN = 1 << 16
"""Members that are remembered; of a larger fleet the keys are derived again."""
Key = TypeVar("Key", Ed25519PrivateKey, X25519PrivateKey)


class Aggregator(NamedTuple):
    """The aggregator's secrets: `key` signs, `certificate` is the CA's word for it, `sealing` opens."""

    key: Ed25519PrivateKey
    certificate: bytes
    sealing: X25519PrivateKey

    def __repr__(self) -> str:
        return "Aggregator(...)"


class SimulatedFleet:
    """The CA of one run and everybody's keys.

    folder: the run's; None keeps everything in memory, for one process. now: Unix seconds, the wall clock.
    Raises UsageError, PrivacyRefused for damaged or unguarded key files, RunError.
    """

    def __init__(self, folder: Path | None, now: Callable[[], float] = time.time) -> None:
        self._folder = None if folder is None else folder / KEYS
        self.now = now
        if self._folder is not None:
            keyfiles.private_folder(self._folder)
        self._ca = self._found("ca.key", Ed25519PrivateKey.generate, keyfiles.load_signing)
        self._known: dict[tuple[Role, int], tuple[Ed25519PrivateKey, Certificate, bytes]] = {}

    def _found(self, name: str, make: Callable[[], Key], load: Callable[[Path], Key]) -> Key:
        """The key in a file, which is made by whichever process comes first."""
        if self._folder is None:
            return make()
        path = self._folder / name
        if not path.exists():
            try:
                keyfiles.save_private(path, make())
            except UsageError:  # another process of this run was quicker
                if not path.exists():
                    raise
        return load(path)

    @cached_property
    def trust(self) -> Trust:
        """What every member believes."""
        return Trust(public_bytes(self._ca))

    @property
    def aggregator(self) -> Aggregator:
        """The aggregator, number 0, with a certificate that holds now."""
        key, certificate = self._certified(Role.AGGREGATOR, 0, self._aggregator)
        return Aggregator(key, certificate, self._sealing)

    def identity(self, vehicle: int) -> tuple[Ed25519PrivateKey, bytes]:
        """A vehicle's key and certificate; `vehicle` is the number that the certificate is to carry."""
        return self.member(vehicle, Role.VEHICLE)

    def member(self, node: int, role: Role) -> tuple[Ed25519PrivateKey, bytes]:
        """A node's key and a certificate for its role that holds now."""
        if role is Role.AGGREGATOR and node == 0:
            return self.aggregator[:2]
        known = self._known.get((role, node))
        return self._certified(role, node, known[0] if known else self._derived(role, node))

    @cached_property
    def _aggregator(self) -> Ed25519PrivateKey:
        return self._found("aggregator.key", Ed25519PrivateKey.generate, keyfiles.load_signing)

    @cached_property
    def _sealing(self) -> X25519PrivateKey:
        return self._found("sealing.key", X25519PrivateKey.generate, keyfiles.load_sealing)

    def _derived(self, role: Role, node: int) -> Ed25519PrivateKey:
        info = message(LABEL, VERSION, [bytes((role,)), node.to_bytes(8, "little")])
        secret = HKDF(SHA256(), 32, None, info).derive(self._ca.private_bytes_raw())
        return Ed25519PrivateKey.from_private_bytes(secret)

    def _certified(self, role: Role, node: int, key: Ed25519PrivateKey) -> tuple[Ed25519PrivateKey, bytes]:
        now, known = self.now(), self._known.get((role, node))
        if known is None or not known[1].begins <= now < known[1].ends - RENEWED:
            if len(self._known) >= KNOWN:
                self._known.clear()
            begins = max(0, int(now) - SKEW)
            certificate = issue(self._ca, role, node, public_bytes(key), begins=begins, days=DAYS)
            known = self._known[role, node] = key, certificate, certificate.encode()
        return known[0], known[2]
