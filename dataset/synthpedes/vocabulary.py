"""The words with which captions tell attributes, the frequent ones several times."""

SUBJECTS: dict[tuple[str, str], dict[str, float]] = {
    ("male", "adult"): {"man": 8, "young man": 3, "guy": 1, "male": 1, "gentleman": 0.5},
    ("male", "elderly"): {"elderly man": 3, "old man": 3, "older man": 2, "older gentleman": 1},
    ("male", "child"): {"boy": 3, "little boy": 3, "young boy": 3},
    ("female", "adult"): {"woman": 8, "young woman": 3, "lady": 3, "female": 1},
    ("female", "elderly"): {"elderly woman": 3, "old woman": 2, "older woman": 2, "elderly lady": 2},
    ("female", "child"): {"girl": 3, "little girl": 3, "young girl": 3},
}
COLOURS = {
    "navy": ["navy blue", "dark blue", "navy"],
    "light blue": ["light blue", "light blue", "pale blue", "sky blue"],
    "beige": ["beige", "tan", "khaki", "cream"],
    "purple": ["purple", "purple", "violet"],
}
HAIR_COLOURS = {"black": ["black", "dark"], "red": ["red", "ginger"], "blonde": ["blonde", "blond"]}
NOUNS = {
    "t-shirt": ["t-shirt", "t-shirt", "tee shirt", "T-shirt"],
    "shirt": ["shirt", "button-down shirt", "collared shirt"],
    "sweater": ["sweater", "sweater", "jumper", "pullover"],
    "hoodie": ["hoodie", "hoodie", "hooded sweatshirt"],
    "jacket": ["jacket"],
    "coat": ["coat", "overcoat"],
    "vest": ["vest", "padded vest", "sleeveless jacket"],
    "tank top": ["tank top", "sleeveless top"],
    "dress": ["dress"],
    "jeans": ["jeans", "jeans", "denim jeans"],
    "trousers": ["trousers", "pants", "pants", "slacks"],
    "leggings": ["leggings", "tights"],
    "shorts": ["shorts"],
    "sneakers": ["sneakers", "sneakers", "trainers", "sports shoes", "running shoes", "tennis shoes"],
    "leather shoes": ["leather shoes", "dress shoes", "shoes"],
    "boots": ["boots", "boots", "ankle-high boots"],
    "sandals": ["sandals"],
    "high heels": ["high heels", "heels", "high-heeled shoes"],
    "cap": ["cap", "baseball cap"],
    "beanie": ["beanie", "knitted hat", "woolly hat"],
    "sun hat": ["sun hat", "wide-brimmed hat", "hat"],
    "backpack": ["backpack", "backpack", "rucksack"],
    "handbag": ["handbag", "handbag", "purse"],
    "shoulder bag": ["shoulder bag", "crossbody bag", "messenger bag"],
    "phone": ["phone", "cell phone", "mobile phone"],
    "bottle": ["bottle", "water bottle", "bottle of water"],
    "umbrella": ["umbrella"],
    "shopping bag": ["shopping bag", "carrier bag"],
    "suitcase": ["suitcase", "rolling suitcase"],
    "book": ["book"],
    "glasses": ["glasses", "eyeglasses"],
    "sunglasses": ["sunglasses", "dark sunglasses"],
}
SLEEVES = {"long": ["long-sleeved"], "short": ["short-sleeved"], "none": ["sleeveless"]}
PATTERN_ADJECTIVES = {
    "striped": ["striped"],
    "checked": ["checked", "checkered", "plaid"],
    "dotted": ["polka dot", "dotted"],
}
PATTERN_NOUNS = {
    "striped": ["stripes", "horizontal stripes"],
    "checked": ["checks"],
    "dotted": ["dots", "polka dots"],
}
BLOUSE = "blouse"  # of women half of the shirts are called so


def words_of(attribute: str, value: str) -> list[str]:
    """All words that may stand for an attribute's value, some several times. Values that nobody tells have none."""
    if attribute == "hair_colour":
        return HAIR_COLOURS.get(value, [value])
    if attribute.endswith("_colour"):
        return COLOURS.get(value, [value])
    if attribute == "pattern":
        return PATTERN_ADJECTIVES.get(value, []) + PATTERN_NOUNS.get(value, [])
    if attribute == "sleeves":
        return SLEEVES[value]
    if value == "shirt":
        return [*NOUNS[value], BLOUSE]
    special = {"bald": ["bald head"], "skirt": ["short", "skirt"], "long skirt": ["long", "skirt"]}
    return NOUNS.get(value) or special.get(value, [value])
