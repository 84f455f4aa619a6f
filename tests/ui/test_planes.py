import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slicewise.orientation import Orientation
from slicewise.ui.planes import cut_volume


def body():
    """RAS+ array (right, anterior, superior), every voxel of another value."""
    return np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)


# Right to left is falling x, anterior to posterior falling y, superior to inferior falling z.
AXIAL, CORONAL, SAGITTAL = (
    lambda z: body()[::-1, ::-1, z].T,
    lambda y: body()[::-1, y, ::-1].T,
    lambda x: body()[x, ::-1, ::-1].T,
)


@given(
    place=st.tuples(*(st.integers(0, size - 1) for size in (4, 5, 6))),
    plane=st.sampled_from(["axial", "coronal", "sagittal"]),
)
def test_three_planes_are_those_of_a_radiologist_whatever_the_slices_are(place, plane):
    # Thick along the axis that the plane lies across.
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    spacing = np.ones(3)
    spacing[axis] = 2.0
    orientation = Orientation.of(np.diag([*spacing, 1.0]), body().shape)
    assert orientation.plane == plane
    slices = orientation.to_slices(body())
    index = tuple(int(where[0]) for where in np.where(slices == body()[place]))
    cuts = cut_volume(slices, slices % 2 == 0, np.array(orientation.spacing_mm), plane, index)
    assert cuts[0].plane == plane
    found = {cut.plane: cut for cut in cuts}
    for cut in cuts:
        assert cut.values[cut.cross] == body()[place], "the lines cross in the voxel"
    x, y, z = place
    expected = {"axial": AXIAL(z), "coronal": CORONAL(y), "sagittal": SAGITTAL(x)}
    assert found.keys() == expected.keys()
    for name, cut in found.items():
        assert np.array_equal(cut.values, expected[name]), name
        assert np.array_equal(cut.mask, expected[name] % 2 == 0), name
    assert found["axial"].spacing_mm == (spacing[1], spacing[0])
    assert found["coronal"].spacing_mm == (spacing[2], spacing[0])
    assert found["sagittal"].spacing_mm == (spacing[2], spacing[1])


def test_unknown_spacing_and_plane_are_not_made_up():
    volume = np.zeros((3, 4, 5), np.uint16)
    cuts = cut_volume(volume, volume > 0, np.array([np.nan, 1.0, 1.0]), "unknown", (0, 0, 0))
    assert [cut.plane for cut in cuts] == ["unknown", "across rows", "across columns"]
    assert [cut.spacing_mm for cut in cuts] == [(1.0, 1.0), None, None]
