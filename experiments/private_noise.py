"""The noise that the server of a run adds, and what it must remember of it.

RUN/keys/matrix.secret   what the noise of `matrix` follows from, mode 0600
RUN/keys/draws.secret    what cohorts are drawn by where epsilon counts on that being secret, mode 0600
RUN/participation        of `matrix`: who took part when
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carpool.experiments.simfleet import KEYS
from carpool.privacy import keyfiles
from carpool.privacy.dp.grid import Grid, Total, gaussian
from carpool.privacy.dp.protection import Protection
from carpool.privacy.dp.randomness import bits_of
from carpool.privacy.errors import PrivacyRefused, RunError
from carpool.server import released
from carpool.server.private import Noise

if TYPE_CHECKING:
    from carpool.privacy.dp import matrix
    from carpool.privacy.dp.participation import ParticipationFile

PARTICIPATION = "participation"
SECRET = "matrix.secret"  # noqa: S105
DRAWS = "draws.secret"


def central_noise(protection: Protection, seed: int) -> Noise:
    """The noise of `central`: fresh at every call, or, NOT PRIVATE, the same for the same round."""
    own = bits_of(True, seed, "central") if protection.private else None

    def drawn(grid: Grid, at: int) -> Total:
        bits = own or bits_of(False, seed, f"central/{at}")
        return gaussian(bits, protection.noise_multiplier, grid.size)

    return drawn


class MatrixStream:
    """The noise of `matrix`, round after round; it goes on where a killed process stood.

    Raises RunError where the noise is not what it was, PrivacyRefused where its key is gone.
    """

    def __init__(
        self, plan: matrix.Plan, width: float, size: int, folder: Path, run: str, seed: int | None
    ) -> None:
        """seed: of noise that is NOT PRIVATE, None: its key is a secret of the run's folder."""
        from carpool.privacy.dp.matrix_noise import MatrixNoise

        last = released.read(folder)
        secret: bytes | int = matrix_secret(folder, fresh=last is None) if seed is None else seed
        self._noise = MatrixNoise(plan, width, size, secret)
        if last is not None and last.run == run:
            mark = last.facts.get("noise") or {}
            try:
                at, digest = int(mark["round"]), bytes.fromhex(mark["digest"])
            except (LookupError, TypeError, ValueError) as error:
                raise RunError(f"{folder / released.NAME} does not say where its noise stood") from error
            self._noise.forward(at, digest)

    def __call__(self, grid: Grid, at: int) -> Total:
        """The noise of a round, int64 [d]; raises PrivacyRefused for one that is over: once is enough."""
        if self._noise.round >= at:
            raise PrivacyRefused(
                f"the noise of round {at} was put on a sum before; on another one it would hide nothing"
            )
        while self._noise.round < at - 1:  # that of void rounds is skipped
            self._noise.next()
        return self._noise.next()

    def mark(self) -> dict[str, Any]:
        """Where it stands, for the next process."""
        return {"round": self._noise.round, "digest": self._noise.digest().hex()}


def matrix_secret(folder: Path, *, fresh: bool) -> bytes:
    """16 bytes that all the noise of a training follows from; made once, mode 0600.

    fresh: whether it may be made now; raises PrivacyRefused where it is gone.
    """
    path = folder / KEYS / SECRET
    if not path.exists():
        if not fresh:
            raise PrivacyRefused(f"{path} is gone, and noise of another key would hide nothing; restore it")
        keyfiles.private_folder(path.parent)
        keyfiles.save_secret(path, secrets.token_bytes(keyfiles.SECRET))
    return keyfiles.load_secret(path)[:16]


def secret_seed(folder: Path) -> int:
    """What draws cohorts where nobody may know who was drawn; made once, mode 0600."""
    path = folder / KEYS / DRAWS
    if not path.exists():
        keyfiles.private_folder(path.parent)
        keyfiles.save_secret(path, secrets.token_bytes(keyfiles.SECRET))
    return int.from_bytes(keyfiles.load_secret(path)[:16], "little")


def participation(folder: Path, plan: matrix.Plan) -> ParticipationFile:
    """Who took part when, by node, on disk."""
    from carpool.privacy.dp.participation import ParticipationFile

    path = folder / PARTICIPATION
    return ParticipationFile(path, plan.schema, plan.rounds, resume=path.exists())
