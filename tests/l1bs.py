"""L1B products that never were: laid out as ESA's, and a scene with its truth."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from s2sr_xr.core.bands import BANDS, by_resolution
from s2sr_xr.simulate.country import landscape
from s2sr_xr.simulate.observation import MARGIN, observe, top_of_atmosphere

BANDS_10M = by_resolution(10)
PRODUCT = "S2A_MSIL1B_20250104T133231_N0511_R081_20250104T154231.SAFE"
STEM = "L1B_GR_SIMU_20250104T154231_S20250104T133231"
PSD = "https://psd-15.sentinel2.eo.esa.int/PSD"

PRODUCT_XML = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-1B_User_Product xmlns:n1="{psd}/User_Product_Level-1B.xsd">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>2025-01-04T13:32:31.024Z</PRODUCT_START_TIME>
      <PROCESSING_LEVEL>Level-1B</PROCESSING_LEVEL>
      <PROCESSING_BASELINE>05.11</PROCESSING_BASELINE>
      <Datatake datatakeIdentifier="GS2A_20250104T133231_049806_N05.11">
        <SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME>
      </Datatake>
    </Product_Info>
    <Product_Image_Characteristics>
      <Special_Values>
        <SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT>
        <SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX>
      </Special_Values>
      <Special_Values>
        <SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT>
        <SPECIAL_VALUE_INDEX>4095</SPECIAL_VALUE_INDEX>
      </Special_Values>
    </Product_Image_Characteristics>
  </n1:General_Info>
</n1:Level-1B_User_Product>
"""

GRANULE_XML = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-1B_Granule_ID xmlns:n1="{psd}/S2_PDI_Level-1B_Granule_Metadata.xsd">
  <n1:General_Info>
    <GRANULE_ID>{name}</GRANULE_ID>
    <DETECTOR_ID>{detector:02}</DETECTOR_ID>
    <SENSING_TIME>2025-01-04T13:32:31.024Z</SENSING_TIME>
  </n1:General_Info>
  <n1:Geometric_Info>
    <Granule_Footprint>
      <Granule_Footprint>
        <Footprint>
          <EXT_POS_LIST>{ring}</EXT_POS_LIST>
        </Footprint>
      </Granule_Footprint>
      <RASTER_CS_TYPE>POINT</RASTER_CS_TYPE>
      <PIXEL_ORIGIN>1</PIXEL_ORIGIN>
    </Granule_Footprint>
    <Granule_Position><POSITION>{position}</POSITION></Granule_Position>
    <Granule_Dimensions>
      <Size resolution="10"><NROWS>{rows}</NROWS><NCOLS>{cols}</NCOLS></Size>
      <Size resolution="20"><NROWS>{rows2}</NROWS><NCOLS>{cols2}</NCOLS></Size>
    </Granule_Dimensions>
  </n1:Geometric_Info>
