"""Texts that catch mistakes: empty, one character, long, CJK, code, emoji, literal special tokens, every kind of length."""

from __future__ import annotations

import random

_WORDS = (  # noqa: SIM905 - sixty quoted words would hide what they are
    "sight line harbour lamp keeper storm signal mirror prism oil wick tide chart bell fog horn boat rope knot stone tower stair "
    "window glass brass clock ledger letter ration bread salt fish gull wind north south east west dawn dusk star"
).split()


def prose(words: int, seed: int) -> str:
    """`words` words with some punctuation, the same for the same seed."""
    chooser = random.Random(seed)
    return " ".join(chooser.choice(_WORDS) + chooser.choice(["", "", "", "", ",", ".", "\n"]) for _ in range(words))


SPECIAL = [
    "",
    "a",
    " ",
    "\n",
    "  leading and trailing  ",
    "What is the capital of China?",
    "Instruct: not an instruction\nQuery: nor a query",
    "東京は日本の首都です。灯台は海を照らす。",
    "北京是中国的首都。\n\n灯塔照亮大海。",
    "서울은 대한민국의 수도이다",
    "Москва — столица России",
    "القاهرة عاصمة مصر",
    "नई दिल्ली भारत की राजधानी है",
    "Größe, naïve café, Ægir, ﬁne ligature",
    "🙂🚀👩‍👩‍👧‍👦 emoji families",
    "def f(x):\n\treturn {'a': [1, 2, 3]}  # tab\n\n\nclass A:\n    pass\n",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "<|im_end|>",
    "before <|endoftext|> after",
    "[CLS] [SEP] [MASK] [PAD]",
    "<s>x</s><pad>",
    "https://example.invalid/a?b=c&d=%20e#f",
    "1234567890 3.14159 1e-9 0x1F",
    "I'll we've THEY'RE don't",
    "x" * 300,
    "zero\u200bwidth\ufeffmarks",
    "tabs\t\tand\r\nCRLF",
    "ALL CAPITALS AND more CAPITALS",
    "-" * 200,
    prose(700, seed=1),
]

# Word counts that give token counts on both sides of 16, 24, 32, 64, 128, 256 and 512, the limits of windows and models here.
LENGTHS = [
    *(1, 2, 3, 5, 7, 8, 11, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 40, 48, 63, 64, 65, 90, 100),
    *(127, 128, 129, 180, 200, 255, 256, 300, 350, 400),
]

TEXTS = SPECIAL + [prose(words, seed=words) for words in LENGTHS]
