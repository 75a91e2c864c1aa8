"""The films of a run side by side, as a GIF: python benchmark/film.py FOLDER NEW.gif --steps 0 10240 100096

A run with --capture-video leaves an episode's film in videos/<step>/ at every checkpoint. Each of these steps
becomes a panel; a film that is over keeps its last frame.
"""
import argparse
from pathlib import Path

import moviepy
from PIL import Image, ImageDraw


def panel(folder: Path, step: int, frames: int, every: int, size: int) -> list[Image.Image]:
    """Every `every`-th frame of the film at this step, with the step written on it: `frames` of them."""
    (film,) = (folder / "videos" / str(step)).glob("*.mp4")
    with moviepy.VideoFileClip(str(film)) as clip:
        images = [Image.fromarray(frame).resize((size, size)) for i, frame in enumerate(clip.iter_frames())
                  if i % every == 0 and i < frames * every]
    for image in images:
        ImageDraw.Draw(image).text((6, 4), f"{step:,} transitions", fill="white", font_size=12)
    return images + images[-1:] * (frames - len(images))


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("folder", type=Path, help="of the run")
    parser.add_argument("gif", type=Path, help="the file to write")
    parser.add_argument("--steps", type=int, nargs="+", required=True, help="of the films, a panel each")
    parser.add_argument("--frames", type=int, default=60, help="in the GIF")
    parser.add_argument("--every", type=int, default=2, help="frames of the film to one of the GIF")
    parser.add_argument("--size", type=int, default=180, help="pixels of a panel, in width and height")
    options = parser.parse_args()
    panels = [panel(options.folder, step, options.frames, options.every, options.size)
              for step in options.steps]
    strip = []
    for images in zip(*panels, strict=True):
        whole = Image.new("RGB", (options.size * len(images), options.size), "white")
        for i, image in enumerate(images):
            whole.paste(image, (options.size * i, 0))
        strip.append(whole.quantize(32))
    options.gif.parent.mkdir(parents=True, exist_ok=True)
    strip[0].save(options.gif, save_all=True, append_images=strip[1:], duration=50, loop=0)
    print(f"{options.gif}: {len(strip)} frames, {options.gif.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
