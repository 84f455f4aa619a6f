import gzip
import itertools
import struct

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slicewise.errors import UnreadableFileError
from slicewise.sources.nifti import read_volume

SHAPE = (5, 6, 4)
SPACING = (1.0, 2.0, 3.0)


def make_ras():
    """Intensity grows to the right, faster to anterior, fastest to superior: every axis can be told from the picture."""
    x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    return nib.Nifti1Image((x + 10 * y + 100 * z).astype(np.float32), np.diag([*SPACING, 1.0]))


def save(folder, image, name="volume.nii.gz"):
    nib.save(image, folder / name)
    return folder / name


ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
def test_all_48_orientations_are_the_same_volume(tmp_path, axes, flips):
    straight = make_ras()
    turned = straight.as_reoriented(np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)], dtype=float))
    volume = read_volume(save(tmp_path, turned, "volume.nii"))
    expected = np.asarray(straight.dataobj)[::-1, ::-1, :].transpose(2, 1, 0)
    assert np.array_equal(volume.slices, expected)
    assert (volume.slice_spacing_mm, *volume.spacing_mm) == (3.0, 2.0, 1.0)


def test_a_slice_looks_as_radiologists_expect(tmp_path):
    """Anterior on top, the patient's right on the left of the picture, superior last."""
    voxels = read_volume(save(tmp_path, make_ras())).slices
    assert voxels.shape == (4, 6, 5)
    assert voxels[0, 0, 0] > voxels[0, -1, 0]
    assert voxels[0, 0, 0] > voxels[0, 0, -1]
    assert voxels[-1].mean() > voxels[0].mean()


def test_the_affine_still_says_where_each_voxel_is(tmp_path):
    volume = read_volume(save(tmp_path, make_ras()))
    depth, row, column = 3, 1, 2
    x, y, z, _ = volume.slice_affine @ [depth, row, column, 1]
    assert volume.slices[depth, row, column] == x / SPACING[0] + 10 * y / SPACING[1] + 100 * z / SPACING[2]


def test_an_oblique_volume_goes_to_the_nearest_axes(tmp_path):
    angle = np.deg2rad(10)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(SPACING)
    image = nib.Nifti1Image(np.asarray(make_ras().dataobj), affine)
    assert np.array_equal(read_volume(save(tmp_path, image)).slices, read_volume(save(tmp_path, make_ras(), "b.nii")).slices)


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 2)])
def test_which_side_is_right_is_not_made_up(tmp_path, codes):
    """NIfTI-1: with both codes 0, the header has no directions, and nibabel takes some."""
    image = make_ras()
    image.header["qform_code"], image.header["sform_code"] = codes
    file = tmp_path / "volume.nii"
    image.to_filename(file)
    with file.open("r+b") as stream:  # nibabel sets the codes to those of its own affine
        stream.seek(252)
        stream.write(struct.pack("<2h", *codes))
    volume = read_volume(file)
    assert (volume.plane == "unknown") == (codes == (0, 0))
    assert [concern.rule for concern in volume.concerns] == ["no-geometry"] * (codes == (0, 0))
    assert volume.spacing_mm is not None


def test_scaling_in_the_header_is_applied_and_a_single_fourth_axis_dropped(tmp_path):
    image = nib.Nifti1Image(np.ones((2, 3, 4, 1), np.int16), np.eye(4))
    image.header.set_slope_inter(2.0, 5.0)
    file = save(tmp_path, image)
    assert read_volume(file).slices.shape == (4, 3, 2)


def broken_images():
    voxels = np.ones((3, 3, 3), np.float32)
    nan_affine = np.eye(4)
    nan_affine[0, 0] = np.nan
    with_nan = voxels.copy()
    with_nan[0, 0, 0] = np.nan
    return {
        "four dimensions": (nib.Nifti1Image(np.ones((3, 3, 3, 2), np.float32), np.eye(4)), "three dimensions"),
        "colors": (nib.Nifti1Image(np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4)), "real numbers"),
        "complex": (nib.Nifti1Image(np.ones((3, 3, 3), np.complex64), np.eye(4)), "real numbers"),
        "flat": (nib.Nifti1Image(np.ones((3, 3), np.float32), np.eye(4)), "three dimensions"),
        "NaN voxel": (nib.Nifti1Image(with_nan, np.eye(4)), "NaN"),
    }


@pytest.mark.parametrize("kind", list(broken_images()))
def test_impossible_volumes_are_refused(tmp_path, kind):
    image, message = broken_images()[kind]
    with pytest.raises(UnreadableFileError, match=message):
        read_volume(save(tmp_path, image))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 351), value=st.integers(0, 255))
def test_a_damaged_header_is_read_or_refused_and_nothing_else(tmp_path, capfd, place, value):
    content = bytearray(nib.Nifti1Image(np.ones((3, 4, 5), np.int16), np.eye(4)).to_bytes())
    content[place] = value
    file = tmp_path / "volume.nii"
    file.write_bytes(content)
    refusal = ""
    try:
        assert np.isfinite(read_volume(file).slices).all()
    except UnreadableFileError as error:
        refusal = str(error)
    assert refusal == "" or "volume.nii" in refusal
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_truncated_files_are_refused(tmp_path, keep):
    voxels = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    file = save(tmp_path, nib.Nifti1Image(voxels, np.eye(4)))
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if keep == 0.5 else keep])
    with pytest.raises(UnreadableFileError, match=r"volume\.nii\.gz"):
        read_volume(file)


def test_too_many_voxels_are_refused_by_the_header(tmp_path):
    file = save(tmp_path, nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)), "volume.nii")
    content = bytearray(file.read_bytes())
    content[42:48] = np.array([30_000, 30_000, 30_000], dtype=np.int16).tobytes()
    file.write_bytes(content)
    with pytest.raises(UnreadableFileError, match="voxels"):
        read_volume(file)


@pytest.mark.parametrize("start", [2e9, -1.0, np.nan])
@pytest.mark.parametrize("order", ["<", ">"])
def test_voxels_that_begin_far_into_the_file_are_refused_by_the_header(tmp_path, start, order):
    """An extension of two gigabytes, which deflates to nothing, would be read before anything of it is looked at."""
    header = nib.Nifti1Header(endianness=order)
    header.set_data_shape((2, 2, 2))
    content = bytearray(header.binaryblock)
    content[108:112] = np.array([start], dtype=f"{order}f4").tobytes()
    content[344:348] = b"n+1\0"
    file = tmp_path / "volume.nii.gz"
    file.write_bytes(gzip.compress(bytes(content) + bytes(4_000_000)))
    with pytest.raises(UnreadableFileError, match="without extensions"):
        read_volume(file)
