import gzip
import itertools

import nibabel as nib
import numpy as np
import pytest

from slicewise.errors import InputError
from slicewise.inference.nifti_out import make_nifti, write_nifti
from slicewise.inference.result import Result
from slicewise.orientation import Orientation
from slicewise.records import Scan
from slicewise.sources.nifti import read_volume

SHAPE = (5, 6, 4)
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def oblique():
    """Turned by 10° about one axis and 5° about another, off the origin."""
    first, second = np.deg2rad((10, 5))
    about_z = np.array([[np.cos(first), -np.sin(first), 0], [np.sin(first), np.cos(first), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(second), -np.sin(second)], [0, np.sin(second), np.cos(second)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag((1.0, 2.0, 3.5))
    affine[:3, 3] = -11.3, 20.7, 5.1
    return affine


def make_source():
    """A corner that is bright, so that every axis and its direction can be told."""
    voxels = np.zeros(SHAPE, np.int16)
    voxels[0, 1:3, -1] = voxels[1, 1, -1] = voxels[0, 1, -2] = 500
    return nib.Nifti1Image(voxels, oblique())


def save(folder, image, name="scan.nii.gz"):
    nib.save(image, folder / name)
    return folder / name


def result_of(scan, masks=None):
    """The bright voxels are the tumor."""
    masks = scan.slices > 100 if masks is None else masks
    positive = masks.any(axis=(1, 2))
    probabilities = positive.astype(float)
    return Result(scan, probabilities, probabilities, positive, masks, 0.5, "0123456789ab", "none")


def write_and_read(folder, result, name="mask.nii.gz"):
    write_nifti(make_nifti(result), folder / name)
    return nib.load(folder / name)


def positions(image):
    """Where the voxels that are not 0 lie in RAS+ space, in any order."""
    return np.array(sorted(nib.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj))).round(4).tolist()))


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
def test_in_all_48_orientations_the_mask_comes_back_where_it_was(tmp_path, axes, flips):
    straight = make_source()
    turned = straight.as_reoriented(np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)], dtype=float))
    source = nib.load(save(tmp_path, turned))
    written = make_nifti(result_of(read_volume(tmp_path / "scan.nii.gz")))
    mask = nib.Nifti1Image.from_bytes(written.to_bytes())
    assert mask.shape == source.shape
    assert np.array_equal(mask.affine, source.affine)
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(source.dataobj) > 100)
    assert np.allclose(positions(mask), positions(straight), atol=1e-3)


@pytest.mark.parametrize(("qform", "sform"), [(1, 1), (1, 0), (0, 2), (3, 4), (0, 0)])
@pytest.mark.parametrize("shape", [SHAPE, (*SHAPE, 1)])
def test_what_a_header_says_of_place_is_kept(tmp_path, qform, sform, shape):
    image = nib.Nifti1Image(np.asarray(make_source().dataobj).reshape(shape), oblique())
    image.set_qform(oblique(), qform)
    image.set_sform(oblique(), sform)
    image.header.set_xyzt_units("mm", "sec")
    source = nib.load(save(tmp_path, image))
    mask = write_and_read(tmp_path, result_of(read_volume(tmp_path / "scan.nii.gz")))
    assert mask.shape == shape
    assert mask.get_data_dtype() == np.uint8
    assert (int(mask.header["qform_code"]), int(mask.header["sform_code"])) == (qform, sform)
    assert mask.header.get_xyzt_units() == ("mm", "sec")
    assert mask.header.get_zooms() == source.header.get_zooms()
    assert np.array_equal(mask.affine, source.affine)
    assert np.array_equal(mask.header.get_qform(), source.header.get_qform())
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(source.dataobj) > 100)


def test_nothing_else_of_the_header_is_kept(tmp_path):
    image = make_source()
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = b"Jane Doe"
    image.header["cal_max"] = 500
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    mask = make_nifti(result_of(read_volume(save(tmp_path, image))))
    assert b"Jane Doe" not in mask.to_bytes()
    assert mask.header["cal_max"] == 0


