"""Slides as other programs write them, of a picture that the tests have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from coin_ray.data.synthetic import generate_tile

Image8 = NDArray[np.uint8]


def tissue(height: int, width: int, *, seed: int = 3) -> Image8:
    """(height, width, 3): tissue everywhere, one stain."""
    size = max(height, width)
    return generate_tile(seed, size, diameter=22, crowding=0.5)[0][:height, :width]


def halved(image: Image8) -> Image8:
    h, w = (n // 2 * 2 for n in image.shape[:2])
    small = image[:h, :w].reshape(h // 2, 2, w // 2, 2, 3).mean(axis=(1, 3))
    return np.rint(small).astype(np.uint8)


def write_ome_tiff(path: Path, image: Image8, mpp: float | None = 0.25, levels: int = 3) -> None:
    metadata = {"axes": "YXS"}
    if mpp is not None:
        metadata |= {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp}  # type: ignore[dict-item]
    with tifffile.TiffWriter(path, ome=True) as tif:
        options = {"photometric": "rgb", "tile": (256, 256), "compression": "zlib"}
        tif.write(image, subifds=levels - 1, metadata=metadata, **options)
        for _ in range(levels - 1):
            image = halved(image)
            tif.write(image, subfiletype=1, metadata=None, **options)


def write_pyramid(path: Path, image: Image8, mpp: float | None = 0.25, levels: int = 3) -> None:
    """Reduced pages one after another, as vips and Aperio do."""
    stated = {"resolution": (10_000 / mpp,) * 2, "resolutionunit": "CENTIMETER"} if mpp else {}
    with tifffile.TiffWriter(path) as tif:
        for level in range(levels):
            tif.write(
                image,
                subfiletype=1 if level else 0,
                photometric="rgb",
                tile=(256, 256),
                compression="deflate",
                metadata=None,
                **stated,
            )
            image, stated = halved(image), {}


def write_svs(path: Path, image: Image8, mpp: float | None = 0.25) -> None:
    """As Aperio's scanners do."""
    resolution = f"|MPP = {mpp:g}" if mpp else ""
    height, width = image.shape[:2]
    with tifffile.TiffWriter(path) as tif:
        for level in range(2):
            tif.write(
                image,
                photometric="rgb",
                tile=(240, 240),
                compression="jpeg",
                compressionargs={"level": 95},
                metadata=None,
                description=f"Aperio Image Library v11.2.1\r\n{width}x{height} "
                f"(240x240) JPEG/RGB Q=95|AppMag = 40{resolution}",
            )
            if level == 0:  # the thumbnail, which the format has at this place
                tif.write(image[:64, :64], photometric="rgb", metadata=None, description="Aperio")
            image = halved(image)


def write_large(path: Path, side: int, tissues: list[tuple[int, int]], image: Image8) -> None:
    """A pyramid of ``side`` px of glass with ``image`` at the given corners (y, x), multiples of
    512, never whole in memory."""
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for level, factor in enumerate((1, 4, 16)):
            small = image
            for _ in range(level * 2):
                small = halved(small)
            size = side // factor
            tif.write(
                _squares(size, [(y // factor, x // factor) for y, x in tissues], small),
                shape=(size, size, 3),
                dtype=np.uint8,
                subfiletype=1 if level else 0,
                photometric="rgb",
                tile=(512, 512),
                compression="deflate",
                metadata=None,
                resolution=(40_000, 40_000),
                resolutionunit="CENTIMETER",
            )


def _squares(size: int, corners: list[tuple[int, int]], image: Image8) -> Iterator[Image8]:
    height, width = image.shape[:2]
    for y in range(0, size, 512):
        for x in range(0, size, 512):
            square = np.full((512, 512, 3), 243, dtype=np.uint8)
            for top, left in corners:
                rows = slice(max(y, top), min(y + 512, top + height))
                columns = slice(max(x, left), min(x + 512, left + width))
                if rows.start < rows.stop and columns.start < columns.stop:
                    square[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x] = (
                        image[
                            rows.start - top : rows.stop - top,
                            columns.start - left : columns.stop - left,
                        ]
                    )
            yield square


def write_dicom(path: Path, image: Image8, mpp: float = 0.25) -> None:
    """A level of a DICOM whole slide: tiles of 256 px, JPEG, in raster order."""
    import imagecodecs
    import pydicom
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

    def item(**values: object) -> Dataset:
        made = Dataset()
        for name, value in values.items():
            setattr(made, name, value)
        return made

    height, width = image.shape[:2]
    rows, columns = -(-height // 256), -(-width // 256)
    full = np.full((rows * 256, columns * 256, 3), 255, dtype=np.uint8)
    full[:height, :width] = image
    frames = [
        imagecodecs.jpeg8_encode(full[y : y + 256, x : x + 256], level=95)
        for y in range(0, rows * 256, 256)
        for x in range(0, columns * 256, 256)
    ]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    measures = item(PixelSpacing=[mpp / 1000, mpp / 1000], SliceThickness=0.001)
    kind = item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    values = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        **{f"{n}InstanceUID": generate_uid() for n in ("Study", "Series")},
        "FrameOfReferenceUID": generate_uid(),
        "Modality": "SM",
        **dict.fromkeys(("PatientID", "PatientName", "StudyDate", "StudyTime", "StudyID"), ""),
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "YBR_FULL_422",
        "PlanarConfiguration": 0,
        "Rows": 256,
        "Columns": 256,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "LossyImageCompression": "01",
        "NumberOfFrames": len(frames),
        "TotalPixelMatrixColumns": width,
        "TotalPixelMatrixRows": height,
        "TotalPixelMatrixFocalPlanes": 1,
        "ImagedVolumeWidth": width * mpp / 1000,
        "ImagedVolumeHeight": height * mpp / 1000,
        "ImagedVolumeDepth": 0.001,
        "DimensionOrganizationType": "TILED_FULL",
        "FocusMethod": "AUTO",
        "ExtendedDepthOfField": "NO",
        "SpecimenLabelInImage": "NO",
        "BurnedInAnnotation": "NO",
        "VolumetricProperties": "VOLUME",
        "ImageOrientationSlide": [0, -1, 0, -1, 0, 0],
        "TotalPixelMatrixOriginSequence": [
            item(XOffsetInSlideCoordinateSystem=0, YOffsetInSlideCoordinateSystem=0)
        ],
        "OpticalPathSequence": [item(OpticalPathIdentifier="0", IlluminationColorCodeSequence=[])],
        "NumberOfOpticalPaths": 1,
        "ContainerIdentifier": "1",
        "SharedFunctionalGroupsSequence": [
            item(
                PixelMeasuresSequence=[measures], WholeSlideMicroscopyImageFrameTypeSequence=[kind]
            )
        ],
        "PixelData": encapsulate(frames),
    }
    for name, value in values.items():
        setattr(file, name, value)
    file["PixelData"].is_undefined_length = True
    pydicom.dcmwrite(path, file, enforce_file_format=True)