</n1:Level-1B_Granule_ID>
"""


def write_image(path, counts, **more):
    """Write counts as ESA does: lossless, without a place on the map."""
    driver = {".jp2": "JP2OpenJPEG", ".tif": "GTiff"}[path.suffix]
    lossless = {"QUALITY": "100", "REVERSIBLE": "YES"} if path.suffix == ".jp2" else {}
    stack = counts if counts.ndim == 3 else counts[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    names = more.pop("descriptions", ())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver=driver,
            count=stack.shape[0],
            height=stack.shape[1],
            width=stack.shape[2],
            dtype=stack.dtype,
            **lossless,
            **more,
        ) as dataset:
            dataset.write(stack)
            for i, name in enumerate(names, start=1):
                dataset.set_band_description(i, name)
    return path


def write_granule(root, detector, position, images, *, corners=(), shape=None):
    """Write one granule of a product and return its folder.

    `images` are counts by band; `corners` latitude and longitude of four corners, from
    the first line's left one down and around; `shape` what the metadata say.
    """
    name = f"S2A_OPER_MSI_{STEM}{position:05}_D{detector:02}_N05.11"
    folder = Path(root) / "GRANULE" / name
    stem = name.removesuffix("_N05.11")
    rows, cols = shape or next(iter(images.values())).shape
    ring = " ".join(f"{a:.9f} {b:.9f} 12.5" for a, b in (*corners, *corners[:1]))
    folder.mkdir(parents=True)
    (folder / f"{stem.replace('MSI', 'MTD', 1)}.xml").write_text(
        GRANULE_XML.format(
            psd=PSD,
            name=name,
            detector=detector,
            position=position,
            ring=ring,
            rows=rows,
            cols=cols,
            rows2=rows // 2,
            cols2=cols // 2,
        )
    )
    for band, counts in images.items():
        write_image(folder / "IMG_DATA" / f"{stem}_{band}.jp2", counts)
    return folder


def write_product(root, granules):
    """Write a product of granules, each ``(detector, position, images)``."""
    folder = Path(root) / PRODUCT
    folder.mkdir(parents=True, exist_ok=True)
    xml = folder / "S2A_OPER_MTD_SAFL1B_SIMU_20250104T154231_R081.xml"
    xml.write_text(PRODUCT_XML.format(psd=PSD))
    for granule in granules:
        write_granule(folder, *granule)
    return folder


@dataclass(frozen=True)
class Scene:
    """A simulated product, and what is true of it."""

    path: Path
    shifts: dict  # band: lines and samples to move it, to lie on green
    offset: tuple  # lines and samples to add, from detector 5 to 6; fractions too
    shared: tuple  # lines and samples that both saw


# Fractions are away from a half: the nearest whole pixel is no matter of chance.
SHIFTS = {"B02": (-0.9, 1.2), "B03": (0, 0), "B04": (1.1, 1.8), "B08": (0.2, -1.3)}
PARALLAX = (0.3, -0.2)


def simulate_l1b(path, *, size=(288, 192), seed=0, corner_error=(0.0, 0.0)):
    """Write a country as two neighbouring detectors see it, two granules each.

    `size` is lines (even) and samples of a detector. A third of the samples are shared.
    Bands lie `SHIFTS` from green, in pixels, fractions too; detector 6 begins five
    lines further down and sees everything `PARALLAX` further. Counts have the noise and
    the 12 bits of real ones. `corner_error` is what the corners in the metadata of
    detector 6 are wrong by, in pixels.
    """
    lines, samples = size
    step = samples - samples // 3
    reach = 4  # pixels around what either detector sees, for shifts
    n = max(lines + 5, samples + step) + 2 * reach
    rng = np.random.default_rng(seed)
    world = landscape(2 * n + 2 * MARGIN, rng)
    places = {5: (0.0, 0.0), 6: (5 + PARALLAX[0], step + PARALLAX[1])}
    first = {5: 2304, 6: 0}
    noise = np.random.default_rng([seed, 1])
    counts = {d: {} for d in places}
    for band in BANDS_10M:
        radiance = top_of_atmosphere(world, band)
        for detector, place in places.items():
            at = [p + s + reach for p, s in zip(place, SHIFTS[band], strict=True)]
            seen = observe(_window(radiance, at, size), BANDS[band].mtf, pixel=10)
            exact = 40 + 3500 * seen
            exact = exact + noise.normal(size=size) * np.sqrt(1 + exact / 100)
            counts[detector][band] = np.clip(np.rint(exact), 1, 4095).astype("u2")
    folder = write_product(path, [])
    half = lines // 2
    for detector, images in counts.items():
        for k in range(2):
            part = {b: c[k * half : (k + 1) * half] for b, c in images.items()}
            top, left = places[detector]
            error = corner_error if detector == 6 else (0, 0)
            corners = _ground(top + k * half + error[0], left + error[1], half, samples)
            position = first[detector] + 1 + k * half
            write_granule(folder, detector, position, part, corners=corners)
    offset = tuple(
        before - after + start
        for before, after, start in zip(
            places[5], places[6], (first[6] - first[5], 0), strict=True
        )
    )
    shared = (lines - 5, samples // 3)
    return Scene(path=folder, shifts=dict(SHIFTS), offset=offset, shared=shared)


def _window(radiance, at, size):
    """Return samples of five metres from `at` on, in ten-metre pixels, with margins."""
    for axis, (start, n) in enumerate(zip(at, size, strict=True)):
        whole, part = divmod(2 * start, 1)
        low = np.arange(2 * n + 2 * MARGIN) + int(whole)
        a, b = (np.take(radiance, low + k, axis=axis) for k in (0, 1))
        radiance = ((1 - part) * a + part * b).astype(np.float32)
    return radiance


def _ground(top, left, lines, samples):
    """Return latitude and longitude of the corners of a part of the world."""
    spots = ((0, 0), (lines, 0), (lines, samples), (0, samples))
    degree = 11119.49  # ten-metre pixels
    return [
        (45 - (top + i) / degree, 10 + (left + j) / degree / np.cos(np.radians(45)))
        for i, j in spots
    ]
