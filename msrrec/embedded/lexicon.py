"""The words of the embedded world: product types by category, and the parts of titles.

The backbone's pretraining uses the same words for its titles, as real language models also know the
products that they recommend. It never sees a user, a purchase or a preference.
"""

import random

_CATEGORIES = """
Kitchen: kettle, frying pan, chef knife, cutting board, toaster, mixing bowl, rice cooker,
  peeler
Garden: pruning shears, watering can, garden hose, plant pot, rake, wheelbarrow, seed tray,
  trowel
Audio: headphones, turntable, loudspeaker, soundbar, microphone, earbuds, amplifier, record
  cleaner
Cycling: bike helmet, pedal set, bike lock, saddle, tire pump, chain oil, handlebar tape, bike
  light
Camping: tent, sleeping bag, camp stove, headlamp, hammock, water filter, trekking pole, cooler
  box
Office: stapler, desk lamp, notebook, fountain pen, file folder, label maker, whiteboard, paper
  tray
Baby: stroller, crib sheet, pacifier, baby monitor, diaper bag, high chair, teether, bottle
  warmer
Pets: dog leash, cat tree, pet bed, litter box, bird feeder, chew toy, fish tank, grooming brush
Photo: tripod, camera lens, lens filter, photo printer, camera strap, light box, memory card,
  gimbal
Toys: puzzle, board game, toy train, doll house, building blocks, kite, plush bear, marble run
Tools: cordless drill, hammer, socket set, tape measure, hand saw, screwdriver, spirit level,
  pliers
Beauty: lip balm, face cream, nail polish, hair dryer, perfume, mascara, shampoo, makeup mirror
Fitness: yoga mat, dumbbell, jump rope, kettlebell, foam roller, pull-up bar, treadmill, ankle
  weight
Music: guitar, violin bow, drum sticks, ukulele, metronome, sheet stand, harmonica, piano bench
Computing: keyboard, laptop stand, usb hub, webcam, router, hard drive, mouse pad, monitor arm
Sewing: sewing machine, thread set, fabric scissors, knitting needles, yarn, thimble, pin
  cushion, zipper
Fishing: fishing rod, tackle box, reel, landing net, lure set, wading boots, bait bucket, float
Cleaning: vacuum cleaner, mop, dish soap, sponge, broom, laundry basket, window squeegee, duster
Travel: suitcase, neck pillow, passport holder, packing cube, luggage tag, travel adapter,
  backpack, eye mask
Coffee: espresso machine, coffee grinder, french press, milk frother, coffee filter, tea pot,
  moka pot, travel mug
"""

CATEGORIES: dict[str, tuple[str, ...]] = {
    name: tuple(" ".join(noun.split()) for noun in nouns.split(","))
    for name, nouns in (
        line.split(":") for line in _CATEGORIES.replace("\n  ", " ").strip().splitlines()
    )
}
"""Product types by category; no product type belongs to two categories."""

QUALITIES = tuple(
    [
        "compact",
        "classic",
        "deluxe",
        "foldable",
        "heavy-duty",
        "lightweight",
        "premium",
        "portable",
        "adjustable",
        "slim",
        "professional",
        "vintage",
        "eco",
        "quiet",
        "smart",
        "waterproof",
        "mini",
        "large",
        "everyday",
        "original",
    ]
)
COLOURS = tuple(
    ["black", "white", "red", "blue", "green", "grey", "silver", "orange", "teal", "yellow"]
)
_ONSETS = [
    "b",
    "br",
    "c",
    "d",
    "dr",
    "f",
    "g",
    "gl",
    "h",
    "j",
    "k",
    "kr",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "qu",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u", "ea", "io"]
_CODAS = ["l", "n", "r", "s", "x", "k", "m", "th", "nd", "rt"]


def make_brand(rng: random.Random) -> str:
    """A made-up brand of two syllables, such as ``Drelnox``."""
    syllables = [
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS if last else ["", "", "n"])
        for last in (False, True)
    ]
    return "".join(syllables).capitalize()


def make_title(rng: random.Random, brand: str, product: str) -> str:
    """A product title around its brand and type, such as ``Drelnox Compact Kettle, Red``."""
    words = [brand]
    if rng.random() < 0.7:
        words.append(rng.choice(QUALITIES).title())
    words.append(product.title())
    tail = rng.random()
    if tail < 0.3:
        return " ".join(words) + f", {rng.choice(COLOURS).title()}"
    if tail < 0.5:
        return " ".join(words) + f" {rng.randint(2, 99) * 10}"
    return " ".join(words)
