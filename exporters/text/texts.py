"""Golden texts, and captions that calibrate 8 bits: short and long, many languages, signs, nothing at all."""

from __future__ import annotations

GOLDEN_TEXTS: tuple[str, ...] = (
    "a photo of a cat",
    "a red bicycle",
    "",
    "!",
    "two people on a beach at sunset, walking towards a small wooden boat",
    "une photo d'un chat noir sur un canapé",
    "Ein Leuchtturm an der Küste, von oben gesehen",
    "una bicicleta roja junto a la pared",
    "uma fotografia aérea da floresta",
    "un piatto di pasta al pomodoro",
    "een hond in de sneeuw",
    "кошка спит на подоконнике",
    "kot śpi na parapecie",
    "červené jablko na stole",
    "μια γάτα στον ήλιο",
    "gölün üzerinde bir tekne",
    "قطة على الأريكة",
    "חתול על הספה",
    "सोफे पर एक बिल्ली",
    "একটি লাল সাইকেল",
    "แมวบนโซฟา",
    "một con mèo trên ghế",
    "沙发上的猫",
    "ソファの上の猫",
    "소파 위의 고양이",
    "🐱 on a 🛋️, it's 21°C &amp; sunny",
    "  WHITE   SPACE\tand\nlines  ",
    "don't, we'll, they've: 1234567890 (50% off!)",
    "nfd: cafe\u0301 and ﬁne print — “quotes”",
    " ".join(f"word{number}" for number in range(100)),
)

CALIBRATION_TEXTS: tuple[str, ...] = (
    *GOLDEN_TEXTS,
    *(
        template.format(thing)
        for thing in ("dog", "city street at night", "satellite image of a harbour", "bowl of fruit", "crowd")
        for template in (
            "a photo of a {}.",
            "a blurry close-up of the {}.",
            "{}",
            "an old painting of many {}",
        )
    ),
    "a man in a blue jacket rides a horse past a stone church while children watch from a bench",
    "screenshot of a web page with a table of prices",
    "microscope image of cells, stained purple and pink",
    "the number 7 on a white background",
)