@pytest.mark.parametrize("change", ["removed", "damaged", "another shape", "another place"])
def test_a_source_that_is_not_there_any_more_is_not_needed(tmp_path, change):
    file = save(tmp_path, make_source())
    result = result_of(read_volume(file))
    if change == "removed":
        file.unlink()
    elif change == "damaged":
        file.write_bytes(b"damaged")
    elif change == "another shape":
        nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), oblique()), file)
    else:
        nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4)), file)
    mask = write_and_read(tmp_path, result)
    assert np.allclose(mask.affine, oblique(), atol=1e-5)
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(make_source().dataobj) > 100)
    assert (int(mask.header["qform_code"]), int(mask.header["sform_code"])) == (2, 2)


def make_dicom(affine):
    """Frames from inferior to superior, rows to posterior, columns to the left, as scanners write them."""
    grid = (4, 6, 5)
    frames = np.zeros(grid, np.float32)
    frames[0, 1, 2:4] = frames[1, 1, 2] = 500
    orientation = Orientation.of(affine, grid)
    scan = Scan(
        orientation.to_slices(frames),
        kind="dicom",
        name="series-1",
        plane=orientation.plane,
        spacing_mm=orientation.spacing_mm[1:],
        slice_spacing_mm=orientation.spacing_mm[0],
        orientation=orientation,
        grid_shape=grid,
        affine=affine,
    )
    return frames, scan


def test_a_dicom_series_keeps_its_axes_and_its_place(tmp_path):
    affine = np.array([[0, 0, -1.0, 100], [0, -2.0, 0, 50], [3.0, 0, 0, -40], [0, 0, 0, 1]])
    frames, scan = make_dicom(affine)
    mask = write_and_read(tmp_path, result_of(scan), "mask.nii")
    assert np.array_equal(np.asarray(mask.dataobj), frames > 100)
    assert np.array_equal(mask.affine, affine)
    assert np.allclose(mask.header.get_qform(), affine)
    assert (int(mask.header["qform_code"]), int(mask.header["sform_code"])) == (1, 1)
    assert mask.header.get_xyzt_units()[0] == "mm"


def test_a_sheared_series_has_no_qform_which_could_not_say_it(tmp_path):
    affine = np.array([[0, 0, -1.0, 100], [0.8, -2.0, 0, 50], [3.0, 0, 0, -40], [0, 0, 0, 1]])
    mask = write_and_read(tmp_path, result_of(make_dicom(affine)[1]))
    assert np.allclose(mask.affine, affine, atol=1e-5)
    assert (int(mask.header["qform_code"]), int(mask.header["sform_code"])) == (0, 1)


def test_a_picture_lies_nowhere():
    scan = Scan(np.zeros((1, 4, 5), np.float32), kind="picture", name="photo", grid_shape=(4, 5))
    with pytest.raises(InputError, match=r"photo does not\. Write a PNG"):
        make_nifti(result_of(scan))


@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz", "mask.NII.GZ"])
def test_the_same_mask_gives_the_same_bytes_under_any_name(tmp_path, name, monkeypatch):
    result = result_of(read_volume(save(tmp_path, make_source())))
    write_nifti(make_nifti(result), tmp_path / "a" / name)
    monkeypatch.setattr("time.time", lambda: 1e9)
    write_nifti(make_nifti(result), tmp_path / "b" / f"other-{name}")
    first = (tmp_path / "a" / name).read_bytes()
    assert first == (tmp_path / "b" / f"other-{name}").read_bytes()
    assert [file.name for file in (tmp_path / "a").iterdir()] == [name], "nothing but the file is left"
    if name.lower().endswith(".gz"):
        assert first[:4] == b"\x1f\x8b\x08\x00", "no name in the header"
        assert first[4:8] == bytes(4), "no time in the header"
        first = gzip.decompress(first)
    assert len(first) == 352 + np.prod(SHAPE)


def test_an_empty_mask_is_written_as_such(tmp_path):
    scan = read_volume(save(tmp_path, make_source()))
    mask = write_and_read(tmp_path, result_of(scan, np.zeros(scan.slices.shape, bool)))
    assert not np.asarray(mask.dataobj).any()
