"""The German Traffic Sign Recognition Benchmark in its official folders.

Stallkamp et al. 2012, "Man vs. computer", Neural Networks 32: 43 classes, one physical sign a track, 30
frames a track as the car drives towards it. The layout is in docs/data.md.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from carpool.client.camera import npz
from carpool.client.camera.pictures import Progress, allocate, decode, prepared
from carpool.client.camera.samples import Pool, Schema
from carpool.client.camera.settings import DataSettings, Source
from carpool.client.camera.signs import SIGN
from carpool.privacy.errors import DataError

SIZE = 32
"""Pixels a side where the settings leave width or height at 0."""
COLUMNS = ("Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")
MAX_CSV_BYTES = 64 * 2**20
ROOTS = ("", "Final_Training/Images", "GTSRB/Final_Training/Images", "GTSRB/Training", "Training")
TESTS = ("Final_Test/Images", "GTSRB/Final_Test/Images", "GTSRB/Test", "Test")
LABELLED = "GT-final_test.csv"
TRACK = re.compile(r"(\d{1,5})_(\d{1,5})\.(?:ppm|png|jpg)")
TRACKS_A_CLASS = 100_000


@dataclass(frozen=True)
class Entry:
    """One line of a csv: where the picture lies, what it shows, which track and frame it is."""

    file: Path
    label: int
    group: int
    order: int


def load(settings: DataSettings, vehicles: int, progress: Progress | None = None) -> Source:
    """Training and, where its folder is there, test pictures: one view "front", one target "sign".

    Pictures are resized whole, margin included. group is (class, track), order the frame in the track; the
    data set does not know who drove, so vehicle is None. A path that ends in .npz goes to `npz.load`. Raises
    DataError naming the file for a missing folder, a wrong column, a class outside 0..42, a broken picture.
    """
    root = settings.path
    if root is None:
        raise DataError("data.path is empty; the source gtsrb needs the folder that holds Final_Training")
    if root.suffix.lower() == ".npz":
        return npz.load(settings, vehicles, progress)
    if not root.is_dir():
        raise DataError(f"data.path {root} is not a folder; name the one that holds Final_Training")
    training = training_entries(root)
    test = test_entries(root)
    width, height = settings.width or SIZE, settings.height or SIZE
    total, done = len(training) + len(test), 0

    def read(entries: Sequence[Entry]) -> Pool:
        nonlocal done
        frames = allocate(len(entries), 1, height, width, str(root))
        for row, entry in enumerate(entries):
            where = str(entry.file)
            picture = np.asarray(decode(entry.file, where))
            frames[row, 0] = prepared(picture, settings.pipeline, width, height, where)
            done += 1
            if progress is not None and (done % 256 == 0 or done == total):
                progress(done, total)
        return Pool(
            schema=Schema(("front",), height, width, (SIGN,)),
            frames=frames,
            targets={SIGN.name: np.array([entry.label for entry in entries], np.int64)},
            group=np.array([entry.group for entry in entries], np.int64),
            order=np.array([entry.order for entry in entries], np.int64),
        )

    return Source(read(training), read(test) if test else None)


def training_entries(root: Path) -> list[Entry]:
    """Every line of every class folder's csv, in the order of classes and lines."""
    images = next((root / name for name in ROOTS if class_folders(root / name)), None)
    if images is None:
        raise DataError(
            f"{root} has no class folders such as Final_Training/Images/00000 in it; "
            "name the folder into which GTSRB_Final_Training_Images.zip was unpacked"
        )
    entries = []
    for folder in class_folders(images):
        listing = folder / f"GT-{folder.name}.csv"
        for line, row in rows(listing):
            label = class_id(row, listing, line)
            if label != int(folder.name):
                raise DataError(f"{listing} line {line} has ClassId {label}; here it must be {folder.name}")
            match = TRACK.fullmatch(row["Filename"])
            if match is None:
                raise DataError(
                    f"{listing} line {line} names {row['Filename']!r}; it must be track_frame.ppm, "
                    "as in 00003_00012.ppm"
                )
            track, frame = int(match[1]), int(match[2])
            entries.append(Entry(folder / row["Filename"], label, label * TRACKS_A_CLASS + track, frame))
    if not entries:
        raise DataError(f"the csv files under {images} list no pictures; unpack the data set again")
    return entries


def test_entries(root: Path) -> list[Entry]:
    """The test set's lines, none where there is no test folder; a picture is a group of its own."""
    candidates = [root / name for name in TESTS]
    if root.name == "Images":
        candidates.append(root.parent.parent / "Final_Test/Images")
    folder = next((one for one in candidates if one.is_dir()), None)
    if folder is None:
        return []
    places = [folder, folder.parent, root, *([folder.parent.parent] if folder.name == "Images" else [])]
    listing = next((one / LABELLED for one in places if (one / LABELLED).is_file()), None)
    if listing is None:
        raise DataError(
            f"{folder} has no {LABELLED}, the list with ClassId (GT-final_test.test.csv has no labels); "
            f"take it from GTSRB_Final_Test_GT.zip and put it there"
        )
    return [
        Entry(folder / plain_name(row, listing, line), class_id(row, listing, line), number, 0)
        for number, (line, row) in enumerate(rows(listing))
    ]


def class_folders(images: Path) -> list[Path]:
    """The folders 00000, 00001, ... below `images` in order; none if it is not such a place."""
    if not images.is_dir():
        return []
    return sorted(one for one in images.iterdir() if re.fullmatch(r"\d{5}", one.name) and one.is_dir())


def rows(listing: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, named fields) of a GT csv; raises DataError for a missing file or column."""
    try:
        if listing.stat().st_size > MAX_CSV_BYTES:
            raise DataError(
                f"{listing} is above {MAX_CSV_BYTES // 2**20} MiB; it is not a GTSRB list, replace it"
            )
        text = listing.read_text(encoding="utf-8-sig")
        table = list(csv.reader(text.splitlines(), delimiter=";", strict=True))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{listing} cannot be read: {reason}; unpack the data set again") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{listing} is not a csv file ({error}); unpack the data set again") from error
    header = [name.strip() for name in table[0]] if table else []
    missing = [name for name in COLUMNS if name not in header]
    if missing == ["ClassId"]:
        raise DataError(f"{listing} has no column ClassId; the file with the labels is {LABELLED}")
    if missing:
        raise DataError(f"{listing} has no column {missing[0]}; its first line must be {';'.join(COLUMNS)}")
    result = []
    for line, fields in enumerate(table[1:], start=2):
        if not fields:
            continue
        if len(fields) != len(header):
            raise DataError(f"{listing} line {line} has {len(fields)} fields, not {len(header)}; repair it")
        result.append((line, dict(zip(header, fields, strict=True))))
    return result


def plain_name(row: dict[str, str], listing: Path, line: int) -> str:
    """The file name of a line; raises DataError if it could leave its folder."""
    name = row["Filename"]
    if not re.fullmatch(r"[\w-]+\.(?:ppm|png|jpg)", name):
        raise DataError(
            f"{listing} line {line} names {name!r}; it must be a plain file name such as 00000.ppm"
        )
    return name


def class_id(row: dict[str, str], listing: Path, line: int) -> int:
    """The class of a line, 0..42; raises DataError otherwise."""
    text = row["ClassId"]
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) < len(SIGN.classes)):
        raise DataError(f"{listing} line {line} has ClassId {text!r}; it must be 0..{len(SIGN.classes) - 1}")
    return int(text)
