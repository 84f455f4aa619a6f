"""A service in a process of its own, as a person would start it, and what is sent to it."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import httpx
import nibabel as nib
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

KEY = "secret"
SHAPE = (4, 64, 72)

START = """
import json, os, sys
from slicewise.service.server import serve
from slicewise.service.settings import ServiceSettings, keys_from
serve(ServiceSettings(**json.loads(sys.argv[1]), keys=keys_from(os.environ)))
"""


class Service:
    """Started; ready when entered."""

    def __init__(self, model, log, keys=f"{KEY},other", **settings):
        self.log = log
        defaults = {"model": str(model), "port": 0, "workers": 1, "threads": 1}
        environment = {name: value for name, value in os.environ.items() if name != "SLICEWISE_API_KEYS"}
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, json.dumps(defaults | settings)],
                # Killed, it leaves its temporary folder behind: here, where it is in nobody's way.
                env=environment | {"TMPDIR": str(log.parent)} | ({"SLICEWISE_API_KEYS": keys} if keys else {}),
                stderr=stream,
                start_new_session=True,
            )
        self.client = None

    def __enter__(self):
        try:
            port = self.wait_for("listening")["port"]
            headers = {"Authorization": f"Bearer {KEY}"}
            self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60)
            wait_until(lambda: self.client.get("/readyz").status_code == 200)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *error):
        self.client.close()
        if self.process.poll() is None:
            self.stop()

    def stop(self):
        self.process.terminate()
        try:
            return self.process.wait(20)
        finally:
            self.kill()

    def kill(self):
        """Without a word, its workers with it where they hang."""
        for pid in self.workers():
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue
        self.process.kill()
        self.process.wait()

    def lines(self, event=None):
        """Of the log; a last one that is not whole yet is left out."""
        whole = self.log.read_text().rpartition("\n")[0].splitlines()
        return [line for line in map(json.loads, whole) if event in (None, line["event"])]

    def wait_for(self, event, count=1):
        return wait_until(lambda: (self.process.poll() is None and self.lines(event)[count - 1 : count]) or None)[0]

    def workers(self, pool="slices"):
        ended = [line["pid"] for line in self.lines("worker-ended")]
        return [line["pid"] for line in self.lines("worker-ready") if line["pool"] == pool and line["pid"] not in ended]

    def predict(self, content, path="/v1/predict", name="slice.png", **options):
        return self.client.post(path, files={"file": (name, content)}, **options)

    def finish(self, study):
        """Wait for a study to end."""
        ended = ("done", "failed", "cancelled", "lost")
        return wait_until(
            lambda: (status := self.client.get(f"/v1/studies/{study}").json())["status"] in ended and status, 40
        )

    def metric(self, name):
        lines = self.client.get("/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(name))


def wait_until(find, seconds=30):
    end = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < end, "nothing came of it in time"
        time.sleep(0.02)
    return found


def is_problem(answer, status, name):
    """The one shape of errors."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    fields = answer.json()
    assert fields["type"] == f"urn:slicewise:problem:{name}"
    assert fields["status"] == status
    assert fields["request_id"] == answer.headers["x-request-id"]
    return True


def draw_head(number=0):
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    inside = (rows - 32) ** 2 / 28**2 + (columns - 36) ** 2 / 24**2 < 1
    return (inside * (120 + 40 * np.sin((rows + 9 * number) / 5) * np.cos(columns / 4))).astype(np.uint16)


def picture(number=0, name="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(draw_head(number).astype(np.uint8)).save(stream, name, **options)
    return stream.getvalue()


def volume(note=b""):
    voxels = np.stack([draw_head(number) for number in range(SHAPE[0])]).transpose(2, 1, 0)
    image = nib.Nifti1Image(voxels.astype(np.int16), np.diag([-0.9, -0.9, 3.0, 1]))
    image.header["descrip"] = note
    return image.to_bytes()


def dicom(number=0, patient="Planted^Identity"):
    meta, header, stream = FileMetaDataset(), pydicom.Dataset(), io.BytesIO()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = header.SOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = generate_uid(entropy_srcs=[str(number)])
    header.file_meta = meta
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(header, keyword, generate_uid(entropy_srcs=[keyword]))
    header.PatientName, header.PatientID, header.StudyDescription = patient, patient, patient
    header.Modality, header.SeriesNumber, header.InstanceNumber = "MR", 1, number + 1
    header.ImageOrientationPatient, header.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-30, -30, 3.0 * number]
    header.PixelSpacing, header.SliceThickness = [0.9, 0.9], 3.0
    header.Rows, header.Columns = SHAPE[1:]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    header.PixelData = draw_head(number).tobytes()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def archive(**contents):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in contents.items():
            made.writestr(name, content)
    return stream.getvalue()
