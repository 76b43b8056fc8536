"""Importers: recordings of other formats become LeRobotDataset v3 folders, by worldsim's own writer."""

from pathlib import Path

from worldsim.data.importers.convert import ImportOptions, ImportSummary, import_episodes
from worldsim.data.importers.rlds import FEATURES, RldsSource
from worldsim.data.importers.robomimic import SUFFIXES, RobomimicSource
from worldsim.errors import InvalidInputError, StorageError
from worldsim.progress import Progress, silent

__all__ = ["ImportOptions", "ImportSummary", "import_dataset"]


def import_dataset(
    source: str | Path, out: str | Path, options: ImportOptions | None = None, *, progress: Progress = silent
) -> ImportSummary:
    """Import recordings: an RLDS folder (Open X-Embodiment), or HDF5 files of robomimic or LIBERO.

    Args:
        source: The folder or file; what it is, is seen from its files.
        out: Dataset folder to make.
        options: What to take from it.
        progress: Called as it advances.

    Raises:
        StorageError: There is nothing, or a file is damaged or hostile; it is named.
        InvalidInputError: It is of no known format, or cannot be taken as asked.
        MissingExtraError: HDF5 files need h5py.
    """
    path, options = Path(source).expanduser(), options or ImportOptions()
    if not path.exists():
        raise StorageError(f"There is nothing at {path}. Check the path.")
    if path.suffix in SUFFIXES or (path.is_dir() and any(p.suffix in SUFFIXES for p in path.iterdir())):
        return import_episodes(RobomimicSource(path, options), Path(out), options, progress=progress)
    if path.is_dir() and any(any(path.glob(f"{pattern}{FEATURES}")) for pattern in ("", "*/", "*/*/")):
        return import_episodes(RldsSource(path, options), Path(out), options, progress=progress)
    if (path / "meta" / "info.json").is_file():
        raise InvalidInputError(
            f"{path} is a LeRobotDataset already: give it to `worldsim inspect` or `train` as it is."
        )
    raise InvalidInputError(
        f"{path} is of no known format. Known are RLDS folders (with {FEATURES}) and HDF5 files of robomimic or LIBERO "
        f"({', '.join(SUFFIXES)})."
    )
