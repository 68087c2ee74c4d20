"""The formats of labelled images that are read, and which one a folder holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, UnknownNameError
from .coco import coco_files, read_coco
from .files import image_files
from .image_folder import class_folders, read_image_folder
from .pack_reader import is_cls_pack, is_det_pack, read_packs
from .records import Listing
from .voc import annotation_files, read_voc
from .yolo import label_files, names_file, read_yolo


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One way of keeping labelled images on disk.

    Attributes:
        name: As in ``--format`` and in a recipe.
        needs: What a folder must hold, for people.
        fits: Whether a folder holds that; parses nothing.
        read: The records of a folder: (folder, list of classes or empty) to a listing.
    """

    name: str
    needs: str
    fits: Callable[[Path], bool]
    read: Callable[[Path, Sequence[str]], Listing]


def _fits_pack(folder: Path) -> bool:
    return is_det_pack(folder) or is_cls_pack(folder)


def _fits_coco(folder: Path) -> bool:
    return bool(image_files(folder).paths) and bool(coco_files(folder))


def _fits_yolo(folder: Path) -> bool:
    return bool(label_files(folder)) and names_file(folder) is not None


def _fits_voc(folder: Path) -> bool:
    return (folder / "JPEGImages").is_dir() and bool(annotation_files(folder))


def _fits_image_folder(folder: Path) -> bool:
    return len(set().union(*class_folders(folder).values())) > 1


FORMATS = {
    form.name: form
    for form in (
        Format(
            name="coco",
            needs="one or more .json files with 'images', 'annotations' and 'categories' (at the "
            "top, or in annotations/, train/, val/, test/), and the image files below the folder",
            fits=_fits_coco,
            read=read_coco,
        ),
        Format(
            name="yolo",
            needs="images/ and labels/ (or train/images/ and train/labels/ and so on) with one "
            ".txt per image, and data.yaml or classes.txt with the class names",
            fits=_fits_yolo,
            read=read_yolo,
        ),
        Format(
            name="voc",
            needs="JPEGImages/, and Annotations/ with one .xml per image; perhaps "
            "ImageSets/Main/ with train.txt, val.txt and test.txt",
            fits=_fits_voc,
            read=read_voc,
        ),
        Format(
            name="imagefolder",
            needs="one folder of images per class, two classes at least, at the top or below "
            "train/, val/ and test/",
            fits=_fits_image_folder,
            read=read_image_folder,
        ),
        Format(
            name="pack",
            needs="images.npz and annotations.json; or train.npz, val.npz and classes.json",
            fits=_fits_pack,
            read=read_packs,
        ),
    )
}


def format_of(folder: Path, name: str = "") -> Format:
    """The format of a data folder.

    A folder per class is only looked for where no annotation was found: every other format has
    folders of images as well.

    Args:
        folder: The data folder.
        name: Name of the format, or "" to recognise it from what lies in the folder.

    Raises:
        DataError: There is no such folder, or none or several of the formats fit.
        UnknownNameError: There is no format of that name.
    """
    if not folder.is_dir():
        raise DataError(f"There is no data folder {folder}.", hints=["pass it as --data DIR"])
    if name:
        if name not in FORMATS:
            raise UnknownNameError.with_suggestion(
                "data format", name, FORMATS, listing="--format " + "|".join(FORMATS)
            )
        return FORMATS[name]
    annotated = [form for form in FORMATS.values() if form.name != "imagefolder"]
    found = [form for form in annotated if form.fits(folder)]
    if not found and FORMATS["imagefolder"].fits(folder):
        return FORMATS["imagefolder"]
    if len(found) == 1:
        return found[0]
    needs = [f"{form.name}: {form.needs}" for form in found or FORMATS.values()]
    if found:
        names = " and ".join(form.name for form in found)
        raise DataError(
            f"{folder} holds data in several formats: {names}.",
            hints=[f"--format {'|'.join(form.name for form in found)} says which", *needs],
        )
    raise DataError(
        f"{folder} holds no labelled images in a format that is known.",
        hints=["give the folder what one of the formats needs", *needs],
    )
