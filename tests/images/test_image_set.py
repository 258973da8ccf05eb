from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rwkvquant.errors import ConfigError, ImageError
from rwkvquant.images import Preprocessing, open_image_set
from rwkvquant.images import npz as npz_module
from rwkvquant.images.image_set import image_set_of
from tests.images.files import encoded, in_one_array, random_image, write_npz

IMAGES = np.stack([random_image(seed=seed) for seed in range(5)])


def write_folder(root: Path, files: dict[str, int]) -> Path:
    for name, seed in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(IMAGES[seed], "PNG"))
    return root


def test_a_folder_has_its_images_in_the_order_of_their_names(tmp_path: Path) -> None:
    images = open_image_set(write_folder(tmp_path, {"b.png": 1, "a.PNG": 0, "c.png": 2}))
    (tmp_path / "notes.txt").write_text("no image")
    assert images.names == ("a.PNG", "b.png", "c.png") and images.labels is None
    for index in range(3):
        np.testing.assert_array_equal(images.read(index), IMAGES[index])


def test_folders_in_a_folder_are_classes(tmp_path: Path) -> None:
    images = open_image_set(write_folder(tmp_path, {"dog/x.png": 0, "cat/y.png": 1, "cat/z.png": 2}))
    assert images.folders == ("cat", "dog") and images.labels is not None and images.labels.tolist() == [0, 0, 1]
    assert images.classes_of(["bird", "dog", "cat"], 3).tolist() == [2, 2, 1]  # by name
    assert images.classes_of([], 2).tolist() == [0, 0, 1]  # by order
    with pytest.raises(ImageError, match="a folder for each class must have the class's name or number, or there must be 3 folders"):
        images.classes_of(["a", "b", "c"], 3)


def test_folders_with_numbers_are_the_numbers_of_classes(tmp_path: Path) -> None:
    images = open_image_set(write_folder(tmp_path, {"10/x.png": 0, "9/y.png": 1}))
    assert images.classes_of([], 11).tolist() == [10, 9]
    with pytest.raises(ImageError, match="there must be 10 folders"):
        images.classes_of([], 10)


def test_images_beside_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"images must be all in the folder or all in its folders, one for each class; b\.png is not"):
        open_image_set(write_folder(tmp_path, {"a/x.png": 0, "b.png": 1}))


@pytest.mark.parametrize("make", ["", "notes.txt", "nowhere"])
def test_what_is_no_set_is_one_sentence(tmp_path: Path, make: str) -> None:
    if make == "notes.txt":
        (tmp_path / make).write_text("no image")
    sentence = {"": "there is no image in this folder", "notes.txt": "a set of images is a folder of images or an .npz"}
    with pytest.raises(ImageError, match=sentence.get(make, "there is no such file or folder")):
        open_image_set(tmp_path / make)


def test_an_npz_may_hold_pixels_or_files(tmp_path: Path) -> None:
    labels = np.array([0, 1, 2, 1, 0], np.uint8)
    pixels = open_image_set(write_npz(tmp_path / "pixels.npz", images=IMAGES, labels=labels))
    files = open_image_set(write_npz(tmp_path / "files.npz", labels=labels, **in_one_array([encoded(image, "PNG") for image in IMAGES])))
    for images in (pixels, files):
        assert len(images) == 5 and images.classes_of([], 3).tolist() == labels.tolist()
        for index in range(5):
            np.testing.assert_array_equal(images.read(index), IMAGES[index])
    assert pixels.sha256 == files.sha256 != pixels.some(4).sha256


def test_grey_pixels_have_three_colours(tmp_path: Path) -> None:
    images = open_image_set(write_npz(tmp_path / "grey.npz", images=IMAGES[..., 0]))
    np.testing.assert_array_equal(images.read(3), np.repeat(IMAGES[3, ..., :1], 3, -1))


def test_masks_and_boxes_belong_to_their_images(tmp_path: Path) -> None:
    masks = np.arange(5 * 12 * 16, dtype=np.uint16).reshape(5, 12, 16).astype(np.uint8)
    boxes = np.array([[0, 0, 4, 4, 1], [2, 2, 8, 8, 0], [1, 1, 3, 3, 2]], np.float32)
    path = write_npz(tmp_path / "dense.npz", images=IMAGES, labels=masks, boxes=boxes, box_image=np.array([3, 0, 3]))
    images = open_image_set(path)
    assert images.labels is None and images.masks is not None and images.boxes is not None
    np.testing.assert_array_equal(images.masks, masks)
    assert [len(each) for each in images.boxes] == [1, 0, 0, 2, 0]
    np.testing.assert_array_equal(images.boxes[3], boxes[[0, 2]])


def test_some_images_are_spread_evenly_with_all_that_is_known(tmp_path: Path) -> None:
    boxes = np.array([[0, 0, 4, 4, 1], [2, 2, 8, 8, 0]], np.float32)
    arrays = {"images": IMAGES, "labels": np.arange(5), "boxes": boxes, "box_image": np.array([0, 2])}
    few = open_image_set(write_npz(tmp_path / "set.npz", **arrays)).some(2)
    assert few.names == ("0", "2") and few.labels is not None and few.labels.tolist() == [0, 2]
    np.testing.assert_array_equal(few.read(1), IMAGES[2])
    assert few.boxes is not None and few.boxes[1][0, 4] == 0
    assert few.some(None) is few and few.some(9) is few
    with pytest.raises(ConfigError, match="at least 1 image must be used; got 0"):
        few.some(0)


