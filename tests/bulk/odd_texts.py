"""Codes and ids that look like patterns or like other keys, and other unusual texts."""

from __future__ import annotations

ODD_TEXTS = [
    *(" leading", "trailing ", "two  spaces", "line\nbreak", "tab\t", "nul\0byte"),
    *("{", "}", "{}", "{A}", "A}", "}{", "{A}{B}", "A}:redemption:1", "x}"),
    *("%", "%7B", "%7D", "%25", "%257B", "%%", "100%"),
    *("*", "?", "[a-z]", "[^a]", "\\", "\\*", "a-b", "^", "]"),
    *("ÄÖÜ", "礼品卡", "🎁", "e\u0301", "\u00e9", "\u2028x"),
    *(
        ":",
        "A:locks",
        "A:redemption:1",
        ":redemption:",
        ":redemption:x",
        "A:session:s",
        "partition",
        "probe",
        "-",
        "?,!",
    ),
    *("a", "A", "AA", "aa", "x" * 256, "礼" * 256),
]
