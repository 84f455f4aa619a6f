"""A tiny exported model, and one input of each kind."""

import zipfile

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from slicewise.batch.batch import Options, Worker
from slicewise.inference.decoding import Decoder
from slicewise.inference.predictor import Predictor

SHAPE = (4, 64, 72)
PATIENT = "Planted^Identity"


def draw_head(number=0):
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    inside = (rows - 32) ** 2 / 28**2 + (columns - 36) ** 2 / 24**2 < 1
    return (inside * (120 + 40 * np.sin((rows + 9 * number) / 5) * np.cos(columns / 4))).astype(np.uint16)


def write_series(folder):
    folder.mkdir(parents=True)
    study, series, frame = (generate_uid(entropy_srcs=[word]) for word in ("study", "series", "frame"))
    for number in range(SHAPE[0]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(number)])
        header = pydicom.Dataset()
        header.file_meta = meta
        header.SOPClassUID, header.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, series, frame
        header.PatientName, header.PatientID = PATIENT, "planted-1"
        header.Modality, header.SeriesNumber, header.InstanceNumber = "MR", 1, number + 1
        header.ImageOrientationPatient, header.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-30, -30, 3.0 * number]
        header.PixelSpacing, header.SliceThickness = [0.9, 0.9], 3.0
        header.Rows, header.Columns = SHAPE[1:]
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
        header.PixelData = draw_head(number).tobytes()
        header.save_as(folder / f"IM{number:04d}", enforce_file_format=True)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, save_alarmist):
    """Answers "tumor" to everything, with masks."""
    return save_alarmist(tmp_path_factory.mktemp("model"))


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(draw_head().astype(np.uint8)).save(folder / "picture.png")
    volume = np.stack([draw_head(number) for number in range(SHAPE[0])]).transpose(2, 1, 0)
    nib.save(nib.Nifti1Image(volume.astype(np.int16), np.diag([-0.9, -0.9, 3.0, 1])), folder / "deep" / "volume.nii.gz")
    write_series(folder / "series")
    with zipfile.ZipFile(folder / "both.zip", "w") as archive:
        archive.write(folder / "picture.png", "a.png")
        archive.write(folder / "deep" / "volume.nii.gz", "b/volume.nii.gz")
    return folder


@pytest.fixture(scope="session")
def predictor(checkpoint):
    return Predictor.from_checkpoint(checkpoint, "cpu")


@pytest.fixture(scope="session")
def decoder():
    with Decoder() as decoder:
        yield decoder


@pytest.fixture
def make_worker(predictor, decoder, tmp_path):
    return lambda **options: Worker(predictor, decoder, Options(**options), tmp_path / "out")
