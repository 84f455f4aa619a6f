"""Write the examples of the reading room: a generated cohort's slices, a volume, and a DICOM series.

    python tools/phantom_examples.py

The same files on every call, with the same versions of the libraries; they replace those in src/slicewise/ui/examples.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from slicewise.config import PhantomConfig
from slicewise.orientation import Orientation
from slicewise.sources.phantom import generate_phantom

FOLDER = Path(__file__).resolve().parents[1] / "src" / "slicewise" / "ui" / "examples"
SEED = 7
DATE = (2026, 1, 1, 0, 0, 0)


def write_series(volume: nib.Nifti1Image) -> bytes:
    """A zip of one DICOM file a slice."""
    voxels = np.asarray(volume.dataobj)
    orientation = Orientation.of(volume.affine, voxels.shape)
    slices = orientation.to_slices(voxels)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number, pixels in enumerate(slices):
            entry = zipfile.ZipInfo(f"phantom/IM{number:04d}.dcm", DATE)
            archive.writestr(entry, write_slice(pixels, number, orientation.spacing_mm), zipfile.ZIP_DEFLATED, 9)
    return stream.getvalue()


def write_slice(pixels: NDArray[np.int16], number: int, spacing_mm: tuple[float, float, float]) -> bytes:
    """An axial MR image; rows run from front to back, columns from the right to the left, slices upwards."""
    meta, header, stream = FileMetaDataset(), pydicom.Dataset(), io.BytesIO()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = header.SOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = generate_uid(entropy_srcs=["slicewise phantom", str(number)])
    header.file_meta = meta
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(header, keyword, generate_uid(entropy_srcs=["slicewise phantom", keyword]))
    header.PatientName, header.PatientID, header.PatientBirthDate, header.PatientSex = "Phantom", "phantom", "", ""
    header.StudyID, header.AccessionNumber, header.ReferringPhysicianName = "1", "", ""
    header.StudyDate, header.StudyTime = "20260101", "000000"
    header.StudyDescription, header.SeriesDescription = "Generated phantom", "FLAIR"
    header.Modality, header.Manufacturer, header.SeriesNumber, header.InstanceNumber = "MR", "slicewise", 1, number + 1
    header.ImageType = ["DERIVED", "SECONDARY"]
    header.ScanningSequence, header.SequenceVariant, header.ScanOptions, header.MRAcquisitionType = "IR", "SK", "", "2D"
    header.EchoTime, header.EchoTrainLength, header.RepetitionTime, header.InversionTime = 90, 16, 9000, 2500
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    between_slices, between_rows, between_columns = spacing_mm
    header.ImagePositionPatient = [-120.0, -120.0, between_slices * number]
    header.PixelSpacing, header.SliceThickness, header.SpacingBetweenSlices = (
        [between_rows, between_columns],
        3,
        between_slices,
    )
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
    header.PixelData = pixels.astype("<i2").tobytes()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def main() -> None:
    """Generate the cohort, and keep four files of it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        cohort = Path(scratch) / "cohort"
        generate_phantom(PhantomConfig(patients=6, pictures=6), SEED, cohort)
        taken = {
            "phantom_tumor.jpg": "pictures/yes/picture_0005.jpg",
            "phantom_no_tumor.jpg": "pictures/no/picture_0002.jpg",
            "phantom_volume.nii.gz": "studies/BraTS2021_90004/BraTS2021_90004_flair.nii.gz",
        }
        for name, path in taken.items():
            (FOLDER / name).write_bytes((cohort / path).read_bytes())
        volume = nib.load(cohort / "studies/BraTS2021_90005/BraTS2021_90005_flair.nii.gz")
        (FOLDER / "phantom_series.zip").write_bytes(write_series(volume))


if __name__ == "__main__":
    main()
