"""Pages in a real browser: Chromium without a window. Apart from these tests, nothing needs selenium."""
