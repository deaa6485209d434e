"""Small wheels and sdists, in folders that pip takes for its only index."""

import hashlib
import io
import tarfile
import zipfile

from fft.disk.packages import Package


def write_wheel(folder, name, version, files):
    """Write the wheel of a package with these {member: content} into `folder`; return it as a Package."""
    folder.mkdir(exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, content in files.items():
            wheel.writestr(member, content)
        wheel.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
    return Package(name, version, hashlib.sha256(path.read_bytes()).hexdigest())


def use_index(folder, cache, monkeypatch):
    """Let pip take `folder` for its only index, and fft `cache` for its cache."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def add(archive, name, content):
    """Add a file to an open tar archive."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
