"""What a model card says about data: where its pictures and labels come from, and what is done to them."""

from __future__ import annotations

from carpool.client.camera.domains import COUNTRIES, SETTINGS, TIMES, WEATHERS
from carpool.client.camera.pipeline import Pipeline

SOURCES = {
    "procedural": (
        "Drawn by Carpool's own renderer; no picture of a real road, person or car is in it. Each vehicle "
        f"has its own mixture of place ({', '.join(SETTINGS)}), country ({', '.join(COUNTRIES)}), light "
        f"({', '.join(TIMES)}) and weather ({', '.join(WEATHERS)}). Labels are exact, because the renderer "
        "knows what it drew; labels of a real fleet are not."
    ),
    "gtsrb": (
        "German Traffic Sign Recognition Benchmark (Stallkamp et al., Neural Networks 32, 2012): cut-out "
        "signs on German roads, labelled by hand. A fleet would not have such labels for free. No explicit "
        "licence for the pictures is known to us."
    ),
    "udacity": (
        "Drives in Udacity's driving simulator; no picture of a real road is in it. Labels are what the "
        "person at the controls did. Who drove, and under which terms, must be added here."
    ),
    "comma2k19": (
        "comma2k19 (Schafer et al. 2018, arXiv:1812.05752): two cars on one highway in California. Labels "
        "come from the cars' own bus: what was done, not what was right."
    ),
    "npz": (
        "A file of the user's own. What roads it shows, who labelled it and how, and under which terms, is "
        "not recorded here: whoever publishes this model must add it."
    ),
}
SOURCES |= {"imagefolder": SOURCES["npz"], "parquet": SOURCES["npz"]}
OWN = "The user's own reader. What it read, who labelled it, and under which terms must be added here."


def steps(pipeline: Pipeline) -> str:
    """What is done to a picture before the network sees it, in words.

    >>> steps(Pipeline(crop_top=0.4, colour="gray", normalise="picture"))
    'cropped (40% at the top), seen in gray, each normalised by its own mean and deviation'
    """
    sides = [(side, getattr(pipeline, f"crop_{side}")) for side in ("top", "bottom", "left", "right")]
    cut = ", ".join(f"{part:.0%} at the {side}" for side, part in sides if part)
    words = [f"cropped ({cut})"] if cut else []
    words.append(f"seen in {pipeline.colour}")
    if pipeline.normalise == "picture":
        words.append("each normalised by its own mean and deviation")
    else:
        mean, std = (", ".join(f"{one:.3g}" for one in part) for part in (pipeline.mean, pipeline.std))
        where = " of all vehicles' training frames" if pipeline.normalise == "federated" else ""
        words.append(f"normalised a channel by mean {mean} and deviation {std}{where}, on a scale of 0 to 1")
    return ", ".join(words)