def test_batches_have_the_models_size(tmp_path: Path) -> None:
    images = open_image_set(write_npz(tmp_path / "set.npz", images=IMAGES))
    parts = list(images.batches(Preprocessing(6, 8), 2))
    assert [(part.span.start, part.span.stop) for part in parts] == [(0, 2), (2, 4), (4, 5)]
    assert all(part.pixels.shape == (len(part.sizes), 6, 8, 3) for part in parts)
    assert parts[2].sizes.tolist() == [[12, 16]]
    np.testing.assert_array_equal(parts[1].pixels[1], Preprocessing(6, 8).fit(IMAGES[3]))


def test_a_label_beyond_the_models_classes_is_refused(tmp_path: Path) -> None:
    images = open_image_set(write_npz(tmp_path / "set.npz", images=IMAGES, labels=np.array([0, 1, 2, 3, 9])))
    with pytest.raises(ImageError, match="labels must be below 9, the classes of the model; got 9"):
        images.classes_of([], 9)


WRONG = {
    "either `images`, or `data`": {},
    "`images` must be uint8": {"images": IMAGES.astype(np.float32)},
    "`images` must be uint8 .* got uint8": {"images": IMAGES[..., :2]},
    "`offsets` must be whole numbers": {"data": np.zeros(9, np.uint8)},
    "`offsets` must rise": {"data": np.zeros(9, np.uint8), "offsets": np.array([0, 8, 4])},
    "`offsets` must rise within": {"data": np.zeros(9, np.uint8), "offsets": np.array([0, 10])},
    "`labels` must be whole numbers": {"images": IMAGES, "labels": np.zeros(4, int)},
    "labels of pixels must be uint8": {"images": IMAGES, "labels": np.zeros((5, 12, 16), int)},
    "`boxes` must be finite": {"images": IMAGES, "boxes": np.full((1, 5), np.nan), "box_image": np.zeros(1, int)},
    "`box_image` must be whole numbers": {"images": IMAGES, "boxes": np.zeros((2, 5)), "box_image": np.zeros(1, int)},
    "`box_image` must be below 5": {"images": IMAGES, "boxes": np.zeros((1, 5)), "box_image": np.array([5])},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_arrays_that_do_not_fit_together_are_refused(sentence: str) -> None:
    with pytest.raises(ImageError, match=f"set.npz: .*{sentence}"):
        image_set_of("set.npz", WRONG[sentence])


def test_a_damaged_image_in_an_npz_is_named_by_its_number(tmp_path: Path) -> None:
    images = open_image_set(write_npz(tmp_path / "set.npz", **in_one_array([encoded(IMAGES[0], "PNG"), b"no image"])))
    with pytest.raises(ImageError, match=r"set\.npz, image 1: this is not an image"):
        images.read(1)


def npy(array: np.ndarray, header: bytes | None = None) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    data = buffer.getvalue()
    return data if header is None else data[:10] + header.ljust(len(data[10:128]) - 1) + b"\n" + data[128:]


def write_members(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "header, sentence",
    [
        (b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776, 8, 8)}", "needs 70,368,744,177,664 bytes; the file has"),
        (b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8)}", "needs -64 bytes"),
        (b"{'descr': '|O', 'fortran_order': False, 'shape': (5, 8, 8)}", "arrays of images hold numbers"),
        (b"{'descr': '<U9', 'fortran_order': False, 'shape': (5, 8, 8)}", "arrays of images hold numbers"),
        (b"__import__('os').system('true')", "truncated or damaged"),
    ],
)
def test_a_hostile_header_is_refused(tmp_path: Path, header: bytes, sentence: str) -> None:
    path = write_members(tmp_path / "set.npz", {"images.npy": npy(IMAGES, header)})
    with pytest.raises(ImageError, match=sentence):
        open_image_set(path)


def test_every_truncated_npz_is_one_sentence(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "whole.npz", images=IMAGES, labels=np.arange(5)).read_bytes()
    for length in [*range(0, len(data), 97), len(data) - 1]:
        (tmp_path / "set.npz").write_bytes(data[:length])
        with pytest.raises(ImageError, match=r"set\.npz: the \.npz is truncated or damaged"):
            open_image_set(tmp_path / "set.npz")


def test_a_changed_byte_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "whole.npz", images=IMAGES).read_bytes()
    for place in range(0, len(data), 61):
        (tmp_path / "set.npz").write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        try:
            images = open_image_set(tmp_path / "set.npz")
        except ImageError:
            continue
        np.testing.assert_array_equal(np.stack([images.read(index) for index in range(5)]), IMAGES)


def test_a_zip_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_members(tmp_path / "set.npz", {"images.npy": npy(np.zeros((1000, 64, 64), np.uint8))})
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(npz_module, "MAX_BYTES", 1 << 20)
    with pytest.raises(ImageError, match="arrays may have at most"):
        open_image_set(path)


def test_an_array_stored_by_columns_is_read(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "set.npz", images=np.asfortranarray(IMAGES))
    np.testing.assert_array_equal(open_image_set(path).read(2), IMAGES[2])
