import numpy as np
import pytest
from PIL import Image, ImageCms

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.media import images
from flexavatar_cli.media.images import composite, encode_png, is_photo, read_matte, read_photo, sheet, to_uint8


def test_png_round_trip_is_exact(tmp_path, picture):
    photo = read_photo(images.write_png(tmp_path / "a.png", picture))
    np.testing.assert_allclose(photo.rgb, picture, atol=1e-6)
    assert photo.rgb.dtype == np.float32
    assert (photo.alpha, photo.focal_px, photo.source_size) == (None, None, (64, 48))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, picture, orientation):
    upright = Image.fromarray(to_uint8(picture))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transposition that stores it turned
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    photo = read_photo(tmp_path / "a.png")
    np.testing.assert_allclose(photo.rgb, picture, atol=1e-6)
    assert photo.source_size == (64, 48)


def test_exif_focal_length_in_pixels(tmp_path, picture):
    exif = Image.Exif()
    exif.get_ifd(images.EXIF_IFD)[images.FOCAL_35MM] = 43
    Image.fromarray(to_uint8(picture)).save(tmp_path / "a.jpg", exif=exif)
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.focal_35mm == 43
    assert photo.focal_px == pytest.approx(43 / 43.267 * 80)  # 48 x 64 has the diagonal 80


def test_every_mode_becomes_rgb(tmp_path, picture):
    colour = Image.fromarray(to_uint8(picture))
    grey16 = Image.fromarray((picture[..., 0] * 65535).astype(np.uint16))
    grey, bits = picture @ [0.299, 0.587, 0.114], np.asarray(colour.convert("1"), np.float32)
    cases = {
        "grey": (colour.convert("L"), "png", np.dstack([grey] * 3), 1 / 255),
        "one bit": (colour.convert("1"), "png", np.dstack([bits] * 3), 1e-6),
        "palette": (colour.quantize(256), "png", picture, 0.15),
        "cmyk": (colour.convert("CMYK"), "tif", picture, 0.02),
        "jpeg": (colour, "jpg", picture, 0.2),
        "webp": (colour, "webp", picture, 0.3),
        "bmp": (colour, "bmp", picture, 1e-6),
    }
    for name, (image, suffix, wanted, tolerance) in cases.items():
        image.save(tmp_path / f"a.{suffix}")
        photo = read_photo(tmp_path / f"a.{suffix}")
        assert photo.rgb.shape == (48, 64, 3), name
        assert photo.alpha is None, name
        np.testing.assert_allclose(photo.rgb, wanted, atol=tolerance, err_msg=name)
    grey16.save(tmp_path / "a.png")
    np.testing.assert_allclose(read_photo(tmp_path / "a.png").rgb[..., 1], picture[..., 0], atol=1 / 255)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "P with transparency"])
def test_colour_profiles_are_applied(tmp_path, picture, mode):
    """sRGB with red and blue exchanged: what is stored the wrong way round comes out right."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = srgb.replace(b"rXYZ", b"none").replace(b"bXYZ", b"rXYZ").replace(b"none", b"bXYZ")
    flat = np.round(picture * 3) / 3  # few enough colours for a palette
    image = Image.fromarray(to_uint8(flat[..., ::-1]))
    extras = {"transparency": 0} if mode == "P with transparency" else {}
    image = image.quantize(256) if mode[0] == "P" else image.convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size)) if mode == "RGBA" else None
    image.save(tmp_path / "a.png", icc_profile=profile, **extras)
    np.testing.assert_allclose(read_photo(tmp_path / "a.png").rgb, flat, atol=2 / 255)


def test_the_profile_of_a_grey_picture_with_alpha_is_one_of_greys(tmp_path, picture, monkeypatch):
    seen = []
    monkeypatch.setattr(images, "to_srgb", lambda image: seen.append(image.mode) or image.convert("RGB"))
    Image.fromarray(to_uint8(picture[..., :2]), "LA").save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png")
    assert seen == ["L"]
    np.testing.assert_allclose(photo.rgb[..., 2], picture[..., 0], atol=1e-6)
    np.testing.assert_allclose(photo.alpha, picture[..., 1], atol=1e-6)


def test_alpha_is_kept_and_a_solid_one_is_not(tmp_path, picture):
    alpha = picture[..., 0]
    images.write_png(tmp_path / "a.png", np.dstack([picture, alpha]))
    np.testing.assert_allclose(read_photo(tmp_path / "a.png").alpha, alpha, atol=1e-6)
    images.write_png(tmp_path / "b.png", np.dstack([picture, np.ones_like(alpha)]))
    assert read_photo(tmp_path / "b.png").alpha is None


def test_large_photos_shrink_and_larger_ones_are_refused(tmp_path, monkeypatch, picture):
    path = images.write_png(tmp_path / "a.png", picture)
    monkeypatch.setattr(images, "LONGEST_SIDE", 32)
    photo = read_photo(path)
    assert photo.rgb.shape == (24, 32, 3)
    assert photo.source_size == (64, 48)
    monkeypatch.setattr(images, "LARGEST_PIXELS", 1000)
    with pytest.raises(InputError, match="64 x 48 pixels are over the limit"):
        read_photo(path)


def test_bad_files_are_one_line(tmp_path, picture):
    whole = encode_png(picture)
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no photo")
    cases = {"cut.png": "damaged", "empty.jpg": "empty", "text.jpg": "not a photo", "none.jpg": "No such file"}
    for name, words in cases.items():
        with pytest.raises(InputError, match=words) as caught:
            read_photo(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert is_photo(tmp_path / "cut.png")
    assert not is_photo(tmp_path / "text.jpg")


def test_a_matte_must_fit_its_picture(tmp_path, picture):
    path = images.write_png(tmp_path / "m.png", picture[..., 0])
    np.testing.assert_allclose(read_matte(path, (64, 48)), picture[..., 0], atol=1e-6)
    with pytest.raises(InputError, match="the picture is"):
        read_matte(path, (48, 64))


def test_composite_of_none_and_all(picture):
    np.testing.assert_array_equal(composite(picture, np.zeros((48, 64))), np.ones_like(picture))
    np.testing.assert_array_equal(composite(picture, np.ones((48, 64)), (0, 1, 0)), picture)


def test_sheet_holds_every_picture(picture):
    page = sheet([[picture, picture[..., 0]], [picture]], ["colour", "grey"], side=64)
    assert page.shape == (20 + 128, 128, 3)
    np.testing.assert_allclose(page[20 + 8 : 20 + 56, :64], picture, atol=1 / 255)
    assert (page[84:, 64:] == 1).all()


def test_to_uint8_rounds_clips_and_has_an_answer_for_nan():
    values = np.array([-1, 0, 0.5 / 255, 0.49 / 255, 1, 7, np.inf, -np.inf, np.nan], np.float32)
    assert to_uint8(values).tolist() == [0, 0, 1, 0, 255, 255, 255, 0, 0]
